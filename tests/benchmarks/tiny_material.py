"""A tiny teacher, text and task, on which tests run the benchmarks that train students."""

from pathlib import Path

from tests.minilm_core.encoder_families import write_teacher
from tests.minilm_core.finetuning_tasks import write
from tests.paths import ROOT

SEQUENCE_LENGTH = 32


def write_material(folder: Path) -> list[str]:
    """Writes them into a folder, and returns the options of a benchmark that uses them for seconds."""
    write_teacher("bert", folder / "teacher")
    text = folder / "text.txt"
    text.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    for split, count in {"train": 24, "validation": 10}.items():
        sentences = [("the student learns", "the teacher knows")[number % 2] for number in range(count)]
        write(folder / "sst2" / f"{split}.parquet", sentence=sentences, label=[n % 2 for n in range(count)])
    return [
        *("--text", str(text), "--teacher", str(folder / "teacher"), "--tasks", f"sst2={folder / 'sst2'}"),
        *("--seeds", "0", "--sequence-length", str(SEQUENCE_LENGTH), "--batch-size", "2", "--relation-heads", "2"),
        *("--held-out-sequences", "2", "--finetuning-epochs", "1"),
    ]
