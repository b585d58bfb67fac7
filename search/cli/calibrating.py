"""The command calibrate: the latency table of a search.yaml's students, or of a space alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm_core.errors import UserError
from search.cli.terminal import AsJson, Overrides, complain, emit_json, emit_table, say_next

if TYPE_CHECKING:
    from minilm_core.latency.table import LatencyTable

DEVICES = typer.Option(help="With --space: cpu or cuda.")
RUNTIMES = typer.Option(help="With --space: torch, onnxruntime or onnxruntime-int8.")
ALSO = typer.Option(help="With --space: a further encoder such as 12x768x12, which is layers, width and heads.")


def calibrate(
    search_yaml: Annotated[Path | None, typer.Argument(help="The search.yaml.", show_default=False)] = None,
    overrides: Overrides = None,
    space: Annotated[str | None, typer.Option(help="In place of a search.yaml: a preset or a file of a space.")] = None,
    model_type: Annotated[str, typer.Option(help="With --space: the students' family in transformers.")] = "bert",
    device: Annotated[str, DEVICES] = "cpu",
    threads: Annotated[int, typer.Option(help="With --space: CPU threads.")] = 1,
    batch_size: Annotated[int, typer.Option(help="With --space: sequences a call.")] = 1,
    sequence_length: Annotated[int, typer.Option(help="With --space: tokens a sequence.")] = 128,
    runtime: Annotated[str, RUNTIMES] = "torch",
    also: Annotated[list[str] | None, ALSO] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file for the table, to be taken along.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if held-out encoders are over 10 % off.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure again even if there is a table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure how long a layer of each width takes on this machine, so that a search can predict latency."""
    from search.commands.calibrate import calibrate_space, calibrate_study, check_error, parse_target

    if (search_yaml is None) == (space is None):
        raise UserError("calibrate needs a search.yaml or --space, and not both")
    if out is not None and out.exists() and not force:
        raise UserError(f"--out must be a new file, or be replaced with --force, got {out}")
    if space is not None:
        if out is None:
            raise UserError("--space must have -o FILE, the file for the table, got none")
        target = parse_target(device, threads, batch_size, sequence_length, runtime)
        tables: Mapping[str, LatencyTable] = {"students": calibrate_space(space, model_type, target, also or ())}
    else:
        assert search_yaml is not None, "it has just been checked"
        tables = calibrate_study(search_yaml, overrides or (), force=force)
    first = tables["students"]
    if as_json:
        # The students' table. The teacher's is a key of it if the teacher's family is another.
        emit_json(first.to_dict() | {name: table.to_dict() for name, table in tables.items() if table is not first})
    for table in tables.values():
        if not as_json:
            _show_table(table)
        if table.noise is not None:
            complain(f"NOISY: {table.noise}")
    if strict:
        check_error(tables)
    if out is not None:
        first.save(out)
        typer.echo(f"wrote {out}; in a search.yaml: latency: {json.dumps({'table': str(out)})}", err=True)
    if search_yaml is not None:
        say_next("launch", search_yaml)


def _show_table(table: "LatencyTable") -> None:
    rows = [
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
