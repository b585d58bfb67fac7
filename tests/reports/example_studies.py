import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from minilm_core.errors import FailureKind
from minilm_core.latency.measurements import Measurement, Statistic, Width
from minilm_core.latency.table import Contention, LatencyTable
from minilm_core.latency.target import DeviceFingerprint, LatencyTarget
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import objectives_named
from minilm_core.results.outcomes import save_outcomes
from minilm_core.results.record_lines import append_record
from minilm_core.results.records import Evaluation, Failure, Role, Status, TaskResult, TrialRecord
from minilm_core.tasks.metrics import METRICS, bootstrap_interval, label_outcomes
from reports import Study, load_study
from reports.outcomes import StudyOutcomes

NUM_EXAMPLES = 200
EMBEDDINGS = FamilyShape(vocabulary_size=1000, num_positions=128, num_token_types=2)
TASK = "topics"


def labels(split: str, num_examples: int = NUM_EXAMPLES) -> np.ndarray:
    seed = {"validation": 11, "test": 12}[split]
    return np.random.default_rng(seed).integers(0, 3, num_examples)


def predictions_of(split: str, accuracy: float, seed: int, num_examples: int = NUM_EXAMPLES) -> np.ndarray:
    """Predictions of which a fraction of `accuracy`, rounded to whole examples, is right."""
    truth = labels(split, num_examples)
    # Models err on much the same examples: a common order of difficulty with a little of each model's own.
    difficulty = np.random.default_rng(5).normal(size=num_examples)
    order = np.argsort(difficulty + 0.5 * np.random.default_rng(100 + seed).normal(size=num_examples))
    predictions = truth.copy()
    wrong = order[round(accuracy * num_examples) :]
    predictions[wrong] = (truth[wrong] + 1) % 3
    return predictions


