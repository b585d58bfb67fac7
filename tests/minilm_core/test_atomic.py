"""Tests of files and folders that are either complete or absent."""

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from minilm_core.atomic import atomic_folder, is_scratch, write_text_atomically

FORK = multiprocessing.get_context("fork")
CONTENTS = {letter: letter * 200_000 for letter in "ab"}


def write_until(path: Path, is_over: Event) -> None:
    while not is_over.is_set():
        for content in CONTENTS.values():
            write_text_atomically(path, content)


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text_atomically(path, CONTENTS["a"])
    is_over = FORK.Event()
    writers = [FORK.Process(target=write_until, args=(path, is_over)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = {path.read_text(encoding="utf-8") for _ in range(300)}
    is_over.set()
    for writer in writers:
        writer.join()
    assert seen <= set(CONTENTS.values())
    assert [child.name for child in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text_atomically(path, "long " * 100)
    write_text_atomically(path, "short")
    assert path.read_text(encoding="utf-8") == "short"


def test_a_text_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text_atomically(path, "ä → 中\r\nb\n")
    assert path.read_bytes() == "ä → 中\r\nb\n".encode()


def test_the_folders_above_a_file_are_made(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a" / "b" / "file.txt", "text")
    assert (tmp_path / "a" / "b" / "file.txt").is_file()


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "a lone surrogate \ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_once_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "folder"
    with atomic_folder(folder) as scratch:
        (scratch / "deep").mkdir()
        (scratch / "deep" / "file.txt").write_text("text", encoding="utf-8")
        assert not folder.exists()
    assert (folder / "deep" / "file.txt").read_text(encoding="utf-8") == "text"
    assert list(folder.parent.iterdir()) == [folder]


def test_an_exception_leaves_no_folder(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_folder(tmp_path / "folder") as scratch:
            (scratch / "file.txt").write_text("half", encoding="utf-8")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_of_one_folder_the_first_to_end_wins(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with atomic_folder(folder) as slow:
        (slow / "slow.txt").write_text("slow", encoding="utf-8")
        with atomic_folder(folder) as fast:
            assert fast != slow
            (fast / "fast.txt").write_text("fast", encoding="utf-8")
    assert [child.name for child in folder.iterdir()] == ["fast.txt"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("a file", encoding="utf-8")
    with pytest.raises(NotADirectoryError), atomic_folder(path):
        pass
    assert path.read_text(encoding="utf-8") == "a file"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_being_written_is_known_as_scratch(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as scratch:
        assert is_scratch(scratch)
        assert scratch.parent == tmp_path


@pytest.mark.parametrize("name", ["folder", "step-00000010", "records.jsonl", "partial"])
def test_what_is_whole_is_no_scratch(name: str) -> None:
    assert not is_scratch(Path("studies") / name)
