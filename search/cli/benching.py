"""The command bench: the latency of a study's trained students on this machine."""

from typing import Annotated

import typer

from minilm_core.errors import UserError
from search.cli.results import check_is_one, chosen_students, refresh
from search.cli.terminal import (
    AsJson,
    Front,
    Picked,
    StudyFolder,
    Trials,
    complain,
    emit_json,
    emit_table,
    existing_study,
    say_next,
)


def bench(
    study_folder: StudyFolder,
    front: Front = False,
    picked: Picked = False,
    trial: Trials = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.", show_default="cpu")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="1")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences a call.", show_default="1")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens a sequence.", show_default="128")] = None,
    runtime: Annotated[str, typer.Option(help="Some of torch, onnxruntime and onnxruntime-int8.")] = "torch",
    as_json: AsJson = False,
) -> None:
    """Time trained students on this machine, and keep the timings beside the study's records."""
    from dataclasses import asdict

    from reports import load_study, measured
    from search.commands.bench import bench_students
    from search.commands.calibrate import parse_target
    from search.driver.display import step_shown

    check_is_one("bench", front, picked, bool(trial))
    given = {"device": device, "threads": threads, "batch_size": batch_size, "sequence_length": sequence_length}
    known = {name: value for name, value in given.items() if value is not None}
    targets = [parse_target({**known, "runtime": name}) for name in dict.fromkeys(runtime.split(","))]
    paths = existing_study(study_folder)
    study = load_study(study_folder)
    numbers = chosen_students(study, picked=picked, trials=trial)
    students = [student for student in study.students if student.number in numbers]
    if not students:
        raise UserError(f"bench needs a complete student, got none in {study_folder}")
    with step_shown("timing trained students") as show:
        found = bench_students(paths, students, targets, show)
    study = load_study(study_folder)
    refresh(study)
    predicted = {
        (one.student.number, one.timing.target, one.timing.device_name): one.predicted_ms for one in measured(study)
    }
    if as_json:
        emit_json({"timings": [{"trial": student.number, **asdict(timing)} for student, timing in found]})
    else:
        emit_table(
            study.name,
            ("trial", "student", "target", "p50, ms", "p90, ms", "n", "spread", "predicted, ms"),
            [
                (
                    str(student.number),
                    student.architecture.label,
                    timing.target.label,
                    f"{timing.p50_ms:.2f}",
                    f"{timing.percentiles_ms[90]:.2f}" if 90 in timing.percentiles_ms else "–",
                    f"{timing.num_samples:,}",
                    f"{timing.spread:.2f}",
                    "–"
                    if (ms := predicted.get((student.number, timing.target, timing.device_name))) is None
                    else f"{ms:.2f}",
                )
                for student, timing in found
            ],
        )
    for student, timing in found:
        if timing.noise is not None:
            complain(f"NOISY: {student.label} on {timing.target.label}: {timing.noise}")
    say_next("report", study_folder)
