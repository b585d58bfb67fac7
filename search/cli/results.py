"""The verbs after a search: report, show, pick, confirm, ablate, check-finetuning, package and verify."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from minilm_core.errors import UserError
from search.cli.terminal import (
    Address,
    AsJson,
    ExitCode,
    Front,
    Overrides,
    Picked,
    StudyFolder,
    Trials,
    complain,
    emit_json,
    emit_table,
    existing_study,
    note_study,
    say_next,
    shown_path,
)
from search.study.lock import only_driver

if TYPE_CHECKING:
    from reports import ConfirmationResult, FinetuningCheckResult, Study

MAX_LATENCY_HELP = "Median, as in 20ms, 20ms@cpu1,b1,s128,p90 or 5ms@NAME of a target; once for each target."
STRICTLY_HELP = "Choose the most accurate even where a cheaper student cannot be told apart from it."
PREFER_HELP = (
    "fastest, smallest, best, knee, or tied: the cheapest that cannot be told apart from the best. "
    "Default: fastest where accuracy is limited, knee where costs are, too, else tied."
)

_Choice = TypeVar("_Choice", bound=StrEnum)


def report(
    study_folder: StudyFolder,
    others: Annotated[
        list[Path] | None, typer.Argument(help="Other studies, drawn beside it; needs --out.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Default: STUDY/report.")] = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="Some of html, md, json, csv, parquet, svg, png. Default: all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a study, or of several side by side: report.html, report.md, tables and figures."""
    from reports import Format, load_study, write_report

    if others and out is None:
        raise UserError("a report of several studies needs --out, so that it does not replace that of one, got none")

    chosen = tuple(Format) if formats is None else [_choice(Format, "--format", name) for name in formats.split(",")]
    besides = [load_study(other) for other in others or ()]
    written = write_report(load_study(study_folder), out, others=besides, formats=chosen)
    if as_json:
        files = {Format.HTML: ("html", written.html), Format.MARKDOWN: ("markdown", written.markdown)}
        emit_json({**{n: str(file) for kind, (n, file) in files.items() if kind in chosen}, "verdict": written.verdict})
    else:
        typer.echo(written.verdict)
        typer.echo(str(written.html if Format.HTML in chosen else written.folder))
    if written.note is not None:
        typer.echo(written.note, err=True)
    say_next(*written.next_words)


def show(study_folder: StudyFolder, trials: Trials = None, as_json: AsJson = False) -> None:
    """Tell all about one student, or put two side by side, task by task, with paired intervals."""
    from reports import load_study, side_by_side

    study = load_study(study_folder)
    found = side_by_side(study, trials or ())
    if as_json:
        emit_json(found.as_json())
    else:
        emit_table(study.name, found.headings, found.cells())
    first = study.student(found.trials[0])
    if first is not None:
        say_next("package", study_folder, "--trial", first.number, "-o", "student")


def pick(
    study_folder: StudyFolder,
    within: Annotated[str | None, typer.Option(help="Fraction of the teacher's accuracy to give up, as in 1%.")] = None,
    min_accuracy: Annotated[str | None, typer.Option(help="As in 0.9 or 90%.")] = None,
    max_latency: Annotated[list[str] | None, typer.Option(help=MAX_LATENCY_HELP)] = None,
    max_size: Annotated[str | None, typer.Option(help="Size of the weights in fp32, as in 25MB.")] = None,
    max_parameters: Annotated[str | None, typer.Option(help="As in 30M.")] = None,
    prefer: Annotated[str | None, typer.Option(help=PREFER_HELP)] = None,
    certainty: Annotated[str, typer.Option(help="likely: the figures qualify. sure: their intervals do.")] = "likely",
    strictly: Annotated[bool, typer.Option("--strictly", help=STRICTLY_HELP)] = False,
    as_json: AsJson = False,
) -> None:
    """Choose the student to deploy and write decision.json with the reasons."""
    from reports import Certainty, Prefer, Requirements, load_study, write_decision
    from reports import pick as pick_student

    study = load_study(study_folder)
    requirements = Requirements.parse(
        within=within,
        min_accuracy=min_accuracy,
        max_latency=max_latency or (),
        max_size=max_size,
        max_parameters=max_parameters,
    )
    decision = pick_student(
        study,
        requirements,
        prefer=None if prefer is None else _choice(Prefer, "--prefer", prefer),
        certainty=_choice(Certainty, "--certainty", certainty),
        strictly=strictly,
    )
    path = write_decision(study, decision)
    if as_json:
        emit_json(decision.as_json())
    else:
        for line in decision.lines():
            typer.echo(line)
    typer.echo(f"wrote {shown_path(path)}", err=True)
    refresh(study)
    if decision.winner is None:
        raise typer.Exit(ExitCode.NONE_QUALIFIES)
    say_next("package", study_folder, "--picked", "-o", "student")


