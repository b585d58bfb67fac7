"""The commands before a search: init, validate, doctor, plan."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm_core.errors import UserError
from search.cli.terminal import (
    Address,
    AsJson,
    ExitCode,
    Overrides,
    SearchYaml,
    emit_json,
    emit_table,
    say_next,
)

if TYPE_CHECKING:
    from search.commands.doctor import Finding
    from search.commands.plan import Plan, Span


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


def plan(search_yaml: SearchYaml, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print what a search would run, and start nothing."""
    from minilm_core.results.layout import StudyPaths
    from search.commands.plan import make_plan
    from search.config.compatibility import find_teacher_config
    from search.config.loading import load_config
    from search.driver.calibration import known_tables
    from search.study.resolved import resolve_study

    loaded = load_config(search_yaml, overrides or ())
    teacher = find_teacher_config(loaded)
    study = None
    if teacher is not None:
        study = known_tables(resolve_study(loaded.config, StudyPaths(root=loaded.config.study_folder), teacher))
    made = make_plan(loaded, study)
    if as_json:
        emit_json(made.to_dict())
    else:
        emit_table(f"{made.name}: nothing was started", ("", ""), _plan_rows(made))
    if loaded.config.needs_latency_table and (study is None or study.latency_table is None):
        say_next("calibrate", search_yaml)
    else:
        say_next("launch", search_yaml)


def _plan_rows(made: "Plan") -> list[tuple[str, str]]:
    shapes, trials, text, files = made.shapes, made.trials, made.text, made.files
    vocabulary, assistant, kept = made.vocabulary, made.assistant, files.stable_states_bytes
    # A vocabulary that is not cut yet may become smaller.
    most = "at most " if vocabulary is not None and not vocabulary.is_known else ""
    refused = "an unknown number" if shapes.num_shapes_refused is None else f"{most}{shapes.num_shapes_refused}"
    return [
        ("student shapes", f"{shapes.num_shapes}, {refused} over a limit"),
        *([("assistant", f"{assistant.label}, teaches {assistant.num_shapes} of the shapes")] if assistant else []),
        *([("vocabulary", f"{most}{vocabulary.size:,} of {vocabulary.num_full:,} tokens")] if vocabulary else []),
        ("parameters", most + _figure(shapes.num_parameters, 1e6, " M")),
        ("size in fp32", most + _figure(shapes.size_bytes, 1e6, " MB")),
        ("size in int8", most + _figure(shapes.int8_size_bytes, 1e6, " MB")),
        ("FLOPs a sequence", _figure(shapes.flops, 1e9, " GFLOP", 2)),
        ("predicted latency", _figure(shapes.latency_ms, 1, " ms", 2)),
        ("trials", f"{trials.num_trials}, {trials.max_concurrent_trials} at a time"),
        ("held while running", f"{trials.num_cpus:g} CPU cores, {trials.num_gpus:g} GPUs"),
        ("tokens a student", _figure(text.tokens_per_trial, 1e6, " M", 2)),
        ("corpus at most", _figure(text.max_corpus_tokens, 1e6, " M tokens", 2)),
        ("teacher's targets", _figure(files.targets_bytes, 1e6, " MB")),
        ("epochs a student", _figure(text.epochs_per_trial, 1, "", 2)),
        ("students on disk", most + _figure(files.students_bytes, 1e6, " MB", 0)),
        ("checkpoints on disk", most + _figure(files.checkpoints_bytes, 1e6, " MB", 0)),
        *([("kept for more steps", most + _figure(kept, 1e6, " MB", 0))] if kept is None or kept.high else []),
    ]


def _figure(value: "float | Span | None", scale: float, unit: str, digits: int = 1) -> str:
    """Returns a figure, or a range of it, in multiples of `scale`."""
    from search.commands.plan import Span

    if value is None:
        return "unknown"
    if isinstance(value, Span):
        return f"{value.low / scale:,.{digits}f} to {value.high / scale:,.{digits}f}{unit}"
    return f"{value / scale:,.{digits}f}{unit}"
