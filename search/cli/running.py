"""The commands of a running search: launch, status, resume."""

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.settings.quantities import parse_count
from search.cli.terminal import (
    Address,
    AsJson,
    ExitCode,
    Front,
    Overrides,
    Picked,
    SearchYaml,
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
from search.study.mirror import check_mirror

if TYPE_CHECKING:
    from search.study.resolved import ResolvedStudy
    from search.study.status import StudyStatus


def launch(
    context: typer.Context,
    search_yaml: SearchYaml,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Run a search; a study of the same settings continues from where it stands."""
    from search.config.loading import load_config
    from search.study.relaunch import validate_relaunch
    from search.study.resolved import find_study

    config = load_config(search_yaml, overrides or ()).config
    # Before the folder is made: settings that do not fit the teacher leave nothing behind.
    study = find_study(config, StudyPaths(root=config.study_folder))
    note_study(context, study.paths.root)
    if config.storage.mirror is not None:
        check_mirror(config.storage.mirror)
    with only_driver(study.paths):
        if study.paths.search_yaml.exists() and validate_relaunch(study.paths, config):
            folder = shown_path(study.paths.root)
            complain(f"the assistant in {folder} was made with other settings and is distilled again")
        _run(study, address, as_json)


def resume(
    study_folder: StudyFolder,
    add_trials: Annotated[
        int,
        typer.Option(help="Trials to add once all trials asked for before have ended; until then, none is added."),
    ] = 0,
    add_steps: Annotated[
        str | None,
        typer.Option(help="Steps, as in 20k, that finished students of a study with schedule wsd go on for."),
    ] = None,
    front: Front = False,
    picked: Picked = False,
    trial: Trials = None,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted search, ask it for more trials, or its students for more steps.

    --add-steps takes the students of --front, which is the default, of --picked or of --trial. --set may change what is
    below budget, limits, resources and stopping.
    """
    from search.config.loading import load_config
    from search.study.relaunch import extended, validate_relaunch
    from search.study.resolved import find_study

    if add_trials < 0:
        raise UserError(f"--add-trials must be at least 0, got {add_trials}")
    _check_choice(add_trials, add_steps, [front, picked, bool(trial)].count(True))
    study = existing_study(study_folder)
    try:
        with only_driver(study):
            earlier = load_config(study.search_yaml, overrides or ()).config
            validate_relaunch(study, earlier)
            if add_steps is not None:
                _add_steps(study, add_steps, picked=picked, trials=trial)
            config = extended(study, earlier, add_trials)
            if add_trials and config == earlier:
                complain(
                    f"--add-trials adds none until all {config.budget.num_trials} trials asked for before have ended; "
                    f"the search continues with those"
                )
            _run(find_study(config, study), address, as_json)
    except KeyboardInterrupt:
        # The same command might add trials again, so the message names one that does not.
        words = shlex.join(["minilm-search", "resume", str(study_folder)])
        complain(f"interrupted; nothing recorded is lost. `{words}` continues from here.")
        raise SystemExit(ExitCode.INTERRUPTED) from None


def _check_choice(add_trials: int, add_steps: str | None, num_choices: int) -> None:
    if add_steps is not None and add_trials:
        raise UserError("resume takes one of --add-trials and --add-steps, got both")
    if num_choices > 1:
        raise UserError("resume takes one of --front, --picked and --trial, got several")
    if num_choices and add_steps is None:
        raise UserError("--front, --picked and --trial choose the students of --add-steps, got none")


def _add_steps(study: StudyPaths, add_steps: str, *, picked: bool, trials: list[int] | None) -> None:
    """Notes which students go on for how many more steps, unless there is something left to do before."""
    from reports import load_study
    from search.cli.results import chosen_students
    from search.config.loading import load_config
    from search.study.more_steps import ask_for_more_steps, check_can_go_on

    config = load_config(study.search_yaml).config
    check_can_go_on(config)
    num_more = parse_count(add_steps)
    if num_more < 1:
        raise UserError(f"--add-steps must be at least 1, got {add_steps}")
    numbers = chosen_students(load_study(study.root), picked=picked, trials=trials)
    if not ask_for_more_steps(study, config, numbers, num_more):
        complain(
            "--add-steps adds none until all trials and all steps asked for before have ended; the search continues "
            "with those"
        )


def status(study_folder: StudyFolder, as_json: AsJson = False) -> None:
    """Print how far a study is."""
    from search.study.status import read_status

    found = read_status(existing_study(study_folder))
    if as_json:
        emit_json(found.to_dict())
    else:
        typer.echo(found.headline())
        if found.running:
            rows = [
                (work, f"{line.progress.stage} {line.progress.step}/{line.progress.num_steps}", line.time)
                for work, line in found.running
            ]
            emit_table("", ("running", "stage", "last progress"), rows)
    _say_what_follows(found, study_folder)


def _run(study: "ResolvedStudy", address: str | None, as_json: bool) -> None:
    """Runs a study whose lock is held, and prints how it ended."""
    from minilm_core.atomic import write_text_atomically
    from search.config.loading import resolved_yaml
    from search.driver.run import run_study
    from search.study.environment import write_environment
    from search.study.ledger import Ending
    from search.study.status import read_status

    text = resolved_yaml(study.config)
    write_text_atomically(study.paths.search_yaml, text)
    write_environment(study.config, hashlib.sha256(text.encode()).hexdigest(), study.paths)
    outcome = run_study(study, address)
    found = read_status(study.paths, has_ended=True)
    if as_json:
        emit_json({**found.to_dict(), "ending": str(outcome.ending)})
    else:
        typer.echo(f"{found.headline()}; {outcome.ending}")
        typer.echo(str(shown_path(study.paths.root)))
    if outcome.failure is not None and outcome.failure.failure is not None:
        complain(f"{outcome.ending}:")
        complain(outcome.failure.failure.traceback or outcome.failure.failure.message)
        raise typer.Exit(ExitCode.FAILED)
    for failed in outcome.failed_extensions:
        reason = failed.failure.message if failed.failure is not None else ""
        complain(f"{failed.label} stays as it was, because its further steps failed: {reason}; resume tries again")
    if outcome.failed_extensions:
        raise typer.Exit(ExitCode.FAILED)
    if outcome.num_complete == 0:
        complain("no trial ended with a student; records.jsonl and trials/*/log.txt have the failures")
        raise typer.Exit(ExitCode.FAILED)
    say_next("report", shown_path(study.paths.root))
    if outcome.ending is Ending.DEVICE_HOURS:
        raise typer.Exit(ExitCode.BUDGET)


def _say_what_follows(found: "StudyStatus", folder: Path) -> None:
    from search.study.status import State

    match found.state:
        case State.INTERRUPTED:
            say_next("resume", folder)
        case State.DONE:
            say_next("report", folder)
        case State.RUNNING:
            pass