@functools.cache
def evaluation(split: str, accuracy: float, seed: int, num_examples: int = NUM_EXAMPLES) -> Evaluation:
    """The evaluation of `predictions_of` with the same arguments, with its interval."""
    predictions = predictions_of(split, accuracy, seed, num_examples)
    interval = bootstrap_interval(METRICS["accuracy"], label_outcomes(labels(split, num_examples), predictions))
    return Evaluation(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        num_examples=num_examples,
        predictions=tuple(map(float, predictions)),
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
    return model(Role.TEACHER, 0, accuracy, architecture, **{"latency_ms": 40.0, **fields})


def twin(of: TrialRecord, accuracy: float, **fields: Any) -> TrialRecord:
    return model(
        Role.TWIN,
        of.number,
        accuracy,
        of.architecture,
        **{"latency_ms": of.latency_ms, **fields},
    )


def ablation_twin(role: Role, of: TrialRecord, accuracy: float) -> TrialRecord:
    """A twin of a student that lacks more than distillation."""
    return model(role, of.number, accuracy, of.architecture, latency_ms=of.latency_ms)


def truncated_teacher(of: TrialRecord, accuracy: float, **fields: Any) -> TrialRecord:
    architecture = replace(teacher(accuracy).architecture, num_layers=of.architecture.num_layers)
    return model(Role.TRUNCATED_TEACHER, of.number, accuracy, architecture, **{"latency_ms": 30.0, **fields})


def failed(number: int, kind: FailureKind, message: str, status: Status = Status.FAILED) -> TrialRecord:
    return TrialRecord(
        number=number,
        role=Role.STUDENT,
        status=status,
        architecture=StudentArchitecture(num_layers=12, hidden_size=384, num_heads=12),
        device_hours=0.0 if status is Status.REFUSED else 0.05,
        failure=Failure(kind=kind, message=message),
    )


def study_of(
    *records: TrialRecord,
    objectives: Sequence[str] = ("accuracy", "latency_ms", "size_bytes"),
    evaluation: dict[str, Any] | None = None,
) -> Study:
    """A study without a folder, for tests that need only its records."""
    return Study(
        paths=StudyPaths(root=Path("nowhere")),
        config={"name": "example"},
        objectives=objectives_named(objectives),
        records=records,
        records_sha256="",
        outcomes=outcomes_of(records, evaluation or {}),
        environment={},
        latencies={},
        importances={},
    )


def write_study(
    folder: Path,
    records: Sequence[TrialRecord],
    *,
    objectives: Sequence[str] = ("accuracy", "latency_ms", "size_bytes"),
    evaluation: dict[str, Any] | None = None,
    latency: LatencyTable | None = None,
    environment: dict[str, Any] | None = None,
    importances: dict[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.jsonl").touch()
    outcomes = outcomes_of(records, evaluation or {})
    for record in records:
        append_record(folder / "records.jsonl", without_predictions(record))
        for task, of_task in outcomes.get((record.role, record.number), {}).items():
            first = {split: of_seeds[0] for split, of_seeds in of_task.items()}
            save_outcomes(StudyPaths(root=folder).outcomes_of(record.role, record.number, task), first)
    config = {
        "name": "example",
        "objectives": list(objectives),
        "seed": 0,
        "tasks": [{"name": TASK}],
        **(settings or {}),
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(config))
    extras = {
        "environment": environment,
        "importances": importances,
    }
    for name, content in extras.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    if latency is not None:
        latency.save(folder / "latency.json")
    return load_study(folder)


def outcomes_of(records: Sequence[TrialRecord], kept: Mapping[str, Any]) -> StudyOutcomes:
    """The outcomes of records whose evaluations have predictions, given the labels of each task."""
    found: dict[Any, dict[str, dict[str, tuple[np.ndarray, ...]]]] = {}
    for record in records:
        for task, result in record.tasks.items():
            for split, evaluation in (("validation", result.validation), ("test", result.test)):
                of_split = kept.get(task, {}).get(split)
                if evaluation is not None and evaluation.predictions and of_split is not None:
                    of_record = found.setdefault((record.role, record.number), {}).setdefault(task, {})
                    of_record[split] = (label_outcomes(np.array(of_split), np.array(evaluation.predictions)),)
    return found


def without_predictions(record: TrialRecord) -> TrialRecord:
    """The record as it is written: its outcomes have their own files."""
    tasks = {
        name: replace(
            result,
            validation=replace(result.validation, predictions=()),
            test=None if result.test is None else replace(result.test, predictions=()),
            evaluation_sets={n: replace(other, predictions=()) for n, other in result.evaluation_sets.items()},
        )
        for name, result in record.tasks.items()
    }
    return replace(record, tasks=tasks)


def kept_labels(*tasks: str, has_test: bool = True) -> dict[str, Any]:
    return {
        task: {
            "validation": labels("validation").tolist(),
            "test": labels("test").tolist() if has_test else None,
            "label_names": None,
        }
        for task in tasks
    }


def latency_table(
    *,
    held_out_error: float = 0.02,
    p90_over_p50: float | None = None,
    held_out_p90_error: float = 0.0,
    busy_cores: float = 0.0,
    statistic: Statistic = Statistic.MEDIAN,
    target: LatencyTarget | None = None,
) -> LatencyTable:
    """A table of one width, with 1 ms a layer and 1 ms more, whose predictions have the given errors."""
    width = Width(hidden_size=64, num_heads=2, intermediate_ratio=4.0)

    def measured(num_layers: int, latency_ms: float, p90_ms: float | None = None) -> Measurement:
        return Measurement(
            architecture=width.with_layers(num_layers),
            latency_ms=latency_ms,
            round_medians_ms=(latency_ms, latency_ms),
            p90_ms=p90_ms,
        )

    p90_ms = None if p90_over_p50 is None else p90_over_p50 * 5.0 / (1 + held_out_p90_error)
    return LatencyTable(
        target=target or LatencyTarget(),
        fingerprint=DeviceFingerprint(processor="some processor", isa=(), torch="2.13.0", python="3.11.7"),
        measured_at="2026-11-22T12:00:00+00:00",
        contention=Contention(num_cores=2, busy_cores=busy_cores),
        fitted=(measured(2, 3.0), measured(12, 13.0)),
        held_out=(measured(4, 5.0 / (1 + held_out_error), p90_ms),),
        p90_over_p50=p90_over_p50,
        statistic=statistic,
    )


LATENCY_TABLE = latency_table()


def write_full_study(folder: Path) -> Study:
    """Two students on the frontier, one tied with it, one far behind; the baselines, a failure and a refusal."""
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
        ablation_twin(Role.TWIN_FROM_RANDOM_WEIGHTS, best, 0.55),
        truncated_teacher(best, 0.75),
    ]
    return write_study(
        folder,
        [with_sets(record) for record in records],
        evaluation=kept_labels(TASK),
        latency=LATENCY_TABLE,
        environment={"versions": {"torch": "2.13.0"}, "seconds": {"targets": 12.5}},
        importances={"accuracy": {"num_layers": 0.6, "hidden_size": 0.4}},
    )


def with_sets(record: TrialRecord) -> TrialRecord:
    """The record with two evaluation sets, on which the model has 10 and 20 points less than in validation."""

    def of(result: TaskResult) -> TaskResult:
        value = result.validation.value
        sets = {name: evaluation("test", round(value - lost, 3), 3) for name, lost in (("de", 0.1), ("es", 0.2))}
        return replace(result, evaluation_sets=sets)

    return replace(record, tasks={name: of(result) for name, result in record.tasks.items()})


def without_interval(accuracy: float, seed: int) -> dict[str, TaskResult]:
    """One task with a validation split only. Its interval is empty, since the bootstrap takes time."""
    predictions = tuple(map(float, predictions_of("validation", accuracy, seed)))
    value = Evaluation(value=accuracy, low=accuracy, high=accuracy, num_examples=NUM_EXAMPLES, predictions=predictions)
    return {TASK: TaskResult(metric="accuracy", validation=value)}


def large_records() -> tuple[TrialRecord, ...]:
    """48 students, of which 24 take at most 6 ms, with a teacher of 85 %.

    From 0.6 ms to 12 ms, accuracy rises fast to 79 % at 1.6 ms and slowly from there. Within 6 ms the most accurate
    student has 82 % at 5.3 ms. Every second student is larger than the one before it, and less accurate by 3 points.
    """
    latencies = (0.6, 1.0, 1.6, 2.2, 2.8, 3.4, 4.0, 4.6, 5.3, 5.6, 5.8, 6.0, *(6.5 + 0.5 * i for i in range(12)))
    accuracies = (0.62, 0.72, 0.79, 0.795, 0.80, 0.805, 0.81, 0.815, 0.82, 0.80, 0.78, 0.81)
    accuracies += tuple(round(0.825 + 0.005 * (i // 2), 3) for i in range(12))
    records: list[TrialRecord] = []
    for step, (latency_ms, highest) in enumerate(zip(latencies, accuracies, strict=True)):
        for accuracy, heads in ((highest, step % 4 + 3), (round(highest - 0.03, 3), step % 4 + 4)):
            number = len(records)
            tasks = without_interval(accuracy, number)
            shape = {"num_layers": 1 + step // 4, "hidden_size": 32 * heads}
            records.append(student(number, accuracy, **shape, latency_ms=latency_ms, tasks=tasks))
    return (*records, teacher(0.85, tasks=without_interval(0.85, 0)))


def write_large_study(folder: Path) -> Study:
    """The 48 students of `large_records` and their teacher, with the labels and the latency table."""
    return write_study(folder, large_records(), evaluation=kept_labels(TASK, has_test=False), latency=LATENCY_TABLE)
