"""The keys of search.yaml below `latency`: the calls whose latency a study predicts. No torch, no Ray."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.latency.table import LatencyTable
from minilm_core.latency.target import LatencyTarget
from minilm_core.paths import located
from minilm_core.results.objectives import LATENCY, latency_objective
from minilm_core.settings.yaml_source import KeyPath, YamlSource, shown
from search.config.names import check_name

_TARGET_KEYS = frozenset(field.name for field in fields(LatencyTarget))


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
        return LatencyTarget(**{key: getattr(self, key) for key in _TARGET_KEYS})

    def read_table(self, key: str = "latency") -> LatencyTable:
        """Returns the table that the settings name below a key.

        Raises:
            UserError: if they name none, it cannot be read, or it is of another target.
        """
        if self.table is None:
            raise UserError(f"{key}.table must name a table, got none")
        table = LatencyTable.load(Path(self.table))
        if table.target != self.target:
            raise UserError(f"{key} must be as its table was measured, {table.target.label}, got {self.target.label}")
        return table


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedLatency(Latency):
    """One of several targets.

    Raises:
        UserError: if a key of the target or its name is out of range.
    """

    name: str
    """What its latencies are called in objectives, limits, records and reports."""

    def __post_init__(self) -> None:
        Latency.__post_init__(self)
        check_name(self.name)


def by_objective(latency: Latency | tuple[NamedLatency, ...]) -> dict[str, Latency]:
    """Returns the targets of a search by the objectives that are their latencies, the first one first."""
    if isinstance(latency, Latency):
        return {LATENCY: latency}
    first, *further = latency
    return {LATENCY: first, **{latency_objective(target.name): target for target in further}}


def complete_from_tables(source: YamlSource, base: Path) -> None:
    """Adds to `latency`, or to each of several, what its table says of the target, where the settings do not say it.

    Raises:
        UserError: if a key is missing and the table cannot be read, or the settings contradict it.
    """
    latency = source.content.get("latency")
    several = enumerate(latency) if isinstance(latency, list) else ()
    for key_path, keys in [(("latency",), latency), *((("latency", index), each) for index, each in several)]:
        # What is no mapping or no text is left to the schema.
        if isinstance(keys, dict) and isinstance(path := keys.get("table"), str):
            _complete(source, key_path, keys, path, base)


def _complete(source: YamlSource, key_path: KeyPath, latency: dict[str, Any], path: str, base: Path) -> None:
    dotted = ".".join(map(str, key_path))
    try:
        file = located(path, base)
        if latency.keys() >= _TARGET_KEYS and not file.exists():
            # The resolved settings of a study, which has its own copy of the table.
            return
        found: Mapping[str, Any] = asdict(LatencyTable.load(file).target)
    except UserError as error:
        raise source.error((*key_path, "table"), f"{dotted}.table: {error}") from error
    for name, value in found.items():
        if latency.setdefault(name, value) != value:
            rule = f"{dotted}.{name} must be {value}, as {dotted}.table was measured"
            raise source.error((*key_path, name), f"{rule}, got {shown(latency[name])}")
