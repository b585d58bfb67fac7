"""Tests of the mirror of a study's records."""

import pytest

from minilm_core.errors import UserError
from search.study.mirror import check_mirror, mirror_file


def test_a_mirrored_file_replaces_the_old_copy(tmp_path):
    source = tmp_path / "records.jsonl"
    mirror = tmp_path / "far" / "away"
    for text in ("one\n", "one\ntwo\n"):
        source.write_text(text)
        mirror_file(source, str(mirror))
    assert [path.name for path in mirror.iterdir()] == ["records.jsonl"]
    assert (mirror / "records.jsonl").read_text() == "one\ntwo\n"


def test_a_url_is_a_mirror_too(tmp_path):
    import fsspec

    source = tmp_path / "records.jsonl"
    source.write_text("one\n")
    mirror_file(source, "memory://bucket/study")
    assert fsspec.filesystem("memory").cat("/bucket/study/records.jsonl") == b"one\n"


def test_a_mirror_of_an_unknown_protocol_is_refused():
    with pytest.raises(
        UserError, match=r"storage\.mirror must be a folder or URL that fsspec can open, got nowhere://x"
    ):
        check_mirror("nowhere://x")


def test_a_copy_that_fails_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match=r"records\.jsonl could not be copied to"):
        mirror_file(tmp_path / "records.jsonl", str(tmp_path / "far"))
