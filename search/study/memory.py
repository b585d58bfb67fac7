"""The error for a process that Ray killed because its node ran out of memory. No torch, no Ray."""

import re
from typing import Self

_IN_USE = re.compile(r"was ([\d.]+) ?GB(?: used)? / ([\d.]+) ?GB")
_LARGEST = re.compile(r"MEM\(GB\)\s+COMMAND\s*\n\s*\d+\s+([\d.]+)\s+(\S.*)")


class NodeOutOfMemoryError(MemoryError):
    """A process was killed because its node ran out of memory, whichever process had filled it."""

    @classmethod
    def from_ray(cls, words: str) -> Self:
        """Returns the error for a message of Ray. Its own message is one line; Ray's forty lines become a note."""
        error = cls(f"out of memory on the node: {_facts(words)}")
        error.add_note(words.strip())
        return error


def _facts(words: str) -> str:
    """Returns the node's memory in use and its largest process, or the first line of a message of another form."""
    in_use, largest = _IN_USE.search(words), _LARGEST.search(words)
    if in_use is None:
        return next(
            (line.strip() for line in words.splitlines() if line.strip()), "Ray does not say how much was in use"
        )
    facts = f"{float(in_use[1]):.1f} of {float(in_use[2]):.1f} GB in use"
    if largest is None:
        return facts
    return f"{facts}, largest process {float(largest[1]):.1f} GB: {largest[2].strip()}"
