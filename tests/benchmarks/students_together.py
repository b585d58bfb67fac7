"""The time that is saved if several students share the teacher's forward pass, compared with one run for each.

    python -m tests.benchmarks.students_together [--pair 6x384-3x192] [--students 3] [--steps 50] [--precision auto]

The two ways take turns after each step, so that other load on the machine affects both.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import StudentRun, distil, distil_together
from minilm_core.settings.schedules import DistillationSchedule, Precision
from minilm_core.training.devices import resolve_precision
from tests.benchmarks.cases import CASES, SHORT, Case, Pair
from tests.benchmarks.steps import (
    CPU,
    LEARNING_RATE,
    SEED,
    build_student,
    online_targets,
    random_corpus,
    relation_encoder,
    schedule_of,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints one line."""
    options = parsed(arguments)
    # By default, a worker of a search has one CPU core.
    torch.set_num_threads(1)
    case = Case(pair=options.pair, batch=SHORT)
    schedule = schedule_of(case, resolve_precision(options.precision, CPU))
    together, apart = _together(case, schedule, options.students), _apart(case, schedule, options.students)
    seconds: dict[str, list[float]] = {"together": [], "apart": []}
    # The first step of each way allocates memory and is not counted.
    for _ in range(1 + options.steps):
        seconds["together"].append(_timed(lambda: next(together)))
        seconds["apart"].append(_timed(lambda: [next(run) for run in apart]))
    medians = {way: statistics.median(of_steps[1:]) for way, of_steps in seconds.items()}
    print(
        f"{case.pair.label} at {case.batch.label}, {options.students} students, {schedule.precision}, medians of "
        f"{options.steps} steps: apart {medians['apart']:.3f} s, together {medians['together']:.3f} s, "
        f"ratio {medians['apart'] / medians['together']:.2f}"
    )


def _together(case: Case, schedule: DistillationSchedule, num_students: int) -> Iterator[object]:
    distillation_data = DistillationData(corpus=random_corpus(case.batch), targets=online_targets(case.pair, schedule))
    runs = [
        StudentRun(student=relation_encoder(build_student(case.pair), schedule), learning_rate=LEARNING_RATE)
        for _ in range(num_students)
    ]
    return distil_together(runs, distillation_data, schedule, seed=SEED)


def _apart(case: Case, schedule: DistillationSchedule, num_students: int) -> list[Iterator[object]]:
    return [
        distil(
            relation_encoder(build_student(case.pair), schedule),
            DistillationData(corpus=random_corpus(case.batch), targets=online_targets(case.pair, schedule)),
            schedule,
            learning_rate=LEARNING_RATE,
            seed=SEED,
        )
        for _ in range(num_students)
    ]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    pairs: dict[str, Pair] = {case.pair.label: case.pair for case in CASES}
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.students_together")
    parser.add_argument("--pair", choices=sorted(pairs), default="6x384-3x192")
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--precision", type=Precision, choices=list(Precision), default=Precision.AUTO)
    options = parser.parse_args(arguments)
    options.pair = pairs[options.pair]
    return options


if __name__ == "__main__":
    main()
