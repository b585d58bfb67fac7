"""Tests of packages: their files, the model card and its figures, and what is refused."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PretrainedConfig,
    pipeline,
)

from minilm_core.deployment.packaging import package
from minilm_core.deployment.source import PackageSource
from minilm_core.errors import UserError
from minilm_core.latency.measurements import Measurement
from minilm_core.latency.table import Contention, LatencyTable
from minilm_core.latency.target import DeviceFingerprint, LatencyTarget
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.families import max_sequence_length
from minilm_core.results.records import Evaluation, Role, Status, TaskResult, TrialRecord
from minilm_core.runtimes.torch_model import comparable_outputs, load_packaged
from tests.minilm_core.encoder_families import CONFIGS, write_teacher

ARCHITECTURE = StudentArchitecture(num_layers=3, hidden_size=24, num_heads=4)
RESULT = TaskResult(
    metric="matthews",
    validation=Evaluation(value=0.61, low=0.55, high=0.67, num_examples=3),
    test=Evaluation(value=0.58, low=0.5, high=0.66, num_examples=2),
)


@pytest.fixture(scope="module")
def student_folder(
    tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, teacher_config: PretrainedConfig
) -> Path:
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(1)
    config = type(teacher_config)(**{**teacher_config.to_dict(), "num_labels": 3})
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def source(student_folder: Path) -> PackageSource:
    record = TrialRecord(
        number=7,
        role=Role.STUDENT,
        status=Status.COMPLETE,
        architecture=ARCHITECTURE,
        num_parameters=22_000,
        size_bytes=88_000,
        latency_ms=2.5,
        num_steps=1000,
        num_tokens=64_000,
        tasks={"topics": RESULT},
    )
    return PackageSource(
        model_folder=student_folder,
        record=record,
        task="topics",
        study="docs",
        config_sha256="ab" * 32,
        teacher="all-MiniLM-L6-v2",
        method="minilmv2",
        licence="apache-2.0",
        base_model="sentence-transformers/all-MiniLM-L6-v2",
    )


def noisy_table() -> LatencyTable:
    rounds = {depth: (float(depth), 2.0 * depth) for depth in (1, 2, 3)}
    measured = {
        depth: Measurement.from_rounds(
            dataclasses.replace(ARCHITECTURE, num_layers=depth), [[median] for median in medians]
        )
        for depth, medians in rounds.items()
    }
    return LatencyTable(
        target=LatencyTarget(),
        fingerprint=DeviceFingerprint(processor="some processor", isa=(), torch="2.13.0", python="3.11.7"),
        measured_at="2026-11-22T12:00:00+00:00",
        contention=Contention(num_cores=2, busy_cores=0.0),
        fitted=(measured[1], measured[3]),
        held_out=(measured[2],),
    )


def test_a_package_loads_and_has_the_outputs_of_its_student(source: PackageSource, tmp_path: Path):
    folder = package(source, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(["a student learns"], return_tensors="pt")
    expected = load_packaged(source.model_folder).outputs(["a student learns"])
    with torch.inference_mode():
        torch.testing.assert_close(model(**inputs).logits, expected)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "mpnet", "modernbert"])
def test_a_package_cuts_long_texts_to_the_positions_of_its_student(source: PackageSource, tmp_path: Path, family: str):
    student = tmp_path / "student"
    write_teacher(family, student)
    settings = json.loads((student / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("model_max_length")
    (student / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    AutoModelForSequenceClassification.from_config(CONFIGS[family]).save_pretrained(student)
    out = package(dataclasses.replace(source, model_folder=student), tmp_path / "out")
    num_positions = max_sequence_length(CONFIGS[family].to_dict())
    serve = pipeline("text-classification", str(out), device="cpu")
    assert serve.tokenizer.model_max_length == num_positions
    assert len(serve("student " * 800, truncation=True)) == 1
    assert len(serve(["student " * 800, "the"], truncation=True, padding=True, batch_size=2)) == 2


def test_a_package_keeps_a_shorter_limit_of_its_tokenizer(source: PackageSource, student_folder: Path, tmp_path: Path):
    student = Path(shutil.copytree(student_folder, tmp_path / "student"))
    settings = json.loads((student / "tokenizer_config.json").read_text(encoding="utf-8"))
    (student / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 48}), encoding="utf-8")
    out = package(dataclasses.replace(source, model_folder=student), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).model_max_length == 48


def test_only_known_files_are_copied(source: PackageSource, student_folder: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in student_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "pytorch_model.bin").write_bytes(b"a pickle")
    folder = package(dataclasses.replace(source, model_folder=copy), tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "SHA256SUMS",
        "eval.json",
        "provenance.json",
        "reference.json",
    }


def test_the_checksums_are_those_of_every_file(source: PackageSource, tmp_path: Path):
    folder = package(source, tmp_path / "out")
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    others = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    others.pop("SHA256SUMS")
    assert sums == others


def test_the_card_carries_licence_teacher_and_every_result_with_its_interval(source: PackageSource, tmp_path: Path):
    data = ModelCard.load(package(source, tmp_path / "out") / "README.md").data
    assert data.license == "apache-2.0"
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.pipeline_tag == "text-classification"
    assert [(r.dataset_split, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("validation", "matthews_correlation", 0.61),
        ("test", "matthews_correlation", 0.58),
    ]
    assert data.eval_results[0].metric_args["low"] == 0.55


def test_the_card_has_a_row_for_every_split_and_code_that_names_the_class(
    source: PackageSource, tmp_path: Path
) -> None:
    card = (package(source, tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    rows = [line for line in card.splitlines() if line.startswith("| topics")]
    assert rows == [
        "| topics | validation | matthews | 0.6100 | 0.5500 to 0.6700 | 3 |",
        "| topics | test | matthews | 0.5800 | 0.5000 to 0.6600 | 2 |",
    ]
    assert (
        "# docs trial 7 (3x24 A4)\n\nA student of all-MiniLM-L6-v2: 3 layers, hidden size 24, 4 attention heads" in card
    )
    assert "from transformers import AutoModelForSequenceClassification, AutoTokenizer" in card
    assert "{{" not in card


def test_the_card_states_that_no_licence_is_known(source: PackageSource, tmp_path: Path):
    folder = package(dataclasses.replace(source, licence=None), tmp_path / "out")
    assert "Not stated for the teacher's weights" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_has_the_latency_with_its_target_device_and_noise(source: PackageSource, tmp_path: Path):
    folder = package(dataclasses.replace(source, latency_table=noisy_table()), tmp_path / "out")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Latency (median): 2.50 ms at cpu1,b1,s128" in card
    assert "on some processor, torch 2.13.0" in card
    assert "NOISY: the same student took 2.00 times as long" in card


def test_the_card_states_that_no_latency_was_measured(source: PackageSource, tmp_path: Path):
    assert "Latency: not measured." in (package(source, tmp_path / "out") / "README.md").read_text(encoding="utf-8")


def test_the_provenance_names_trial_study_and_versions(source: PackageSource, tmp_path: Path):
    content = json.loads((package(source, tmp_path / "out") / "provenance.json").read_text(encoding="utf-8"))
    assert (content["study"], content["trial"], content["config_sha256"]) == ("docs", 7, "ab" * 32)
    assert content["versions"]["torch"] == torch.__version__


def test_the_evaluation_keeps_intervals_and_counts(source: PackageSource, tmp_path: Path):
    content = json.loads((package(source, tmp_path / "out") / "eval.json").read_text(encoding="utf-8"))
    assert content["tasks"]["topics"]["validation"] == {"value": 0.61, "low": 0.55, "high": 0.67, "num_examples": 3}
    assert content["tasks"]["topics"]["test"]["num_examples"] == 2


def test_the_decision_is_part_of_the_package(source: PackageSource, tmp_path: Path):
    decision = tmp_path / "decision.json"
    decision.write_text('{"winner": 7}', encoding="utf-8")
    folder = package(dataclasses.replace(source, decision=decision), tmp_path / "out")
    assert (folder / "decision.json").read_text(encoding="utf-8") == '{"winner": 7}'


def test_the_files_of_an_addition_are_in_the_checksums(source: PackageSource, tmp_path: Path):
    folder = package(source, tmp_path / "out", additions=[lambda f: (f / "notes.txt").write_text("ok")])
    assert "  notes.txt" in (folder / "SHA256SUMS").read_text(encoding="utf-8")


def test_an_addition_that_refuses_leaves_nothing_behind(source: PackageSource, tmp_path: Path):
    def refuse(_: Path) -> None:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        package(source, tmp_path / "out", additions=[refuse])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused(source: PackageSource, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="must be new or empty, got"):
        package(source, tmp_path)


def test_a_package_is_replaced_when_asked(source: PackageSource, tmp_path: Path):
    package(source, tmp_path / "out", additions=[lambda f: (f / "old.txt").write_text("old")])
    assert not (package(source, tmp_path / "out", overwrite=True) / "old.txt").exists()


def test_a_folder_that_is_no_package_is_never_replaced(source: PackageSource, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="must be new, empty or a package, got"):
        package(source, tmp_path, overwrite=True)


def test_a_package_never_replaces_what_it_is_made_from(source: PackageSource, tmp_path: Path):
    folder = package(source, tmp_path / "out")
    with pytest.raises(UserError, match="must be new, empty or a package, got"):
        package(dataclasses.replace(source, model_folder=folder), folder, overwrite=True)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_student_without_a_needed_file_is_refused(
    source: PackageSource, student_folder: Path, tmp_path: Path, name: str
):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in student_folder.iterdir():
        if path.name != name:
            (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=f"must hold {name}"):
        package(dataclasses.replace(source, model_folder=copy), tmp_path / "out")


def test_a_task_the_trial_was_not_measured_on_is_refused(source: PackageSource, tmp_path: Path):
    with pytest.raises(UserError, match=r"must be one of the trial's tasks \(topics\), got sst2"):
        package(dataclasses.replace(source, task="sst2"), tmp_path / "out")


def test_a_decision_that_is_not_there_is_refused(source: PackageSource, tmp_path: Path):
    with pytest.raises(UserError, match="decision must be a file written by pick"):
        package(dataclasses.replace(source, decision=tmp_path / "decision.json"), tmp_path / "out")


def test_states_of_padding_are_not_compared():
    states = torch.arange(12.0).reshape(1, 3, 4)
    mask = torch.tensor([[1, 1, 0]])
    torch.testing.assert_close(comparable_outputs({"last_hidden_state": states}, mask), states[:, :2].mean(dim=1))


def test_an_encoder_without_a_head_is_packaged_for_feature_extraction(
    source: PackageSource, teacher_folder: Path, tmp_path: Path
):
    folder = package(dataclasses.replace(source, model_folder=teacher_folder), tmp_path / "out")
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == "feature-extraction"
    reference = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    assert len(reference["outputs"][0]) == ARCHITECTURE.hidden_size
