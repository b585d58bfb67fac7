"""Finds the text files of a folder. Links to files and folders are followed."""

from collections.abc import Iterator
from pathlib import Path

from minilm_core.errors import UserError

TEXT_FORMATS = (".txt", ".jsonl", ".json", ".parquet")
COMPRESSIONS = (".zst", ".gz", ".bz2", ".lz4")


def file_format(path: Path) -> str:
    """Returns a file's extension with its dot, without the extension of a compression."""
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def find_text_files(path: Path) -> tuple[Path, ...]:
    """Returns the path itself if it is a text file, or all text files below a folder, in order of name.

    A folder is read once, however many links lead to it. A link to a folder that contains the link is not followed.

    Raises:
        UserError: if there is no file of a known format, a folder cannot be read, or a link is broken.
    """
    candidates = sorted(_files_below(path)) if path.is_dir() else [path]
    known = tuple(file for file in candidates if file_format(file) in TEXT_FORMATS)
    for file in known:
        if not file.is_file():
            raise UserError(f"a corpus must have files that can be read, got the broken link {file}")
    if not known:
        raise UserError(
            f"a corpus must have files ending in {', '.join(TEXT_FORMATS)}, text compressed or not, got {path}"
        )
    return known


def _files_below(folder: Path) -> Iterator[Path]:
    # Folders are read before links, so that a folder with links to it keeps its own name in the order of files.
    folders, links, seen = [folder], list[Path](), set[Path]()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        real = current.resolve()
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(current):
            if not entry.is_dir():
                # Devices and pipes are skipped, because they may have no end.
                yield from [entry] if entry.is_file() or entry.is_symlink() else []
            elif not entry.is_symlink():
                folders.append(entry)
            elif not real.is_relative_to(entry.resolve()):
                links.append(entry)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"a corpus folder must be readable, got {folder} ({error.strerror})") from error
