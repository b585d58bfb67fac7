"""A study folder as it is read: its records, its frontier, and the facts in the files next to the records."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from minilm_core.errors import UserError
from minilm_core.latency.bench_timings import Benches, read_benches
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.results.frontier import hypervolume, is_on_frontier
from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import Objective, as_costs, objectives_named
from minilm_core.results.record_lines import read_records, read_reruns
from minilm_core.results.records import Role, Status, TrialRecord, most_accurate_first
from minilm_core.settings.schema_version import migrated
from minilm_core.settings.yaml_source import read_yaml
from reports.json_files import read_environment, read_importances
from reports.latency import LatencyFacts, read_latencies
from reports.outcomes import OutcomeFiles, StudyOutcomes
from reports.progress import ProgressPoint, Tried, mean_of_random_orders, progress_of
from reports.trial_rows import accuracy_of, to_pandas, trial_row

if TYPE_CHECKING:
    import pandas

TWINS = (Role.TWIN_FROM_RANDOM_WEIGHTS, Role.TWIN_WITHOUT_SOFT_LABELS, Role.TWIN)
"""The roles of twins, the one that lacks most of its student's recipe first."""
MAX_NEAR = 200
"""The students that are resampled: of more, those far behind the frontier only have the intervals in their records."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """The content of a study folder.

    Every folder has records and a configuration; the other fields are empty or None where their file is missing. The
    figures of the whole study are properties, computed once; methods take arguments or build a new object.
    """

    paths: StudyPaths
    config: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    records: tuple[TrialRecord, ...]
    """The records of students and baselines, in the order in which their trials ended."""
    records_sha256: str
    outcomes: StudyOutcomes
    """The outcomes of every example of each model that has them."""
    environment: Mapping[str, Any]
    latencies: Mapping[str, LatencyFacts]
    """What each latency table says, by the objective that it predicts; empty without tables."""
    importances: Mapping[str, Mapping[str, float]]
    benches: Benches = field(default_factory=dict)
    """The latencies of trained students that were measured."""
    vocabulary: CutVocabulary | None = None
    """The tokens that the students keep; None if they have all their teacher's."""
    ablations: tuple[TrialRecord, ...] = ()
    """The records of twins that `ablate` trained apart from the search."""

    @property
    def path(self) -> Path:
        """The folder of the study."""
        return self.paths.root

    @property
    def name(self) -> str:
        """The name in the configuration, or else that of the folder."""
        return str(self.config.get("name") or self.path.resolve().name)

    @cached_property
    def students(self) -> tuple[TrialRecord, ...]:
        """The complete students: those that can be on the frontier."""
        return tuple(record for record in self.records if record.is_complete_student)

    @cached_property
    def num_seeds(self) -> int:
        """The seeds that fine-tuned each model on each task."""
        return max((result.num_seeds for record in self.records for result in record.tasks.values()), default=1)

    @cached_property
    def teacher(self) -> TrialRecord | None:
        """The teacher, fine-tuned as the students are; None where its fine-tuning is missing or failed."""
        teachers = self._complete(Role.TEACHER)
        return teachers[-1] if teachers else None

    @cached_property
    def best(self) -> TrialRecord | None:
        """The most accurate complete student; the other objectives decide a tie."""
        ranked = most_accurate_first(self.students, self.objectives)
        return ranked[0] if ranked else None

    @cached_property
    def twin(self) -> TrialRecord | None:
        """The twin of the best student, which was not distilled; the twin trained last where the best has none."""
        twins = self._complete(Role.TWIN)
        of_best = [twin for twin in twins if self.best is not None and twin.number == self.best.number]
        return next(reversed(of_best or twins), None)

    @cached_property
    def models(self) -> tuple[TrialRecord, ...]:
        """The records, and those of twins that were trained apart from the search."""
        complete = [record for record in self.records if record.status is Status.COMPLETE]
        kept = {(record.role, record.number) for record in complete}
        return (*self.records, *(twin for twin in self.ablations if (twin.role, twin.number) not in kept))

    @cached_property
    def truncated_teacher(self) -> TrialRecord | None:
        """The teacher's first layers, as many as the best student has; those trained last where none are as many."""
        found = self._complete(Role.TRUNCATED_TEACHER)
        depth = None if self.best is None else self.best.architecture.num_layers
        as_deep = [record for record in found if record.architecture.num_layers == depth]
        return next(reversed(as_deep or found), None)

    @cached_property
    def frontier(self) -> tuple[TrialRecord, ...]:
        """The students that no other student beats in the objectives of the study, the most accurate first."""
        mask = is_on_frontier(self.costs(self.students))
        on_frontier = (student for student, is_on in zip(self.students, mask, strict=True) if is_on)
        return most_accurate_first(on_frontier, self.objectives)

    @cached_property
    def near_frontier(self) -> frozenset[int]:
        """The trials of the complete students that may be on the frontier: the nearest `MAX_NEAR` to it."""
        return self.nearest_to_frontier(self.students)

    def nearest_to_frontier(self, students: Sequence[TrialRecord]) -> frozenset[int]:
        """Returns the trials of the nearest of some complete students to their own frontier, at most `MAX_NEAR`.

        A student's distance is its accuracy's from that of the most accurate student that costs no more.
        """
        others = [column for column, objective in enumerate(self.objectives) if objective.name != "accuracy"]
        if len(students) <= MAX_NEAR or len(others) == len(self.objectives):
            return frozenset(student.number for student in students)
        costs = self.costs(students)
        is_on, costs = is_on_frontier(costs), costs[:, others]
        accuracies = np.array([accuracy_of(student) or 0.0 for student in students])
        highest = np.zeros(len(accuracies))
        for accuracy, cost in zip(accuracies[is_on], costs[is_on], strict=True):
            highest = np.maximum(highest, np.where((cost <= costs).all(axis=1), accuracy, 0.0))
        nearest = np.argsort(highest - accuracies, kind="stable")[: max(MAX_NEAR, int(is_on.sum()))]
        return frozenset(students[index].number for index in nearest)

    @cached_property
    def reference_point(self) -> Mapping[str, float]:
        """The worst value of each objective that the hypervolume counts: the declared one, or the worst student's."""
        if not self.students:
            return {}
        declared = as_costs(np.array([[o.reference for o in self.objectives]]), self.objectives)[0]
        costs = np.where(np.isfinite(declared), declared, self.costs(self.students).max(axis=0))
        values = as_costs(costs[np.newaxis], self.objectives)[0]  # a second flip of the sign undoes the first
        return {o.name: float(value) for o, value in zip(self.objectives, values, strict=True)}

    @cached_property
    def hypervolume(self) -> float:
        """The volume between the frontier and the reference point, in the product of the objectives' units."""
        return hypervolume(self.costs(self.students), self._reference_costs) if self.students else 0.0

    @cached_property
    def progress(self) -> tuple[ProgressPoint, ...]:
        """The state of the search after each trial, in the order in which the trials ended."""
        return tuple(progress_of(self._tried, self._reference_costs))

    @cached_property
    def progress_of_random_orders(self) -> tuple[tuple[float, float], ...]:
        """(Device-hours, mean hypervolume) over random orders of the study's own trials."""
        return tuple(mean_of_random_orders(self._tried, self._reference_costs))

    def student(self, number: int) -> TrialRecord | None:
        """Returns the complete student of that trial; None where there is none."""
        return next((record for record in self.students if record.number == number), None)

    def twins_of(self, number: int) -> tuple[TrialRecord, ...]:
        """Returns the complete twins of a student, the one that lacks most of its recipe first."""
        complete = {twin.role: twin for twin in self._twins if twin.number == number}
        return tuple(complete[role] for role in TWINS if role in complete)

    @cached_property
    def with_twins(self) -> frozenset[int]:
        """The trials of the students that have a complete twin."""
        return frozenset(twin.number for twin in self._twins)

    @cached_property
    def _twins(self) -> tuple[TrialRecord, ...]:
        return tuple(r for r in self.models if r.role in TWINS and r.status is Status.COMPLETE)

    def costs(self, students: Sequence[TrialRecord]) -> Float[np.ndarray, "students objectives"]:
        """Returns the students' objectives as costs: lower is better in every column."""
        values = [[student.objectives[o.name] for o in self.objectives] for student in students]
        return as_costs(np.array(values, dtype=float).reshape(len(students), len(self.objectives)), self.objectives)

    def to_pandas(self) -> "pandas.DataFrame":
        """Returns one row a record, in the order of `records`; `reports/README.md` lists the columns.

        Raises:
            UserError: if a figure of a record does not fit its column.
        """
        frame = to_pandas([trial_row(record) for record in self.records])
        on_frontier = {student.number for student in self.frontier}
        is_on = [record.is_complete_student and record.number in on_frontier for record in self.records]
        frame.insert(list(frame.columns).index("accuracy"), "is_on_frontier", is_on)
        return frame

    @property
    def _reference_costs(self) -> Float[np.ndarray, " objectives"]:
        """The reference point as costs; for a study without students one that no volume reaches."""
        if not self.students:
            return np.zeros(len(self.objectives))
        return np.asarray(as_costs(np.array([list(self.reference_point.values())]), self.objectives)[0])

    @property
    def _tried(self) -> list[Tried]:
        counted = [record for record in self.records if record.counts_for_budget]
        rows = iter(self.costs([record for record in counted if record.is_complete_student]))
        return [
            Tried(
                trial=record.number,
                device_hours=record.device_hours,
                costs=next(rows) if record.is_complete_student else None,
            )
            for record in counted
        ]

    def _complete(self, role: Role) -> list[TrialRecord]:
        return [record for record in self.records if record.role is role and record.status is Status.COMPLETE]


