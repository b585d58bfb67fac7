"""Helper of the package tests: the source of the package of a tiny classifier."""

from pathlib import Path

from minilm_core.deployment.source import PackageSource
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.records import Evaluation, Role, Status, TaskResult, TrialRecord


def source_of(student: Path) -> PackageSource:
    evaluation = Evaluation(value=0.6, low=0.5, high=0.7, num_examples=2)
    record = TrialRecord(
        number=1,
        role=Role.STUDENT,
        status=Status.COMPLETE,
        architecture=StudentArchitecture(num_layers=3, hidden_size=24, num_heads=4),
        tasks={"topics": TaskResult(metric="accuracy", validation=evaluation)},
    )
    return PackageSource(
        model_folder=student,
        record=record,
        task="topics",
        study="docs",
        config_sha256="ab" * 32,
        teacher="a teacher",
        method="minilmv2",
        licence=None,
    )
