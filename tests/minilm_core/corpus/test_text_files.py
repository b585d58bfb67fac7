from pathlib import Path

import pytest

from minilm_core.corpus.text_files import file_format, find_text_files
from minilm_core.errors import UserError


def write_texts(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def found(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in find_text_files(folder)]


@pytest.mark.parametrize(
    ("name", "ending"), [("a.txt", ".txt"), ("a.jsonl.zst", ".jsonl"), ("a.b.parquet", ".parquet"), ("a", "")]
)
def test_a_files_format_is_its_ending_before_that_of_a_compression(name: str, ending: str) -> None:
    assert file_format(Path("folder.txt") / name) == ending


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").touch()
    with pytest.raises(UserError, match=r"a corpus must have files ending in \.txt, \.jsonl, \.json, \.parquet"):
        find_text_files(tmp_path)


def test_a_folder_that_is_a_link_is_read_in_order_of_name(tmp_path: Path) -> None:
    write_texts(tmp_path, "corpus/a.txt", "corpus/c.txt", "elsewhere/b.txt", "elsewhere/deep/d.txt")
    (tmp_path / "corpus" / "b").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "corpus") == ["a.txt", "b/b.txt", "b/deep/d.txt", "c.txt"]


def test_a_folder_is_read_once_under_its_own_name_whatever_leads_to_it(tmp_path: Path) -> None:
    write_texts(tmp_path, "real/a.txt", "other/b.txt")
    for link in ("aaa", "zzz"):
        (tmp_path / link).symlink_to(tmp_path / "real")
    assert found(tmp_path) == ["other/b.txt", "real/a.txt"]


def test_links_that_lead_in_circles_or_out_to_a_folder_above_are_not_followed(tmp_path: Path) -> None:
    write_texts(tmp_path, "outside.txt", "corpus/one/a.txt", "corpus/two/b.txt")
    (tmp_path / "corpus" / "one" / "other").symlink_to(tmp_path / "corpus" / "two")
    (tmp_path / "corpus" / "two" / "other").symlink_to(tmp_path / "corpus" / "one")
    (tmp_path / "corpus" / "up").symlink_to("..")
    (tmp_path / "corpus" / "itself").symlink_to("itself")
    assert found(tmp_path / "corpus") == ["one/a.txt", "two/b.txt"]


def test_a_link_to_a_file_of_text_is_read(tmp_path: Path) -> None:
    write_texts(tmp_path, "blob", "corpus/a.txt")
    (tmp_path / "corpus" / "b.txt").symlink_to(tmp_path / "blob")
    assert found(tmp_path / "corpus") == ["a.txt", "b.txt"]


def test_a_link_to_text_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    write_texts(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to("absent.txt")
    with pytest.raises(UserError, match=r"files that can be read, got the broken link .*b\.txt$"):
        find_text_files(tmp_path)
