import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from minilm_core.architecture import FamilyShape, StudentArchitecture
from minilm_core.errors import FailureKind
from minilm_core.metrics import accuracy as accuracy_metric
from minilm_core.metrics import bootstrap_interval
from minilm_core.records import (
    Evaluation,
    Failure,
    Role,
    Status,
    TaskResult,
    TrialRecord,
    append_record,
)
from reports import Study, load_study

NUM_EXAMPLES = 200
EMBEDDINGS = FamilyShape(vocabulary_size=1000, num_positions=128, num_token_types=2)
TASK = "topics"


def labels(split: str, num_examples: int = NUM_EXAMPLES) -> np.ndarray:
    seed = {"validation": 11, "test": 12}[split]
    return np.random.default_rng(seed).integers(0, 3, num_examples)


@functools.cache
def evaluation(split: str, accuracy: float, seed: int, num_examples: int = NUM_EXAMPLES) -> Evaluation:
    """Predictions of which exactly the share `accuracy` (rounded to whole examples) is right."""
    truth = labels(split, num_examples)
    # Models err on much the same examples: a common order of difficulty with a little of each model's own.
    difficulty = np.random.default_rng(5).normal(size=num_examples)
    order = np.argsort(difficulty + 0.5 * np.random.default_rng(100 + seed).normal(size=num_examples))
    predictions = truth.copy()
    wrong = order[round(accuracy * num_examples) :]
    predictions[wrong] = (truth[wrong] + 1) % 3
    interval = bootstrap_interval(accuracy_metric, truth, predictions)
    return Evaluation(
        value=interval.value, low=interval.low, high=interval.high, predictions=tuple(map(float, predictions))
    )


def task_result(accuracy: float, seed: int, has_test: bool = True, num_examples: int = NUM_EXAMPLES) -> TaskResult:
    return TaskResult(
        metric="accuracy",
        validation=evaluation("validation", accuracy, seed, num_examples),
        test=evaluation("test", accuracy, seed + 1, num_examples) if has_test else None,
    )


def model(
    role: Role,
    number: int,
    accuracy: float,
    architecture: StudentArchitecture,
    *,
    tasks: dict[str, TaskResult] | None = None,
    latency_ms: float | None = 5.0,
    **fields: Any,
) -> TrialRecord:
    tasks = {TASK: task_result(accuracy, max(number, 0))} if tasks is None else tasks
    value = float(np.mean([max(0.0, result.validation.value) for result in tasks.values()])) if tasks else accuracy
    size_bytes = fields.pop("size_bytes", architecture.size_bytes(EMBEDDINGS))
    objectives = {"accuracy": value, "size_bytes": float(size_bytes)}
    if latency_ms is not None:
        objectives["latency_ms"] = latency_ms
    return TrialRecord(
        number=number,
        role=role,
        status=Status.COMPLETE,
        architecture=architecture,
        objectives=objectives if role is Role.STUDENT else {},
        num_parameters=fields.pop("num_parameters", architecture.num_parameters(EMBEDDINGS)),
        num_layer_parameters=architecture.num_layer_parameters(EMBEDDINGS),
        size_bytes=size_bytes,
        flops=architecture.flops(128, EMBEDDINGS),
        latency_ms=latency_ms,
        tasks=tasks,
        device_hours=fields.pop("device_hours", 0.1),
        started_at=fields.pop("started_at", "2026-11-22T10:00:00+00:00"),
        finished_at=fields.pop("finished_at", "2026-11-22T10:30:00+00:00"),
        **fields,
    )


def student(number: int, accuracy: float, num_layers: int = 2, hidden_size: int = 64, **fields: Any) -> TrialRecord:
    architecture = StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=hidden_size // 32)
    defaults = {"distillation_learning_rate": 6e-4, "finetuning_learning_rate": 1e-4, "held_out_loss": 1.0 - accuracy}
    return model(Role.STUDENT, number, accuracy, architecture, **{**defaults, **fields})


def teacher(accuracy: float, **fields: Any) -> TrialRecord:
    architecture = StudentArchitecture(num_layers=6, hidden_size=384, num_heads=12)
    return model(Role.TEACHER, -1, accuracy, architecture, **{"latency_ms": 40.0, **fields})


def twin(of: TrialRecord, accuracy: float, **fields: Any) -> TrialRecord:
    return model(
        Role.TWIN,
        -100 - of.number,
        accuracy,
        of.architecture,
        twin_of=of.number,
        **{"latency_ms": of.latency_ms, **fields},
    )


def failed(number: int, kind: FailureKind, message: str, status: Status = Status.FAILED) -> TrialRecord:
    return TrialRecord(
        number=number,
        role=Role.STUDENT,
        status=status,
        architecture=StudentArchitecture(num_layers=12, hidden_size=384, num_heads=12),
        device_hours=0.0 if status is Status.REFUSED else 0.05,
        failure=Failure(kind=kind, message=message),
    )


def write_study(
    folder: Path,
    records: Sequence[TrialRecord],
    *,
    objectives: Sequence[str] = ("accuracy", "latency_ms", "size_bytes"),
    evaluation: dict[str, Any] | None = None,
    latency: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    importances: dict[str, Any] | None = None,
) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.jsonl").touch()
    for record in records:
        append_record(folder / "records.jsonl", record)
    config = {"name": "example", "objectives": list(objectives), "seed": 0, "tasks": [{"name": TASK}]}
    (folder / "search.yaml").write_text(yaml.safe_dump(config))
    extras = {
        "evaluation": evaluation,
        "latency": latency,
        "environment": environment,
        "importances": importances,
    }
    for name, content in extras.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return load_study(folder)


def kept_labels(*tasks: str, has_test: bool = True) -> dict[str, Any]:
    return {
        task: {
            "validation": labels("validation").tolist(),
            "test": labels("test").tolist() if has_test else None,
            "label_names": None,
        }
        for task in tasks
    }


LATENCY_TABLE = {
    "device": "some processor",
    "is_noisy": False,
    "held_out_error": 0.02,
    "target": {"device": "cpu", "num_threads": 1, "batch_size": 1, "sequence_length": 128},
}


def write_full_study(folder: Path) -> Study:
    """Two students on the frontier, one tied with it, one far behind; a twin, a teacher, a failure and a refusal."""
    best = student(1, 0.90, 4, 128, latency_ms=8.0)
    records = [
        student(0, 0.80, 2, 64, latency_ms=2.0),
        best,
        student(2, 0.79, 3, 96, latency_ms=5.0),
        student(3, 0.60, 4, 96, latency_ms=6.0),
        failed(4, FailureKind.OUT_OF_MEMORY, "CUDA out of memory | tried 2 GiB <b>here</b>"),
        failed(5, FailureKind.INFEASIBLE, "size_bytes is over its limit", Status.REFUSED),
        teacher(0.92),
        twin(best, 0.70),
    ]
    return write_study(
        folder,
        records,
        evaluation=kept_labels(TASK),
        latency=LATENCY_TABLE,
        environment={"versions": {"torch": "2.13.0"}, "seconds": {"targets": 12.5}},
        importances={"accuracy": {"num_layers": 0.6, "hidden_size": 0.4}},
    )
