"""A student of every family end to end: distilled from a cache, fine-tuned, timed, packaged, verified, exported.

And that of BERT students of teachers of other families.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.deployment.packaging import package
from minilm_core.deployment.source import PackageSource
from minilm_core.deployment.verification import CHECKS, run_checks
from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import distil
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.targets import CachedTargets, OnlineTargets, Targets
from minilm_core.latency.stopwatches import stopwatch
from minilm_core.latency.target import LatencyTarget
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, base_config, build_encoder, load_encoder, load_encoder_config
from minilm_core.models.student_family import StudentFamily
from minilm_core.results.records import Evaluation, Role, Status, TaskResult, TrialRecord
from minilm_core.runtimes.onnx_export import export_onnx
from minilm_core.runtimes.openvino_model import export_openvino
from minilm_core.settings.schedules import METHOD_RELATIONS, DistillationSchedule, FinetuningSchedule, Method, Precision
from minilm_core.tasks.evaluation import TaskData, evaluate
from minilm_core.tasks.features import Features
from minilm_core.tasks.finetuning import build_task_model, finetune, save_task_model
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from minilm_core.tasks.task import Task
from tests.minilm_core.distilling import CPU, key_of, make_corpus
from tests.minilm_core.encoder_families import CONFIGS, write_teacher

ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=16, num_heads=4)
FAMILIES = [name for name in CONFIGS if name not in ("deberta-one-term", "deberta-absolute", "modernbert-biased")]
CROSSINGS = ["roberta", "electra", "distilbert", "mpnet", "deberta-v3", "modernbert"]
"""Families of teachers with BERT students."""
RELATIONS = METHOD_RELATIONS[Method.MINILM]
SCHEDULE = DistillationSchedule(num_steps=2, batch_size=4, method=Method.MINILM, precision=Precision.FP32)
FINETUNING = FinetuningSchedule(num_epochs=1, batch_size=8, max_length=16, precision=Precision.FP32)
TASK = Task(name="who", path="who", text_columns=("text",), metric="accuracy")


@dataclass(frozen=True)
class Taught:
    """A student after two steps, with its teacher and targets."""

    teacher: Path
    base: PretrainedConfig
    """The student's configuration, except its sizes."""
    student: Path
    corpus: PackedCorpus
    cached: Targets
    losses: list[float]


@pytest.fixture(
    scope="module",
    params=[
        *((name, StudentFamily.TEACHER) for name in FAMILIES),
        *((name, StudentFamily.BERT) for name in CROSSINGS),
        ("bert", StudentFamily.ELECTRA),
        ("modernbert", StudentFamily.ELECTRA),
    ],
    ids="-".join,
)
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    family, student_family = request.param
    folder = tmp_path_factory.mktemp(family)
    write_teacher(family, folder / "teacher")
    corpus = make_corpus(folder, folder / "teacher")
    key = key_of((4,), corpus.fingerprint)
    teacher = RelationEncoder(load_encoder(folder / "teacher"), [4], RELATIONS)
    for _ in cache_targets(teacher, corpus, key, folder / "targets"):
        pass
    cached = CachedTargets(folder / "targets" / key.folder_name, CPU, Precision.FP32, layers=[4], relations=RELATIONS)
    embedding_size = 6 if student_family is StudentFamily.ELECTRA else None
    base = base_config(load_encoder_config(folder / "teacher"), student_family, embedding_size=embedding_size)
    encoder = build_encoder(ARCHITECTURE, base, seed=0)
    losses = taught_losses(encoder, DistillationData(corpus=corpus, targets=cached))
    encoder.save_pretrained(folder / "student")
    return Taught(folder / "teacher", base, folder / "student", corpus, cached, losses)


def taught_losses(encoder: PreTrainedModel, distillation_data: DistillationData) -> list[float]:
    student = RelationEncoder(encoder, [ARCHITECTURE.num_layers], RELATIONS)
    return [step.loss for step in distil(student, distillation_data, SCHEDULE, learning_rate=1e-3, seed=0)]


