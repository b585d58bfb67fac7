"""The command bench: the latency of trained students on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from search.cli.results import check_is_one, chosen_students, refresh
from search.cli.terminal import (
    AsJson,
    Front,
    Picked,
    Trials,
    complain,
    emit_json,
    emit_table,
    existing_study,
    note_study,
    say_next,
)

if TYPE_CHECKING:
    from minilm_core.latency.bench_timings import BenchTiming
    from minilm_core.latency.target import LatencyTarget

TITLES = ("student", "runtime", "call", "p50, ms", "p90, ms", "n", "spread", "load, s", "file, MB", "memory, MB")


def bench(
    context: typer.Context,
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="A study's folder, or the folders of students or packages.",
            metavar="{study | folder...}",
            show_default=False,
        ),
    ],
    front: Front = False,
    picked: Picked = False,
    trial: Trials = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.", show_default="cpu")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="1")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a call.", show_default="1")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens a sequence.", show_default="128")] = None,
    runtime: Annotated[
        str, typer.Option(help="Some of torch, torch-compile, onnxruntime, onnxruntime-int8 and openvino.")
    ] = "torch",
    as_json: AsJson = False,
) -> None:
    """Time trained students on this machine; the timings of a study's are kept beside its records."""
    from search.commands.calibrate import parse_target

    given = {"device": device, "threads": threads, "batch_size": batch_size, "sequence_length": sequence_length}
    known = {name: value for name, value in given.items() if value is not None}
    targets = [parse_target({**known, "runtime": name}) for name in dict.fromkeys(runtime.split(","))]
    if not StudyPaths(root=folders[0]).search_yaml.is_file():
        if front or picked or trial:
            existing_study(folders[0])
        _bench_folders(folders, targets, as_json=as_json)
        return
    if len(folders) > 1:
        raise UserError(f"bench times the students of one study, got {len(folders)} folders")
    check_is_one("bench", front, picked, bool(trial))
    _bench_study(note_study(context, folders[0]), targets, picked=picked, trials=trial, as_json=as_json)


def _bench_study(
    folder: Path, targets: Sequence["LatencyTarget"], *, picked: bool, trials: list[int] | None, as_json: bool
) -> None:
    from dataclasses import asdict

    from reports import load_study, measured
    from search.commands.bench import bench_students, check_targets
    from search.driver.display import step_shown

    paths, study = existing_study(folder), load_study(folder)
    numbers = chosen_students(study, picked=picked, trials=trials)
    students = [student for student in study.students if student.number in numbers]
    if not students:
        raise UserError(f"bench needs a complete student, got none in {folder}")
    check_targets(targets)
    with step_shown("timing trained students") as show:
        found = bench_students(paths, students, targets, show)
    study = load_study(folder)
    refresh(study)
    predicted = {
        (one.student.number, one.timing.target, one.timing.machine): one.predicted_ms for one in measured(study)
    }
    if as_json:
        emit_json({"timings": [{"trial": student.number, **asdict(timing)} for student, timing in found]})
    else:
        rows = []
        for student, timing in found:
            ms = predicted.get((student.number, timing.target, timing.machine))
            label = f"{student.label}: {student.architecture.label}"
            rows.append((label, *_cells(timing), "–" if ms is None else f"{ms:.2f}"))
        emit_table(study.name, (*TITLES, "predicted, ms"), rows)
    _complain_of_noise([(student.label, timing) for student, timing in found])
    say_next("report", folder)


def _bench_folders(folders: Sequence[Path], targets: Sequence["LatencyTarget"], *, as_json: bool) -> None:
    from dataclasses import asdict

    from search.commands.bench import bench_folders, check_targets
    from search.driver.display import step_shown

    for folder in folders:
        if not (folder / "config.json").is_file():
            raise UserError(f"bench needs a study, or folders of students with config.json, got {folder}")
    check_targets(targets)
    with step_shown("timing trained students") as show:
        found = [
            (folder, timing)
            for target in targets
            for folder, timing in zip(folders, bench_folders(folders, target, show), strict=True)
        ]
    if as_json:
        emit_json({"timings": [{"folder": str(folder), **asdict(timing)} for folder, timing in found]})
    else:
        numbers = {folder: str(number) for number, folder in enumerate(folders, start=1)}
        for folder, number in numbers.items():
            typer.echo(f"{number}: {folder}")
        emit_table("students", TITLES, [(numbers[folder], *_cells(timing)) for folder, timing in found])
    _complain_of_noise([(str(folder), timing) for folder, timing in found])


def _cells(timing: "BenchTiming") -> tuple[str, ...]:
    p90 = timing.percentiles_ms.get(90)
    return (
        timing.target.runtime.value,
        timing.target.call,
        f"{timing.p50_ms:.2f}",
        "–" if p90 is None else f"{p90:.2f}",
        f"{timing.num_samples:,}",
        f"{timing.spread:.2f}",
        f"{timing.load_seconds:.2f}",
        "–" if timing.file_bytes is None else f"{timing.file_bytes / 1e6:.2f}",
        "–" if timing.memory_bytes is None else f"{timing.memory_bytes / 1e6:.0f}",
    )


def _complain_of_noise(found: Sequence[tuple[str, "BenchTiming"]]) -> None:
    for label, timing in found:
        if timing.noise is not None:
            complain(f"NOISY: {label} on {timing.target.label}: {timing.noise}")
