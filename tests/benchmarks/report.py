"""Times the report of a large study: HTML, JSON, CSV and Parquet, in a process of its own.

    python -m tests.benchmarks.report OUT.json              # 10,000 records
    python -m tests.benchmarks.report OUT.json --records 500

The study is simulated: students of all sizes of a grid, whose accuracy grows with their size, on two tasks, with the
outcomes of every example beside the records. One record of eight is of a student that was stopped, refused or failed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from minilm_core.errors import FailureKind
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.layout import StudyPaths
from minilm_core.results.outcomes import Outcomes, save_outcomes
from minilm_core.results.record_lines import to_json
from minilm_core.results.records import Evaluation, Failure, Role, Rung, Status, Stop, TaskResult, TrialRecord
from tests.reports.example_studies import latency_table, model

NUM_RECORDS = 10_000
TASKS = {"first": 872, "second": 1000}
"""The examples of each task's validation split."""
FORMATS = ("html", "json", "csv", "parquet")
FIRST_RUNG = (Rung(step=250, held_out_loss=1.0),)
STATUSES = (Status.STOPPED, Status.REFUSED, Status.FAILED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the study, its report, and the figures of the report."""
    parser = argparse.ArgumentParser(description="Times the report of a large study.")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="where the figures are written")
    parser.add_argument("--records", type=int, default=NUM_RECORDS, help="the records of the study")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        write_study(study, options.records)
        figures = measure(study, options.records)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures))


def measure(study: Path, num_records: int) -> dict[str, float]:
    """Returns the seconds of the whole process that writes the report of a study, and the size of its page."""
    command = [sys.executable, "-m", "search.cli", "report", str(study), "--format", ",".join(FORMATS)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    html = StudyPaths(root=study).report / "report.html"
    return {"records": num_records, "seconds": round(seconds, 2), "html_bytes": html.stat().st_size}


def write_study(folder: Path, num_records: int) -> None:
    """Writes a simulated study of so many records, the teacher's among them."""
    random = np.random.default_rng(0)
    paths = StudyPaths(root=folder)
    folder.mkdir(parents=True)
    difficulties = {task: random.normal(size=number) for task, number in TASKS.items()}
    records = [_teacher(paths, difficulties, random)]
    while len(records) < num_records:
        records.append(_student(paths, len(records) - 1, difficulties, random))
    paths.records.write_text("".join(f"{to_json(record)}\n" for record in records), encoding="utf-8")
    config = {"name": "large", "objectives": ["accuracy", "latency_ms", "size_bytes"], "seed": 0}
    tasks = [{"name": task} for task in TASKS]
    paths.search_yaml.write_text(yaml.safe_dump({**config, "tasks": tasks}), encoding="utf-8")
    latency_table().save(folder / "latency.json")


def _teacher(paths: StudyPaths, difficulties: dict[str, np.ndarray], random: np.random.Generator) -> TrialRecord:
    architecture = StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12)
    tasks = _results(paths, Role.TEACHER, 0, 0.9, difficulties, random)
    return model(Role.TEACHER, 0, 0.9, architecture, tasks=tasks, latency_ms=120.0)


def _student(
    paths: StudyPaths, number: int, difficulties: dict[str, np.ndarray], random: np.random.Generator
) -> TrialRecord:
    heads, layers = int(random.integers(2, 17)), int(random.integers(1, 13))
    architecture = StudentArchitecture(num_layers=layers, hidden_size=24 * heads, num_heads=heads)
    rates = {
        "distillation_learning_rate": float(10 ** random.uniform(-4, -2)),
        "finetuning_learning_rate": float(10 ** random.uniform(-5, -3)),
    }
    latency_ms = 0.5 + layers * (heads / 8) ** 1.5 * float(random.uniform(0.9, 1.1))
    if number % 8 == 7:
        return _unfinished(number, architecture, rates, latency_ms)
    accuracy = 0.9 - 0.35 / (1 + latency_ms) ** 0.5 - abs(float(random.normal(0, 0.03)))
    loss = 1.0 - accuracy + float(random.normal(0, 0.01))
    tasks = _results(paths, Role.STUDENT, number, accuracy, difficulties, random)
    return model(
        Role.STUDENT,
        number,
        accuracy,
        architecture,
        tasks=tasks,
        latency_ms=latency_ms,
        held_out_loss=loss,
        rungs=tuple(Rung(step=step, held_out_loss=loss + more) for step, more in ((250, 0.2), (500, 0.1), (1000, 0.0))),
        num_steps=1000,
        **rates,
    )


def _unfinished(
    number: int, architecture: StudentArchitecture, rates: dict[str, float], latency_ms: float
) -> TrialRecord:
    status = STATUSES[number // 8 % len(STATUSES)]
    record = model(Role.STUDENT, number, 0.0, architecture, tasks={}, latency_ms=latency_ms, rungs=FIRST_RUNG, **rates)
    record = replace(record, status=status, objectives={})
    if status is Status.STOPPED:
        return replace(record, num_steps=250, stop=Stop(stage="distillation", reason="rung 250"))
    kind = FailureKind.INFEASIBLE if status is Status.REFUSED else FailureKind.OUT_OF_MEMORY
    return replace(record, failure=Failure(kind=kind, message=f"a message of {status}"))


def _results(
    paths: StudyPaths,
    role: Role,
    number: int,
    accuracy: float,
    difficulties: dict[str, np.ndarray],
    random: np.random.Generator,
) -> dict[str, TaskResult]:
    """Returns the results of a model of this accuracy, and writes their outcomes."""
    results = {}
    for task, difficulty in difficulties.items():
        own = difficulty + 0.5 * random.normal(size=len(difficulty))
        is_right = own < np.quantile(own, accuracy)
        value = float(is_right.mean())
        margin = 1.96 * (value * (1 - value) / len(own)) ** 0.5
        results[task] = TaskResult(
            metric="accuracy",
            validation=Evaluation(value=value, low=value - margin, high=value + margin, num_examples=len(own)),
        )
        outcomes: Outcomes = np.column_stack([np.ones(len(own)), is_right])
        save_outcomes(paths.outcomes_of(role, number, task), {"validation": outcomes})
    return results


if __name__ == "__main__":
    main()
