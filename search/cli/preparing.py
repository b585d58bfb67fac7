"""The commands before a search: init, validate, doctor, plan."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minilm_core.errors import UserError
from search.cli.terminal import (
    Address,
    AsJson,
    ExitCode,
    Overrides,
    SearchYaml,
    complain,
    emit_json,
    emit_table,
    say_next,
)

if TYPE_CHECKING:
    from search.commands.doctor import Finding
    from search.commands.estimate import SearchTime
    from search.config.loading import LoadedConfig
    from search.study.resolved import ResolvedStudy


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to write to.", show_default=False)],
    template: Annotated[str, typer.Option(help="quickstart, gpu, cluster, multilingual or paper.")] = "quickstart",
    as_json: AsJson = False,
) -> None:
    """Write a commented search.yaml into a folder; for the quickstart, its data too."""
    templates = resources.files("search") / "templates"
    names = sorted(entry.name.removesuffix(".yaml") for entry in templates.iterdir() if entry.name.endswith(".yaml"))
    if template not in names:
        raise UserError(f"--template must be one of {', '.join(names)}, got {template}")
    search_yaml = folder / "search.yaml"
    if search_yaml.exists():
        raise UserError(f"init must not overwrite a search.yaml, got {search_yaml}")
    folder.mkdir(parents=True, exist_ok=True)
    if template == "quickstart":
        from minilm_core.quickstart_data import write_installed_text

        typer.echo("collecting the documentation of the installed packages, which takes about half a minute", err=True)
        write_installed_text(folder / "data")
    search_yaml.write_text((templates / f"{template}.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    if as_json:
        emit_json({"search_yaml": str(search_yaml), "template": template})
    else:
        typer.echo(f"wrote {search_yaml}")
    say_next("plan", search_yaml)


def validate(search_yaml: SearchYaml, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a search.yaml: every key, value and combination. Nothing is loaded or started."""
    from search.config.compatibility import check_against_teacher, find_teacher_config
    from search.config.loading import load_config

    loaded = load_config(search_yaml, overrides or ())
    teacher = find_teacher_config(loaded)
    space = loaded.config.space if teacher is None else check_against_teacher(loaded.config, teacher)
    result = {
        "name": loaded.config.name,
        "config_sha256": loaded.sha256,
        "num_shapes": space.num_shapes,
        "teacher_checked": teacher is not None,
    }
    if as_json:
        emit_json(result)
    else:
        unchecked = "" if teacher is not None else "; the teacher is not on this machine, so its sizes were not checked"
        typer.echo(f"{search_yaml} is valid: {loaded.config.name}, {space.num_shapes} student shapes{unchecked}")
    say_next("plan", search_yaml)


def doctor(
    search_yaml: Annotated[
        Path | None, typer.Argument(help="A search whose teacher, data and storage are checked too.")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, teacher, data, storage, devices and Ray."""
    from search.commands.doctor import examine

    findings = tuple(examine(search_yaml, address))
    if as_json:
        emit_json({"findings": [finding.to_dict() for finding in findings]})
    else:
        marks = {True: "ok", False: "FAIL", None: "-"}
        rows = [(marks[finding.is_ok], finding.subject, finding.detail) for finding in findings]
        emit_table("", ("", "what", "found"), rows)
    raise typer.Exit(doctors_exit_code(findings))


def doctors_exit_code(findings: "Iterable[Finding]") -> ExitCode:
    """Returns USAGE if a setting or a file that it names is wrong, FAILED if only the machine is, else DONE."""
    wrong = [finding for finding in findings if finding.is_ok is False]
    if not wrong:
        return ExitCode.DONE
    return ExitCode.USAGE if any(finding.is_input for finding in wrong) else ExitCode.FAILED


def plan(
    search_yaml: SearchYaml,
    overrides: Overrides = None,
    is_timed: Annotated[
        bool, typer.Option("--time", help="Measure a few steps, and tell how long the search takes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a search would run, and start nothing."""
    from minilm_core.results.layout import StudyPaths
    from search.cli.plan_rows import plan_rows
    from search.commands.plan import make_plan, packed_tokens
    from search.config.loading import load_config
    from search.driver.calibration import known_tables
    from search.study.resolved import resolve_study

    loaded = load_config(search_yaml, overrides or ())
    teacher = _reachable_teacher(loaded)
    study, num_tokens, time = None, None, None
    if teacher is not None:
        study = known_tables(resolve_study(loaded.config, StudyPaths(root=loaded.config.study_folder), teacher))
        num_tokens = packed_tokens(study.paths)
        time = _search_time(study, num_tokens, is_timed)
    elif is_timed:
        raise UserError(f"--time needs the teacher on this machine, got {loaded.config.teacher.model}")
    made = make_plan(loaded, study, num_tokens, time)
    if as_json:
        emit_json(made.to_dict())
    else:
        emit_table(f"{made.name}: nothing was started", ("", ""), plan_rows(made))
    tables = {} if study is None else study.latency_tables
    if loaded.config.needs_latency_tables and loaded.config.latencies.keys() - tables.keys():
        say_next("calibrate", search_yaml)
    else:
        say_next("launch", search_yaml)


def _search_time(study: "ResolvedStudy", num_tokens: int | None, is_timed: bool) -> "SearchTime | None":
    """Measures the time of a search, or finds what was measured before."""
    from search.commands.plan_time import kept_time, measured_time
    from search.driver.display import step_shown

    if not is_timed:
        return kept_time(study, num_tokens)
    with step_shown("timing a few steps") as show:
        return measured_time(study, num_tokens, show)


def _reachable_teacher(loaded: "LoadedConfig") -> "Mapping[str, Any] | None":
    """Returns the teacher's config.json, from the Hub if need be; None, with a note, if it cannot be reached."""
    from minilm_core.models.teacher import read_config, resolve_config
    from search.config.compatibility import find_teacher_config

    found = find_teacher_config(loaded)
    if found is not None:
        return found
    try:
        file = resolve_config(loaded.config.teacher, loaded.base, is_patient=False)
    except UserError as error:
        complain(f"the sizes of students are unknown: {error}")
        return None
    return read_config(file)
