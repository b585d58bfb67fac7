"""The keys of search.yaml below `latency`: the calls whose latency a study predicts. No torch, no Ray."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.latency.table import LatencyTable, LatencyTarget
from minilm_core.paths import located
from minilm_core.settings.yaml_source import YamlSource, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency(LatencyTarget):
    """A target, and where its latencies come from.

    Raises:
        UserError: if a key of the target is out of range.
    """

    table: str | None = None
    """A table that `calibrate -o` wrote, on whatever machine; None: this machine's, which is measured if need be."""

    @property
    def target(self) -> LatencyTarget:
        """The target alone."""
        keys = asdict(self)
        del keys["table"]
        return LatencyTarget(**keys)

    def read_table(self) -> LatencyTable:
        """Returns the table that the settings name.

        Raises:
            UserError: if they name none, it cannot be read, or it is of another target.
        """
        if self.table is None:
            raise UserError("latency.table must name a table, got none")
        table = LatencyTable.load(Path(self.table))
        if table.target != self.target:
            raise UserError(f"latency must be as its table was measured, {table.target.label}, got {self.target.label}")
        return table


def complete_from_table(source: YamlSource, base: Path) -> None:
    """Adds to `latency` what its table says of the target, where the settings do not say it.

    Raises:
        UserError: if a key is missing and the table cannot be read, or the settings contradict it.
    """
    latency = source.content.get("latency")
    # What is no mapping or no text is left to the schema.
    if not isinstance(latency, dict) or not isinstance(path := latency.get("table"), str):
        return
    names = asdict(LatencyTarget()).keys()
    try:
        file = located(path, base)
        if names <= latency.keys() and not file.exists():
            # The resolved settings of a study, which has its own copy of the table.
            return
        found: Mapping[str, Any] = asdict(LatencyTable.load(file).target)
    except UserError as error:
        raise source.error(("latency", "table"), f"latency.table: {error}") from error
    for name, value in found.items():
        if latency.setdefault(name, value) != value:
            rule = f"latency.{name} must be {value}, as latency.table was measured"
            raise source.error(("latency", name), f"{rule}, got {shown(latency[name])}")