def load_study(path: Path | str) -> Study:
    """Reads a study folder.

    Raises:
        UserError: if the folder is not a study or one of its files cannot be read.
    """
    paths = StudyPaths(root=Path(path))
    if not paths.records.is_file() or not paths.search_yaml.is_file():
        raise UserError(f"a study folder must hold {paths.records.name} and {paths.search_yaml.name}, got {path}")
    # What was measured counts as much as what was recorded: a decision is bound to both.
    benches = paths.benches.read_bytes() if paths.benches.is_file() else b""
    sha256 = hashlib.sha256(paths.records.read_bytes() + benches).hexdigest()
    config = _read_config(paths.search_yaml)
    objectives = objectives_named(config["objectives"])
    records = read_records(paths.records)
    ablations = read_reruns(paths.ablation_records)
    for record in records:
        missing = [o.name for o in objectives if o.name not in record.objectives]
        if record.is_complete_student and missing:
            raise UserError(f"a complete student must have every objective, got {record.label} without {missing[0]}")
    return Study(
        paths=paths,
        config=config,
        objectives=objectives,
        records=records,
        records_sha256=sha256,
        outcomes=OutcomeFiles(paths, (*records, *ablations)),
        environment=read_environment(paths.environment),
        latencies=read_latencies(paths, config),
        importances=read_importances(paths.importances),
        benches=read_benches(paths.benches),
        vocabulary=CutVocabulary.load(paths.vocabulary) if paths.vocabulary.is_dir() else None,
        ablations=ablations,
    )


def _read_config(path: Path) -> dict[str, Any]:
    # The search wrote it with the same reader: in another version of YAML the name 007 is a number.
    config = dict(migrated(read_yaml(path)).content)
    if not isinstance(config.get("objectives"), list):
        raise UserError(f"{path} must be a resolved search with a list of objectives, got none")
    return config
