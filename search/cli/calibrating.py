"""The command calibrate: the latency table of a search.yaml's students, or of a space alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm_core.errors import UserError
from search.cli.terminal import AsJson, Overrides, complain, emit_json, emit_table, say_next

if TYPE_CHECKING:
    from minilm_core.latency.table import LatencyTable

MODEL = typer.Option(help="With --space: the students' family in transformers, or a config.json.", show_default="bert")
DEVICE = typer.Option(help="With --space: cpu or cuda.", show_default="cpu")
RUNTIME = typer.Option(
    help="With --space: torch, torch-compile, onnxruntime, onnxruntime-int8 or openvino.", show_default="torch"
)
ALSO = typer.Option(help="With --space: a further encoder such as 12x768x12, which is layers, width and heads.")
FORCE = typer.Option("--force", help="Measure again even if there is a table, and replace the file of -o.")


def calibrate(
    search_yaml: Annotated[Path | None, typer.Argument(help="The search.yaml.", show_default=False)] = None,
    overrides: Overrides = None,
    space: Annotated[str | None, typer.Option(help="In place of a search.yaml: a preset or a file of a space.")] = None,
    model: Annotated[str | None, MODEL] = None,
    device: Annotated[str | None, DEVICE] = None,
    threads: Annotated[int | None, typer.Option(help="With --space: CPU threads.", show_default="1")] = None,
    batch_size: Annotated[int | None, typer.Option(help="With --space: sequences a call.", show_default="1")] = None,
    sequence_length: Annotated[
        int | None, typer.Option(help="With --space: tokens a sequence.", show_default="128")
    ] = None,
    runtime: Annotated[str | None, RUNTIME] = None,
    also: Annotated[list[str] | None, ALSO] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file for the table, to be taken along.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if held-out encoders are over 10 % off.")] = False,
    force: Annotated[bool, FORCE] = False,
    as_json: AsJson = False,
) -> None:
    """Measure how long a layer of each width takes on this machine, so that a search can predict latency."""
    from search.commands.calibrate import calibrate_space, calibrate_study, parse_target

    target = {
        "device": device,
        "threads": threads,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "runtime": runtime,
    }
    if (search_yaml is None) == (space is None):
        raise UserError("calibrate needs a search.yaml or --space, and not both")
    if out is not None and (out.is_dir() or (out.exists() and not force)):
        raise UserError(f"--out must be a new file, or be replaced with --force, got {out}")
    given = {name: value for name, value in target.items() if value is not None}
    if search_yaml is not None:
        _refuse({"model": model, "also": also, **given}, "--space; a search.yaml has keys below latency")
        tables = calibrate_study(
            search_yaml,
            overrides or (),
            is_forced=force,
            is_strict=strict,
            has_one_target=out is not None,
            tell=complain,
        )
    else:
        _refuse({"set": overrides}, "a search.yaml")
        if out is None:
            raise UserError("--space must have -o FILE, the file for the table, got none")
        assert space is not None, "it has just been checked"
        tables = {
            "students": calibrate_space(space, model or "bert", parse_target(given), also or (), is_strict=strict)
        }
    _show(tables, as_json=as_json)
    if out is not None:
        next(iter(tables.values())).save(out)
        if len(tables) > 1:
            complain(f"{out} has the students' table alone; a search that it is taken to predicts no teacher's latency")
        typer.echo(f"wrote {out}; in a search.yaml, below latency: table: {json.dumps(str(out.resolve()))}", err=True)
    if search_yaml is not None:
        say_next("launch", search_yaml)


def _refuse(options: Mapping[str, object], only_with: str) -> None:
    """Refuses options that would be ignored."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given:
        raise UserError(f"{', '.join(given)} must be given with {only_with}")


def _show(tables: Mapping[str, "LatencyTable"], *, as_json: bool) -> None:
    if as_json:
        by_name = {name: table.to_dict() for name, table in tables.items()}
        # The students' table. The teacher's is a key of it if the teacher's family is another.
        emit_json(by_name.pop("students", {}) | by_name)
    for table in tables.values():
        if not as_json:
            _show_table(table)
        if table.noise is not None:
            complain(f"NOISY: {table.noise}")


def _show_table(table: "LatencyTable") -> None:
    rows: Sequence[tuple[str, str, str]] = [
        (
            f"hidden {row.width.hidden_size}, {row.width.num_heads} heads",
            f"{row.intercept_ms:.2f} ms",
            f"{row.per_layer_ms:.2f} ms",
        )
        for row in table.rows
    ]
    kind = "" if table.kind is None else f"{table.kind['model_type']}, "
    title = f"{kind}{table.fingerprint.label}, {table.target.label}: median latency"
    emit_table(title, ("width", "before the layers", "each layer"), rows)
    p90_error = table.held_out_p90_error
    tail = "" if p90_error is None else f", their 90th percentiles within {p90_error:.1%}"
    typer.echo(f"medians of held-out encoders were predicted within {table.held_out_error:.1%} on average{tail}")
