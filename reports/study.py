"""A study folder, read: its records, its frontier, and the facts that lie beside them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from minilm_core.errors import UserError
from minilm_core.latency.measurements import Statistic
from minilm_core.results import frontier
from minilm_core.results.objectives import Objective, as_costs, objectives_named
from minilm_core.results.records import Role, Status, TrialRecord, most_accurate_first, read_records
from minilm_core.settings.yaml_source import read_yaml
from reports.json_files import read_environment, read_importances, read_json, read_labels
from reports.selection.requirements import Certainty, LatencyConditions, Requirements

if TYPE_CHECKING:
    from reports.selection.choice import Decision
    from reports.selection.preference import Prefer

RECORDS_FILE = "records.jsonl"
CONFIG_FILE = "search.yaml"
DECISION_FILE = "decision.json"
MEDIAN_PERCENTILE = 50
P90 = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyFacts:
    """What latency.json says of the table that predicts the latencies; None where it says nothing."""

    conditions: LatencyConditions
    device_name: str | None
    is_noisy: bool | None
    """Whether the machine was busy while the table was calibrated."""
    held_out_error: float | None
    """Mean relative error of the prediction for students that the table was not fitted on."""
    held_out_p90_error: float | None = None
    """Likewise of the predicted 90th percentile."""
    p90_over_p50: float | None = None
    """What a predicted median is multiplied with for a 90th percentile; None where it was not measured."""
    statistic: str | None = None
    """What is predicted, as `Statistic` names it; None in tables of earlier versions, which predict fastest rounds."""

    @property
    def figure(self) -> str:
        """What is predicted, in words."""
        return "medians" if self.statistic == Statistic.MEDIAN else "medians of the fastest round"

    def covers(self, asked: LatencyConditions) -> bool:
        """Returns whether a latency under these conditions can be told."""
        if asked.percentile == P90 and self.p90_over_p50 is not None:
            asked = replace(asked, percentile=MEDIAN_PERCENTILE)
        return asked.is_covered_by(self.conditions)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressPoint:
    """The state of the search after one more trial."""

    trial: int
    num_trials: int
    """Students tried so far; refused ones count for nothing."""
    device_hours: float
    """Device-hours of the students so far."""
    hypervolume: float
    num_on_frontier: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Study:
    """What a study folder holds. Only the records and the configuration are sure to be there; the rest may be None."""

    path: Path
    config: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    all_records: tuple[TrialRecord, ...]
    records_sha256: str
    evaluation: Mapping[str, Any]
    """Task -> the labels of its splits; empty where they were not kept."""
    environment: Mapping[str, Any]
    latency: LatencyFacts | None
    importances: Mapping[str, Mapping[str, float]]

    @property
    def name(self) -> str:
        """The study's name, else that of its folder."""
        return str(self.config.get("name") or self.path.resolve().name)

    def records(self) -> tuple[TrialRecord, ...]:
        """Returns every record, students, teacher and twins, in the order in which they ended."""
        return self.all_records

    def students(self) -> tuple[TrialRecord, ...]:
        """Returns the complete students: those with a place on, or behind, the frontier."""
        return tuple(record for record in self.all_records if record.is_complete_student)

    @property
    def teacher(self) -> TrialRecord | None:
        """The teacher, fine-tuned as the students are; None where it was not, or has failed."""
        return self._last_complete(Role.TEACHER)

    @property
    def best(self) -> TrialRecord | None:
        """The most accurate complete student, the better in the other objectives on a tie."""
        ranked = most_accurate_first(self.students(), self.objectives)
        return ranked[0] if ranked else None

    @property
    def twin(self) -> TrialRecord | None:
        """The best student's double without distillation; where the best has none, the last one trained."""
        best = self.best
        twins = [r for r in self.all_records if r.role is Role.TWIN and r.status is Status.COMPLETE]
        of_best = [twin for twin in twins if best is not None and twin.number == best.number]
        return next(reversed(of_best or twins), None)

    def student(self, number: int | None) -> TrialRecord | None:
        """Returns the complete student of that trial number, None where there is none."""
        return next((record for record in self.students() if record.number == number), None)

    def frontier(self) -> tuple[TrialRecord, ...]:
        """Returns the students that no other student beats in the study's objectives, the most accurate first."""
        students = self.students()
        mask = frontier.is_on_frontier(self.costs(students))
        on_frontier = (student for student, is_on in zip(students, mask, strict=True) if is_on)
        return most_accurate_first(on_frontier, self.objectives)

    def costs(self, students: Sequence[TrialRecord]) -> Float[np.ndarray, "students objectives"]:
        """Returns the students' objectives as costs: lower is better in every column."""
        values = [[student.objectives[o.name] for o in self.objectives] for student in students]
        return as_costs(np.array(values, dtype=float).reshape(len(students), len(self.objectives)), self.objectives)

    def reference_point(self) -> dict[str, float]:
        """Returns what the hypervolume is measured from: objective -> its declared worst, or the worst student's."""
        students = self.students()
        if not students:
            return {}
        declared = as_costs(np.array([[o.reference for o in self.objectives]]), self.objectives)[0]
        costs = np.where(np.isfinite(declared), declared, self.costs(students).max(axis=0))
        values = as_costs(costs[np.newaxis], self.objectives)[0]  # a second flip of the sign undoes the first
        return {o.name: float(value) for o, value in zip(self.objectives, values, strict=True)}

    def hypervolume(self) -> float:
        """Returns the volume the frontier dominates below the reference point, in the product of the units."""
        return self._hypervolume_of(self.students())

    def progress(self) -> tuple[ProgressPoint, ...]:
        """Returns the search's state after each trial, in the order in which the trials ended."""
        points: list[ProgressPoint] = []
        hours, done = 0.0, list[TrialRecord]()
        for record in self.all_records:
            if not record.counts_for_budget:
                continue
            hours += record.device_hours
            done += [record] if record.is_complete_student else []
            points.append(
                ProgressPoint(
                    trial=record.number,
                    num_trials=len(points) + 1,
                    device_hours=hours,
                    hypervolume=self._hypervolume_of(done),
                    num_on_frontier=int(frontier.is_on_frontier(self.costs(done)).sum()),
                )
            )
        return tuple(points)

    def pick(
        self,
        limits: Requirements | None = None,
        *,
        prefer: "Prefer | None" = None,
        certainty: Certainty = Certainty.LIKELY,
    ) -> "Decision":
        """Returns the student to deploy within the limits; see `reports.selection.choice.pick`."""
        from reports.selection import choice  # choice is built on studies

        return choice.pick(self, limits or Requirements(), prefer, certainty)

    def _hypervolume_of(self, students: Sequence[TrialRecord]) -> float:
        if not students:
            return 0.0
        reference = np.array([list(self.reference_point().values())])
        return frontier.hypervolume(self.costs(students), as_costs(reference, self.objectives)[0])

    def _last_complete(self, role: Role) -> TrialRecord | None:
        found = [r for r in self.all_records if r.role is role and r.status is Status.COMPLETE]
        return found[-1] if found else None


