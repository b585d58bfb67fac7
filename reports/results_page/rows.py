"""The rows of the published results: what the tables and the figure show of each group's models. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from minilm_core.errors import UserError
from minilm_core.results.records import Role
from minilm_core.tasks.metrics import Interval
from reports.results_page.catalogue import Aim, Catalogue, Cell, Group
from reports.results_page.records import ResultRecord, Score
from reports.trial_rows import Row

ROLES = (Role.STUDENT, Role.TWIN, Role.TRUNCATED_TEACHER)
"""The models of a cell beside the teacher, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResults:
    """The records of one cell."""

    cell: Cell
    models: Mapping[Role, ResultRecord]
    is_outdated: bool
    """Whether it was made by another recipe than the one that is declared now."""

    @property
    def student(self) -> ResultRecord:
        """The student."""
        return self.models[Role.STUDENT]

    @property
    def teacher(self) -> ResultRecord:
        """The teacher that the student is compared with."""
        return self.models[Role.TEACHER]

    def share_of_latency(self, record: ResultRecord) -> float:
        """Returns a model's latency over that of the cell's teacher, which was timed on the same machine."""
        return record.latency.median_ms / self.teacher.latency.median_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupResults:
    """The cells of a group that were made, and those that are missing."""

    group: Group
    made: tuple[CellResults, ...]
    missing: tuple[Cell, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that its models were evaluated on."""
        return tuple(dict.fromkeys(task for cell in self.made for task in cell.student.tasks))

    def models(self) -> Iterator[tuple[CellResults, ResultRecord]]:
        """Yields each model once: teachers first, then the models of each cell.

        Cells may share teachers and cut teachers: those of one architecture with equal scores are one model, whose
        latency was predicted anew for each cell.
        """
        seen: set[tuple[object, ...]] = set()
        every = [(cell, cell.teacher) for cell in self.made]
        every += [(cell, cell.models[role]) for cell in self.made for role in ROLES if role in cell.models]
        for cell, record in every:
            own = cell.cell.name if record.role is Role.STUDENT else None
            key = (record.role, record.architecture, record.mean.value, own)
            if key not in seen:
                seen.add(key)
                yield cell, record


def grouped(catalogue: Catalogue, records: Sequence[ResultRecord]) -> tuple[GroupResults, ...]:
    """Sorts the records that are published into the groups of the catalogue.

    Raises:
        UserError: if a record is of a cell that is not declared, or a cell lacks its student or its teacher.
    """
    of_cells: dict[str, dict[Role, ResultRecord]] = {}
    for record in records:
        catalogue.cell(record.cell)
        if not record.overrides:
            of_cells.setdefault(record.cell, {})[record.role] = record
    for name, models in of_cells.items():
        for role in (Role.STUDENT, Role.TEACHER):
            if role not in models:
                raise UserError(f"the records of a cell must include its {role}, got none for {name}")
    return tuple(_group(catalogue, group, of_cells) for group in catalogue.groups)


def _group(catalogue: Catalogue, group: Group, of_cells: Mapping[str, Mapping[Role, ResultRecord]]) -> GroupResults:
    cells = catalogue.cells_of(group)
    made = [
        CellResults(
            cell=cell,
            models=of_cells[cell.name],
            is_outdated=of_cells[cell.name][Role.STUDENT].recipe != catalogue.training_of(cell),
        )
        for cell in cells
        if cell.name in of_cells
    ]
    return GroupResults(
        group=group, made=tuple(made), missing=tuple(cell for cell in cells if cell.name not in of_cells)
    )


def shape(record: ResultRecord) -> str:
    """Returns layers x hidden size."""
    return f"{record.architecture.num_layers}x{record.architecture.hidden_size}"


def model_name(record: ResultRecord) -> str:
    """Returns the name of a model in a table."""
    match record.role:
        case Role.TEACHER:
            return f"fine-tuned teacher, {shape(record)}"
        case Role.STUDENT:
            return f"student {shape(record)}"
        case Role.TWIN:
            return f"twin of {shape(record)}"
        case Role.TRUNCATED_TEACHER:
            return f"cut teacher, {shape(record)}"
        case Role.TWIN_WITHOUT_SOFT_LABELS | Role.TWIN_FROM_RANDOM_WEIGHTS:
            return f"{record.role.value.replace('_', ' ')}, {shape(record)}"


def model_row(cell: CellResults, record: ResultRecord) -> Row:
    """Returns the figures of a model as text; None where it has none."""
    training, is_student = record.training, record.role is Role.STUDENT
    shown: Row = {
        "cell": record.cell,
        "name": model_name(record),
        "mean": percent(record.mean),
        "share": None if record.share_of_teacher is None else percent(record.share_of_teacher),
        "latency_ms": f"{record.latency.median_ms:.1f}",
        "latency_share": f"{cell.share_of_latency(record):.2f}",
        "size": f"{record.size_bytes / 1e6:.1f}",
        "over_twin": _points(record.gain_over_twin) if is_student else None,
        "over_truncated": _points(record.gain_over_truncated_teacher) if is_student else None,
        "tokens": f"{training.num_tokens / 1e6:.1f}" if training.num_tokens else None,
        "device_hours": f"{training.device_hours:.2f}",
        "num_seeds": str(len(training.seeds)),
    }
    for task, scores in record.tasks.items():
        shown[f"{task}"] = score(scores.validation)
        shown[f"{task}/test"] = None if scores.test is None else score(scores.test)
        shown |= {f"{task}/{name}": score(found) for name, found in scores.evaluation_sets.items()}
    return shown


def figures_of(cell: CellResults, record: ResultRecord) -> Row:
    """Returns the figures of a model as numbers: scores and shares as fractions, each with the ends of its interval."""
    figures: Row = {
        "group": record.group,
        "cell": record.cell,
        "role": record.role.value,
        "shape": record.architecture.label,
        **_ends("mean", record.mean),
        **_ends("share_of_teacher", record.share_of_teacher),
        **_ends("gain_over_twin", record.gain_over_twin),
        **_ends("gain_over_truncated_teacher", record.gain_over_truncated_teacher),
        "latency_ms": record.latency.median_ms,
        "latency_origin": record.latency.origin.value,
        "latency_over_teacher": cell.share_of_latency(record),
        "size_bytes": record.size_bytes,
        "num_parameters": record.num_parameters,
        "num_tokens": record.training.num_tokens,
        "device_hours": record.training.device_hours,
        "num_seeds": len(record.training.seeds),
        "date": record.provenance.date,
    }
    for task, scores in record.tasks.items():
        figures |= _ends(f"task_{task}", scores.validation) | _ends(f"task_{task}/test", scores.test)
        for name, found in scores.evaluation_sets.items():
            figures |= _ends(f"task_{task}/{name}", found)
    return figures


def _ends(name: str, value: Interval | Score | None) -> Row:
    return {} if value is None else {name: value.value, f"{name}/low": value.low, f"{name}/high": value.high}


def percent(value: Interval) -> str:
    """Writes a fraction and its interval in percent."""
    return f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def score(value: Score) -> str:
    """Writes a score and its interval in percent."""
    return percent(Interval(value=value.value, low=value.low, high=value.high))


def _points(value: Interval | None) -> str | None:
    """Writes a difference and its interval in percentage points; None where it was not computed."""
    if value is None:
        return None
    return f"{100 * value.value:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


def reached(results: GroupResults, aim: Aim) -> str:
    """Returns one sentence on an aim: the most accurate student that is fast enough, and whether it reaches it."""
    wanted = f"{aim.share_of_accuracy:.0%} of the teacher's mean at {aim.share_of_latency:.2f} of its latency"
    fast = [cell for cell in results.made if cell.share_of_latency(cell.student) <= aim.share_of_latency]
    if not fast:
        return f"Aim: {wanted}. No student that was made is as fast."
    best = max(fast, key=lambda cell: _share(cell.student).value)
    share = _share(best.student)
    verdict = "reached" if share.value >= aim.share_of_accuracy else "not reached"
    return (
        f"Aim: {wanted}: {verdict}. Student {shape(best.student)} has {percent(share)} % "
        f"at {best.share_of_latency(best.student):.2f}."
    )


def _share(student: ResultRecord) -> Interval:
    assert student.share_of_teacher is not None, "a student is compared with its teacher"
    return student.share_of_teacher