@pytest.fixture(scope="module")
def data() -> TaskData:
    random = np.random.default_rng(0)
    examples = Features.of(
        {"input_ids": [0, *random.integers(4, 20, size=length).tolist(), 2], "attention_mask": [1] * (length + 2)}
        for length in random.integers(2, 9, size=16)
    )
    labels = np.arange(16) % 2
    split = Split(texts=([""] * 16,), labels=labels, num_labels=2, label_names=("a", "b"))
    encoded = EncodedSplit(split=split, features=examples, targets=labels, example_of=np.arange(16))
    return TaskData(task=TASK, train=encoded, validation=encoded, test=None, pad_token_id=1)


@pytest.fixture(scope="module")
def classifier_folder(taught: Taught, data: TaskData) -> Path:
    """Returns the student, fine-tuned for two steps and saved."""
    classifier = build_task_model(taught.student, data, seed=0)
    for _ in finetune(classifier, data, FINETUNING, learning_rate=1e-3, seed=0):
        pass
    folder = taught.student.parent / "classifier"
    save_task_model(classifier, taught.teacher, folder)
    return folder


@pytest.mark.slow
def test_cached_targets_equal_the_teachers(taught: Taught) -> None:
    online = OnlineTargets(RelationEncoder(load_encoder(taught.teacher), [4], RELATIONS), Precision.FP32)
    encoder = build_encoder(ARCHITECTURE, taught.base, seed=0)
    # The states are cached in bf16.
    losses = taught_losses(encoder, DistillationData(corpus=taught.corpus, targets=online))
    assert taught.losses == pytest.approx(losses, rel=0.02)
    assert all(loss > 0 for loss in losses)


def test_every_parameter_of_a_classifier_gets_a_gradient(taught: Taught, data: TaskData) -> None:
    classifier = build_task_model(taught.student, data, seed=0)
    input_ids = torch.tensor([data.train.features[0]["input_ids"].tolist()])
    classifier(input_ids=input_ids, labels=torch.tensor([0])).loss.backward()
    assert [name for name, parameter in classifier.named_parameters() if parameter.grad is None] == []


def test_a_saved_classifier_predicts_as_before(taught: Taught, classifier_folder: Path, data: TaskData) -> None:
    again = AutoModelForSequenceClassification.from_pretrained(classifier_folder)
    assert evaluate(again, data, FINETUNING).result.validation.num_examples == 16
    encoder, info = AutoModel.from_pretrained(classifier_folder, output_loading_info=True)
    assert encoder.config.model_type == taught.base.model_type
    # If the family's classifier has its own head, it does not use the encoder's pooler.
    assert all(name.startswith("pooler.") for name in info["missing_keys"])


def test_a_student_is_timed(taught: Taught) -> None:
    assert stopwatch(load_encoder(taught.student), LatencyTarget(sequence_length=16))() > 0


def source_of(folder: Path) -> PackageSource:
    evaluation = Evaluation(value=0.6, low=0.5, high=0.7, num_examples=2)
    record = TrialRecord(
        number=1,
        role=Role.STUDENT,
        status=Status.COMPLETE,
        architecture=ARCHITECTURE,
        tasks={"who": TaskResult(metric="accuracy", validation=evaluation)},
    )
    return PackageSource(
        model_folder=folder,
        record=record,
        task="who",
        study="families",
        config_sha256="ab" * 32,
        teacher="a teacher",
        method="minilm",
        licence=None,
    )


def test_a_package_passes_every_check(classifier_folder: Path, tmp_path: Path) -> None:
    checks = list(run_checks(package(source_of(classifier_folder), tmp_path / "package")))
    assert [check.name for check in checks] == [name for name, _ in CHECKS]
    assert all(check.is_passed for check in checks), checks


@pytest.mark.slow
@pytest.mark.parametrize(
    "taught",
    [
        *((name, StudentFamily.TEACHER) for name in ("distilbert", "mpnet", "deberta-v3", "modernbert")),
        ("deberta-v3", StudentFamily.BERT),
    ],
    ids="-".join,
    indirect=True,
)
def test_a_package_with_onnx_and_openvino_passes_every_check(classifier_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    additions = [partial(export_onnx, classifier_folder), partial(export_openvino, classifier_folder)]
    checks = list(run_checks(package(source_of(classifier_folder), tmp_path / "package", additions=additions)))
    assert all(check.is_passed for check in checks), checks
    for name in ("onnx", "openvino"):
        assert "within" in next(check.detail for check in checks if check.name == name)