def accuracy_of(record: TrialRecord) -> float | None:
    """Returns the validation accuracy in [0, 1], the mean over tasks; None where the model was not evaluated."""
    if "accuracy" in record.objectives:
        return record.objectives["accuracy"]
    values = [max(0.0, result.validation.value) for result in record.tasks.values()]
    return sum(values) / len(values) if values else None


def student_path(record: TrialRecord) -> str:
    """Returns where the trained student lies, relative to the study folder."""
    return f"trials/{record.number:04d}/student"


def load_study(path: Path | str) -> Study:
    """Reads a study folder.

    Raises:
        UserError: if the folder is no study or one of its files cannot be read.
    """
    path = Path(path)
    if not (path / RECORDS_FILE).is_file() or not (path / CONFIG_FILE).is_file():
        raise UserError(f"a study folder must hold {RECORDS_FILE} and {CONFIG_FILE}, got {path}")
    sha256 = hashlib.sha256((path / RECORDS_FILE).read_bytes()).hexdigest()
    config = _read_config(path / CONFIG_FILE)
    objectives = objectives_named(config["objectives"])
    records = read_records(path / RECORDS_FILE)
    for record in records:
        missing = [o.name for o in objectives if o.name not in record.objectives]
        if record.is_complete_student and missing:
            raise UserError(f"a complete student must have every objective, got {record.label} without {missing[0]}")
    return Study(
        path=path,
        config=config,
        objectives=objectives,
        all_records=records,
        records_sha256=sha256,
        evaluation=read_labels(path / "evaluation.json"),
        environment=read_environment(path / "environment.json"),
        latency=_latency_facts(read_json(path / "latency.json"), config),
        importances=read_importances(path / "importances.json"),
    )


def _read_config(path: Path) -> dict[str, Any]:
    # With the reader of the search that wrote it: in another version of YAML the name 007 is a number.
    config = read_yaml(path).content
    if not isinstance(config.get("objectives"), list):
        raise UserError(f"{path} must be a resolved search with a list of objectives, got none")
    return config


def _latency_facts(table: Mapping[str, Any], config: Mapping[str, Any]) -> LatencyFacts | None:
    """Reads what the table says of itself, and from the configuration what it leaves out."""
    if not table:
        return None
    target = {**(config.get("latency") or {}), **(table.get("target") or {})}
    return LatencyFacts(
        conditions=LatencyConditions(
            device=str(target["device"]).partition(":")[0] if target.get("device") else None,
            num_threads=target.get("num_threads"),
            batch_size=target.get("batch_size"),
            sequence_length=target.get("sequence_length"),
            percentile=MEDIAN_PERCENTILE,
        ),
        device_name=table.get("device"),
        is_noisy=table.get("is_noisy"),
        held_out_error=table.get("held_out_error"),
        held_out_p90_error=table.get("held_out_p90_error"),
        p90_over_p50=table.get("p90_over_p50"),
        statistic=table.get("statistic"),
    )
