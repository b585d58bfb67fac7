"""Damaged tokenizers and packages: every one is opened, or refused in one line of our own."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from transformers import AutoTokenizer, BertForSequenceClassification, PretrainedConfig

from minilm_core.corpus.tokenisation import CorpusTokenizer
from minilm_core.deployment.layout import SUMS_FILE
from minilm_core.deployment.packaging import package
from minilm_core.deployment.verification import CHECKS, run_checks
from minilm_core.errors import UserError
from tests.minilm_core.packages import source_of
from tests.search.fuzzing import cases, damages, fast_and_long, fresh_folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, teacher_config: PretrainedConfig) -> Path:
    """The package of a tiny classifier."""
    student = tmp_path_factory.mktemp("student")
    torch.manual_seed(1)
    BertForSequenceClassification(teacher_config).save_pretrained(student)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(student)
    return package(source_of(student), tmp_path_factory.mktemp("packages") / "student")


@fast_and_long(20, 300)
def test_a_damaged_tokenizer_is_opened_or_refused_in_one_line(num_cases: int, teacher_folder: Path) -> None:
    files = {name: content for name, content in files_of(teacher_folder).items() if not name.endswith(".safetensors")}

    @cases(num_cases)
    @given(damage=damages(files))
    def holds(damage: tuple[str, bytes]) -> None:
        name, content = damage
        with fresh_folder() as folder:
            shutil.copytree(teacher_folder, folder / "teacher")
            (folder / "teacher" / name).write_bytes(content)
            refusals: list[str] = []
            try:
                CorpusTokenizer.load(folder / "teacher")
            except UserError as error:
                refusals.append(str(error))
            assert all("\n" not in refusal for refusal in refusals)

    holds()


@fast_and_long(20, 200)
def test_a_damaged_package_is_verified_check_by_check_to_the_first_that_fails(num_cases: int, packaged: Path) -> None:
    files = {name: content for name, content in files_of(packaged).items() if name != SUMS_FILE}

    @cases(num_cases)
    @given(damage=damages(files))
    def holds(damage: tuple[str, bytes]) -> None:
        name, content = damage
        with fresh_folder() as folder:
            shutil.copytree(packaged, folder / "student")
            (folder / "student" / name).write_bytes(content)
            sums = (folder / "student" / SUMS_FILE).read_text(encoding="utf-8").splitlines()
            # With the checksum of the damaged file, so that the checks behind the first one meet it.
            digest = hashlib.sha256(content).hexdigest()
            lines = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in sums]
            (folder / "student" / SUMS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
            checks = list(run_checks(folder / "student"))
        assert all(check.is_passed for check in checks[:-1])
        assert checks[-1].is_passed == (checks[-1].name == CHECKS[-1][0])
        assert all("\n" not in check.detail for check in checks)

    holds()