def confirm(
    context: typer.Context,
    study_folder: StudyFolder,
    front: Front = False,
    picked: Picked = False,
    trial: Trials = None,
    seeds: Annotated[int, typer.Option(help="Fresh seeds of each candidate and of the teacher.")] = 3,
    redistil: Annotated[
        bool, typer.Option("--redistil", help="Distil each seed anew, and not only fine-tune it.")
    ] = False,
    max_device_hours: Annotated[float | None, typer.Option(help="Start no further run after these.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Train fixed candidates with fresh seeds and score them on the split that the search never saw."""
    from reports import decided_pick, load_confirmation, load_study
    from search.config.loading import load_config
    from search.driver.reruns import run_again
    from search.study.confirmation import ConfirmationPlan, fix_plan
    from search.study.resolved import find_study

    check_is_one("confirm", front, picked, bool(trial))
    _check_device_hours(max_device_hours)
    paths = existing_study(study_folder)
    note_study(context, paths.root)
    read = load_study(study_folder)
    candidates = chosen_students(read, picked=picked, trials=trial)
    plan = ConfirmationPlan(candidates=candidates, num_seeds=seeds, redistils=redistil)
    with only_driver(paths):
        study = find_study(load_config(paths.search_yaml).config, paths)
        jobs = plan.jobs(study, read.records)
        fix_plan(paths, plan)
        num_left = run_again(jobs, paths.confirmation_records, max_device_hours=max_device_hours, address=address)
    found = load_confirmation(read)
    if found is None:
        complain("no candidate has two complete runs yet; confirmations/ has the failures")
    refresh(read)
    # The same pick now judges the candidates by their confirmed accuracy.
    is_rejected = found is not None and any(candidate.is_accepted is False for candidate in found.candidates)
    next_words = decided_pick(read) if is_rejected else ("report", str(study_folder))
    _end_reruns(found, next_words, as_json=as_json, has_budget_ended=num_left > 0)


def ablate(
    context: typer.Context,
    study_folder: StudyFolder,
    front: Front = False,
    picked: Picked = False,
    trial: Trials = None,
    max_device_hours: Annotated[float | None, typer.Option(help="Start no further run after these.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Train the twins of chosen students, and say what each part of their recipe was worth."""
    from reports import load_study, worth_of_recipes
    from search.config.loading import load_config
    from search.driver.reruns import run_again
    from search.study.baselines import ablation_jobs
    from search.study.resolved import find_study

    check_is_one("ablate", front, picked, bool(trial))
    _check_device_hours(max_device_hours)
    paths = existing_study(study_folder)
    note_study(context, paths.root)
    read = load_study(study_folder)
    numbers = chosen_students(read, picked=picked, trials=trial)
    with only_driver(paths):
        study = find_study(load_config(paths.search_yaml).config, paths)
        jobs = ablation_jobs(study, read.records, numbers)
        num_left = 0
        if jobs:
            num_left = run_again(jobs, paths.ablation_records, max_device_hours=max_device_hours, address=address)
    read = load_study(study_folder)
    found = [worth for worth in worth_of_recipes(read) if worth.student.number in numbers]
    if as_json:
        emit_json({"worth": [worth.as_json() for worth in found]})
    else:
        for worth in found:
            typer.echo(worth.sentence)
    complete = {(twin.role, twin.number) for number in numbers for twin in read.twins_of(number)}
    num_failed = sum((job.role, job.number) not in complete for job in jobs) - num_left
    if num_failed:
        complain(f"{num_failed} of {len(jobs)} twins failed; trials/twin-*/log.txt has the failures")
    refresh(read)
    say_next("report", study_folder)
    if num_left or num_failed:
        raise typer.Exit(ExitCode.BUDGET if num_left else ExitCode.FAILED)


def check_finetuning(
    context: typer.Context,
    study_folder: StudyFolder,
    preset: Annotated[str | None, typer.Option(help="The full settings, as in finetuning.preset: glue.")] = None,
    overrides: Overrides = None,
    students: Annotated[int, typer.Option(help="Students to draw at random from the complete ones.")] = 10,
    max_device_hours: Annotated[float | None, typer.Option(help="Start no further run after these.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a random part of the students with full settings, and say how well the search ranked them."""
    from reports import load_finetuning_check, load_study
    from search.driver.reruns import run_again
    from search.study.finetuning_check import begun_or_drawn, fix_check, full_finetuning
    from search.study.resolved import find_study

    _check_device_hours(max_device_hours)
    paths = existing_study(study_folder)
    note_study(context, paths.root)
    read = load_study(study_folder)
    full = full_finetuning(paths, preset, overrides or ())
    with only_driver(paths):
        study = find_study(full.config, paths)
        check = begun_or_drawn(full, paths, read.records, num_students=students)
        jobs = check.jobs(study, read.records)
        fix_check(paths, check)
        num_left = run_again(jobs, paths.finetuning_check_records, max_device_hours=max_device_hours, address=address)
    found = load_finetuning_check(read)
    if found is None:
        complain("too few runs are complete to rank the students; finetuning_check/ has the failures")
    refresh(read)
    next_words = ("report", str(study_folder))
    _end_reruns(found, next_words, as_json=as_json, has_budget_ended=num_left > 0)


def package(
    study_folder: StudyFolder,
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.", show_default=False)],
    front: Front = False,
    picked: Picked = False,
    trial: Annotated[int | None, typer.Option(help="The student of this trial.")] = None,
    task: Annotated[str | None, typer.Option(help="Which fine-tuned model; needed where there are several.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also export to ONNX, checked against PyTorch.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also quantise to int8, evaluated on the validation split.")
    ] = False,
    openvino: Annotated[
        bool, typer.Option("--openvino", help="Also write OpenVINO's files, checked against PyTorch.")
    ] = False,
    max_int8_drop: Annotated[float, typer.Option(help="Largest fall of the metric that int8 may cost.")] = 0.005,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the teacher's weights. Default: that of its model card.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing package.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a folder to deploy, or with --front one for each student: model, tokenizer, card, evaluation, checksums."""
    from reports import load_study, picked_trial
    from search.commands.package import Deployment, package_student

    check_is_one("package", front, picked, trial is not None)
    study = existing_study(study_folder)
    if front:
        numbers = [student.number for student in load_study(study_folder).frontier]
        folders = [out / f"trial-{number:04d}" for number in numbers]
        if not numbers:
            raise UserError(f"--front needs a complete student, got none in {study_folder}")
    else:
        numbers, folders = [picked_trial(load_study(study_folder)) if trial is None else trial], [out]
    deployments = [Deployment.choose(study, number, is_picked=picked, task=task) for number in numbers]
    taken = [folder for folder in folders if folder.exists()]
    if front and taken and not overwrite:
        # One package takes minutes with its exports: none is made before it is known that all can be.
        raise UserError(f"{taken[0]} must not exist, or be replaced with --overwrite")
    made = [
        package_student(
            deployment,
            folder,
            licence=licence,
            has_onnx=onnx or int8 or openvino,
            max_int8_drop=max_int8_drop if int8 else None,
            has_openvino=openvino,
            overwrite=overwrite,
        )
        for deployment, folder in zip(deployments, folders, strict=True)
    ]
    packages = [
        {"folder": str(folder), "trial": deployment.record.number, "task": deployment.task.name}
        for folder, deployment in zip(made, deployments, strict=True)
    ]
    if as_json:
        emit_json({"packages": packages} if front else packages[0])
    else:
        for folder in made:
            typer.echo(str(shown_path(folder)))
    say_next("verify", shown_path(made[0]))


def verify(
    folder: Annotated[Path, typer.Argument(help="A packaged student.", show_default=False)], as_json: AsJson = False
) -> None:
    """Load a package in a fresh offline process and check it from its checksums to its outputs."""
    from minilm_core.deployment.verification import verify as check

    found = check(folder)
    if as_json:
        checks = [{"name": c.name, "is_passed": c.is_passed, "detail": c.detail} for c in found.checks]
        emit_json({"folder": str(folder), "is_ok": found.is_ok, "checks": checks})
    else:
        for one in found.checks:
            typer.echo(f"{'ok  ' if one.is_passed else 'FAIL'}  {one.name}: {one.detail}")
    if not found.is_ok:
        raise typer.Exit(ExitCode.FAILED)


def chosen_students(study: "Study", *, picked: bool, trials: Sequence[int] | None) -> tuple[int, ...]:
    """Returns the trials of the students that were chosen, in rising order: by default those on the frontier.

    Raises:
        UserError: if a trial has no complete student, or none was picked.
    """
    from reports import picked_trial

    numbers = [picked_trial(study)] if picked else trials or [student.number for student in study.frontier]
    for number in numbers:
        if study.student(number) is None:
            raise UserError(f"--trial must be that of a complete student, got {number}")
    return tuple(sorted(set(numbers)))


def check_is_one(command: str, *choices: bool) -> None:
    """Refuses a command that chooses its students in no way or in several."""
    if choices.count(True) != 1:
        raise UserError(f"{command} needs one of --front, --picked and --trial")


def _check_device_hours(most: float | None) -> None:
    if most is not None and not most > 0:
        raise UserError(f"--max-device-hours must be positive, got {most:g}")


def _end_reruns(
    found: "ConfirmationResult | FinetuningCheckResult | None",
    next_words: tuple[str, ...],
    *,
    as_json: bool,
    has_budget_ended: bool,
) -> None:
    """Prints what runs apart from the search found, and ends with the exit code for those that are left."""
    unfinished = ExitCode.BUDGET if has_budget_ended else ExitCode.FAILED
    if found is None:
        raise typer.Exit(unfinished)
    if as_json:
        emit_json(found.as_json())
    else:
        for line in found.lines():
            typer.echo(line)
    say_next(*next_words)
    if found.num_complete < found.num_runs:
        raise typer.Exit(unfinished)


def refresh(study: "Study") -> None:
    """Brings the report of a study up to date, if it has one."""
    from reports import refresh_report

    page = shown_path(study.paths.report / "report.html")
    try:
        if refresh_report(study):
            typer.echo(f"refreshed {page}", err=True)
    except OSError as error:
        # The command has done what it was asked for.
        complain(f"{page} was not brought up to date: {error.strerror or error}")


def _choice(kind: type[_Choice], option: str, value: str) -> _Choice:
    if value not in list(kind):
        raise UserError(f"{option} must be one of {', '.join(kind)}, got {value}")
    return kind(value)
