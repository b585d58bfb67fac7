"""Studies with a confirmation whose runs have given accuracies."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from minilm_core.results.layout import TrialPaths
from minilm_core.results.outcomes import save_outcomes
from minilm_core.results.record_lines import append_record
from minilm_core.results.records import Evaluation, Role, TaskResult, TrialRecord
from minilm_core.tasks.metrics import label_outcomes
from reports import Study
from tests.reports.example_studies import TASK, student, teacher


def write_runs(study: Study, accuracies: dict[tuple[Role, int], Sequence[float]], *, has_test: bool = True) -> None:
    candidates = sorted({number for role, number in accuracies if role is Role.STUDENT})
    num_seeds = max(map(len, accuracies.values()))
    plan = {"candidates": candidates, "num_seeds": num_seeds, "redistils": False}
    study.paths.confirmation.write_text(json.dumps(plan), encoding="utf-8")
    study.paths.confirmations.mkdir()
    for (role, number), of_seeds in accuracies.items():
        for seed, accuracy in enumerate(of_seeds, start=1):
            write_run(study, role, number, seed, accuracy, has_test=has_test)


def write_run(study: Study, role: Role, number: int, seed: int, accuracy: float, *, has_test: bool) -> TrialRecord:
    num_examples = 500
    difficulty = np.random.default_rng(7).normal(size=num_examples)
    order = np.argsort(difficulty + 0.3 * np.random.default_rng([seed, number]).normal(size=num_examples))
    right = np.zeros(num_examples)
    right[order[: round(accuracy * num_examples)]] = 1
    value = Evaluation(value=float(right.mean()), low=0.0, high=1.0, num_examples=num_examples)
    tasks = {TASK: TaskResult(metric="accuracy", validation=value, test=value if has_test else None)}
    record = teacher(accuracy, tasks=tasks) if role is Role.TEACHER else student(number, accuracy, tasks=tasks)
    record = replace(record, seed=seed)
    append_record(study.paths.confirmation_records, record)
    outcomes = label_outcomes(np.ones(num_examples), right)
    splits = {"validation": outcomes, **({"test": outcomes} if has_test else {})}
    folder = study.paths.confirmation_folder(seed, role, number)
    save_outcomes(TrialPaths(root=folder).outcomes(TASK), splits)
    return record
