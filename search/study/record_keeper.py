"""The keeper of a file of records: it appends each one durably, copies the file to the mirror, and tells of it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from minilm_core.results.record_lines import append_record
from minilm_core.results.records import Status, TrialRecord
from search.study.mirror import mirror_records


class RecordKeeper:
    """Keeps the records of a file, to which more are appended as models end; the last record of a model counts."""

    def __init__(
        self,
        file: Path,
        records: Iterable[TrialRecord],
        mirror_url: str | None,
        on_record: Callable[[TrialRecord], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._file = file
        self._latest = {self._key(record): record for record in records}
        self._mirror_url = mirror_url
        self._on_record = on_record
        self._on_trouble = on_trouble

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """The last record of each model."""
        return tuple(self._latest.values())

    def add(self, record: TrialRecord) -> TrialRecord:
        """Writes a record durably, and returns it."""
        self.add_together([record])
        return record

    def add_together(self, records: Sequence[TrialRecord]) -> None:
        """Writes the records of models that ended together durably."""
        for record in records:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            append_record(self._file, record)
            self._latest[self._key(record)] = record
        # The record of a refused student is mirrored with the next one.
        if any(record.status is not Status.REFUSED for record in records):
            mirror_records(self._file, self._mirror_url, self._on_trouble)
        for record in records:
            self._on_record(record)

    def _key(self, record: TrialRecord) -> tuple[object, ...]:
        """Returns what the records of one model have in common."""
        return record.role, record.number
