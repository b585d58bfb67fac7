"""Tests of the benchmark of encoded tasks."""

import re
from pathlib import Path

import pytest

from tests.benchmarks import task_encoding
from tests.minilm_core.encoder_families import write_teacher
from tests.minilm_core.finetuning_tasks import write


@pytest.mark.slow
def test_it_prints_a_line_for_each_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "validation"):
        write(tmp_path / "sst2" / f"{split}.parquet", sentence=["a text", "the text"], label=[0, 1])
    write_teacher("bert", tmp_path / "teacher")
    task_encoding.main(
        ["sst2", "--path", str(tmp_path / "sst2"), "--copies", "3", "--teacher", str(tmp_path / "teacher")]
    )
    figures = r"6 features, \d+ tokens, \d+\.\d s, -?[\d,]+ MB of its own, -?[\d,]+ MB shared\n"
    pattern = "".join(f"{way}: {figures}" for way in ("tokenised", "tokenised and written", "read"))
    assert re.fullmatch(pattern, capsys.readouterr().out)
