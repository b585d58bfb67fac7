"""A process that Ray killed because its node ran out of memory, told in one line. No torch, no Ray."""

import re
from typing import Self

_IN_USE = re.compile(r"was ([\d.]+) ?GB(?: used)? / ([\d.]+) ?GB")
_LARGEST = re.compile(r"MEM\(GB\)\s+COMMAND\s*\n\s*\d+\s+([\d.]+)\s+(\S.*)")


class NodeOutOfMemoryError(MemoryError):
    """A process was killed because its node ran out of memory, whoever had filled it. Its message is one line."""

    @classmethod
    def told_by(cls, words: str) -> Self:
        """Returns the error that Ray's own forty lines stand for; they go along as a note, for logs."""
        error = cls(f"out of memory on the node: {_facts(words)}")
        error.add_note(words.strip())
        return error


def _facts(words: str) -> str:
    """Returns how much of the node's memory was in use and who held most; where Ray words it otherwise, its start."""
    in_use, largest = _IN_USE.search(words), _LARGEST.search(words)
    if in_use is None:
        return next((line.strip() for line in words.splitlines() if line.strip()), "no word of how much was in use")
    facts = f"{float(in_use[1]):.1f} of {float(in_use[2]):.1f} GB in use"
    if largest is None:
        return facts
    return f"{facts}, largest process {float(largest[1]):.1f} GB: {largest[2].strip()}"
