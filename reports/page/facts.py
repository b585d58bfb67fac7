"""All statements of a report, computed before anything is drawn or written."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minilm_core.results.records import TrialRecord
from reports import wording
from reports.benches import measured, prediction_error
from reports.comparison import Comparison, comparisons, name_of, verdict
from reports.confirmation import load_confirmation
from reports.finetuning_check import load_finetuning_check
from reports.merits import Merits, budgets, merits_of
from reports.other_studies import OtherStudies, beside
from reports.page import tables
from reports.page.caveats import caveats_of
from reports.page.tables import SetTable
from reports.proxy import proxy_quality
from reports.published import PublishedResults, published_results
from reports.selection.answer import Answer, answer, command_line
from reports.selection.preference import is_tied
from reports.statistics import Resamples, Split, accuracy_interval, resample
from reports.stopping import stopping_lines
from reports.study import Study
from reports.trial_rows import Row, accuracy_of
from reports.worth import Worth, worth_of_recipes

SCHEMA_VERSION = 3
"""Version 2 has a list of what recipes were worth, one of each student that has a twin; version 3 has the recommended
student with its merits, and what each budget buys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The content of a report, in the order in which it is shown."""

    name: str
    objectives: tuple[str, ...]
    answer: Answer
    verdict: str
    warnings: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    worths: tuple[Worth, ...]
    """What each part of a recipe was worth, of each student that has a twin, the picked one first."""
    ablate_command: str
    """The command that trains the picked student's twins; empty where it has them, or none is picked."""
    models: tuple[Row, ...]
    """The models compared, with their accuracy on both splits."""
    proxy: str
    """How well the held-out loss ranks students, as a sentence; empty where there are too few of them."""
    finetuning_check: tuple[str, ...]
    """How well the search's fine-tuning ranks students as a full one does, in sentences; empty without a check."""
    stopping: tuple[str, ...]
    """What was stopped early, in sentences; empty where the search stops no student."""
    confirmed: Mapping[int, str]
    """What the study's confirmation found of each candidate, by trial."""
    confirmation: tuple[str, ...]
    """What the study's confirmation says, in sentences; empty without one."""
    set_tables: tuple[SetTable, ...]
    """The scores of the compared models and the frontier on evaluation sets, a table for each task that has some."""
    published: PublishedResults | None
    """What papers published for the tasks of the study, which was not measured here; None where nothing matches."""
    tasks: tuple[str, ...]
    latencies: Mapping[str, str]
    """The titles of the latencies by their objectives, the first target first."""
    has_steps: bool
    """Whether students have different numbers of steps."""
    validation: Resamples
    """Of which the page says which students are tied."""
    merits: Merits | None
    """What the student of the answer offers against the teacher; None where there is no such student."""
    budgets: tuple[Row, ...]
    """What each budget buys."""
    tie: tuple[float, float] | None
    """The accuracies from which on a student cannot be told apart from the most accurate, up to that one."""
    others: OtherStudies | None
    """Other studies beside this one; None without any."""
    frontier: tuple[Row, ...]
    trials: tuple[Row, ...]
    failures: tuple[Row, ...]
    costs: tuple[Row, ...]
    wall_clock_hours: float | None
    preparation_seconds: Mapping[str, float]
    stage_seconds: Mapping[str, float]
    """The seconds that all students together spent in each stage of their trials."""
    trial_times: Mapping[str, float]
    """The seconds that trials held their devices, and those in which they trained or measured."""
    progress: tuple[Row, ...]
    reference_point: Mapping[str, float]
    importances: tuple[Row, ...]
    benches: tuple[Row, ...]
    """Measured latencies beside predicted ones."""
    prediction_error: str
    """How far predictions were off, as a sentence; empty where nothing was measured and predicted."""
    measurement: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    config_text: str
    caveats: tuple[str, ...]

    @property
    def preparation(self) -> str:
        """The time spent before any trial, as a sentence; empty where it was not recorded."""
        if not self.preparation_seconds:
            return ""
        stages = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in self.preparation_seconds.items())
        return f"Preparation, which the device-hours above do not include: {stages}."

    @property
    def stages(self) -> str:
        """What the time of the trials was spent on, as a sentence; empty where it was not recorded."""
        total = sum(self.stage_seconds.values())
        if not total:
            return ""
        shares = ", ".join(
            f"{stage} {wording.percentage(seconds / total)}"
            for stage, seconds in sorted(self.stage_seconds.items(), key=lambda item: -item[1])
        )
        return f"The students' {total:,.0f} s were spent on: {shares}."

    @property
    def overhead(self) -> str:
        """The time of trials in which nothing was trained, as a sentence; empty where it was not recorded."""
        held, busy = (self.trial_times.get(name, 0.0) for name in ("held_seconds", "busy_seconds"))
        if not held:
            return ""
        return (
            f"Of the {held:,.0f} s that trials held their devices, {wording.percentage(max(0.0, 1 - busy / held))} "
            "passed without training or measuring a student: the start of processes, and waiting."
        )

    @property
    def models_drawn(self) -> tuple[Row, ...]:
        """The rows that charts show: of all records, and of the students of other studies."""
        return (*self.trials, *(() if self.others is None else self.others.models))

    @property
    def volume(self) -> str:
        """The reference point of the hypervolume, as a sentence; empty where there is none."""
        if not self.reference_point:
            return ""
        values = self.reference_point.items()
        corner = ", ".join(f"{name} {value:,.0f}" if value >= 1000 else f"{name} {value:.4g}" for name, value in values)
        return (
            f"Hypervolume from the reference point {corner} "
            "(an objective without a declared worst value takes that of the worst student)."
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the content of report.json: the figures as plain values, without the predictions."""
        return {
            "schema_version": SCHEMA_VERSION,
            "study": self.name,
            "objectives": list(self.objectives),
            "answer": self.answer.headline,
            "next": self.answer.command,
            "recommended": self.answer.student,
            "merits": None if self.merits is None else self.merits.as_json(),
            "budgets": list(self.budgets),
            "studies": [] if self.others is None else list(self.others.summary),
            "verdict": self.verdict,
            "warnings": list(self.warnings),
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
            "worth": [worth.as_json() for worth in self.worths],
            "frontier": list(self.frontier),
            "trials": list(self.trials),
            "failures": list(self.failures),
            "costs": list(self.costs),
            "stopping": list(self.stopping),
            "wall_clock_hours": self.wall_clock_hours,
            "preparation_seconds": dict(self.preparation_seconds),
            "stage_seconds": dict(self.stage_seconds),
            "trial_times": dict(self.trial_times),
            "progress": list(self.progress),
            "reference_point": dict(self.reference_point),
            "benches": list(self.benches),
            "published": None if self.published is None else asdict(self.published),
        }


def gather(study: Study, others: Sequence[Study] = ()) -> Facts:
    """Computes the content of the report of a study, with other studies beside it.

    Raises:
        UserError: if the others cannot be compared with it.
    """
    besides, timed = beside(study, others) if others else None, list(measured(study))
    validation, test = resample(study, Split.VALIDATION), resample(study, Split.TEST)
    rows = tables.rows(study, validation)
    by_trial = {row["trial"]: row for row in rows}
    found = comparisons(study, validation, test)
    compared = _compared(study, found)
    first, confirmed = answer(study, validation), load_confirmation(study)
    # The picked one first; the sort keeps the order of the others.
    worths = sorted(worth_of_recipes(study, validation, test), key=lambda worth: worth.student.number != first.picked)
    has_twin = first.picked in {worth.student.number for worth in worths}
    return Facts(
        name=study.name,
        objectives=tuple(objective.name for objective in study.objectives),
        answer=first,
        verdict=verdict(study, validation, test),
        warnings=tuple(_warnings(study, validation)),
        comparisons=found,
        worths=tuple(worths),
        ablate_command=""
        if first.picked is None or has_twin
        else command_line(("ablate", str(study.path), "--picked")),
        models=tuple(_model_row(record, validation, test) for record in compared),
        proxy="" if (quality := proxy_quality(study.students)) is None else quality.sentence,
        finetuning_check=() if (checked := load_finetuning_check(study)) is None else checked.lines(),
        stopping=stopping_lines(study),
        confirmed={} if confirmed is None else confirmed.figures_by_trial,
        confirmation=() if confirmed is None else confirmed.lines(),
        set_tables=tables.set_tables(_distinct([*compared, *study.frontier])),
        published=published_results(study.records),
        tasks=tables.task_names(study),
        latencies=tables.latency_titles(study),
        has_steps=len(_students_by_steps(study)) > 1,
        validation=validation,
        merits=None
        if first.student is None or (recommended := study.student(first.student)) is None
        else merits_of(study, recommended, validation),
        budgets=tuple(tables.budget_rows(budgets(study, validation))),
        tie=_tie(study, validation),
        others=besides,
        frontier=tuple(
            {
                **by_trial[student.number],
                **tables.merit_cells(merits_of(study, student, validation)),
                **tables.measured_cells(study, student),
            }
            for student in study.frontier
        ),
        trials=tuple(rows),
        failures=tuple(tables.failure_rows(study)),
        costs=tuple(tables.cost_rows(study)),
        wall_clock_hours=tables.wall_clock_hours(study),
        preparation_seconds=study.environment.get("seconds") or {},
        stage_seconds=tables.stage_seconds(study),
        trial_times=study.environment.get("trials") or {},
        progress=tuple(_progress_rows(study)),
        reference_point=study.reference_point,
        importances=tuple(_importance_rows(study)),
        benches=tuple(one.as_row() for one in timed),
        prediction_error=prediction_error(timed),
        measurement=tuple(_measurement(study)),
        environment=tuple(
            _flattened({key: value for key, value in study.environment.items() if key not in ("seconds", "trials")})
        ),
        commands=_commands(study, first),
        config_text=study.paths.search_yaml.read_text(encoding="utf-8"),
        caveats=tuple(caveats_of(study, validation.seeds)),
    )


def _tie(study: Study, validation: Resamples) -> tuple[float, float] | None:
    """Returns the accuracies of the students near the frontier that are tied with the most accurate one, as a range."""
    if study.best is None or study.best not in validation:
        return None
    tied = [student for student in study.frontier if is_tied(student, study.best, validation)]
    lowest = min(validation.values[student.role, student.number] for student in tied)
    highest = validation.values[study.best.role, study.best.number]
    return (lowest, highest) if lowest < highest else None


def _commands(study: Study, first: Answer) -> tuple[str, ...]:
    folder = str(study.path)
    commands = (
        ("launch", str(study.paths.search_yaml)),
        first.pick_words,
        ("report", folder),
        ("package", folder, "--picked", "-o", "student"),
    )
    return tuple(command_line(words) for words in commands)


def _warnings(study: Study, validation: Resamples) -> Iterator[str]:
    if study.students:
        students = wording.counted(len(study.students), "complete student")
        trained = "was trained once" if study.num_seeds == 1 else f"was fine-tuned with {study.num_seeds} seeds"
        yield (
            f"Provisional: each student {trained}, and the ranking of {students} is that of the validation "
            "split, which the search optimised: the best of many looks better than it is."
        )
    best, teacher = study.best, study.teacher
    if best is not None and teacher is not None and best in validation and teacher in validation:
        lead = validation.difference(best, teacher)
        if lead.low > 0:
            yield (
                f"{name_of(best).capitalize()} is more accurate than the teacher that it learnt from, by "
                f"{wording.points_interval(lead)}: the teacher's fine-tuning has probably ended too early. Shares of "
                "its accuracy then say little; finetuning.teacher_learning_rate and finetuning.num_epochs govern it."
            )
    by_steps = _students_by_steps(study)
    if len(by_steps) > 1:
        groups = [f"{wording.counted(number, 'student')} had {steps:,} steps" for steps, number in by_steps.items()]
        yield (
            f"Unequal training: {wording.listed(groups)}. A difference between students of different numbers of steps "
            "is one of training, too, and not of their sizes alone."
        )
    for facts in study.latencies.values():
        if facts.is_noisy:
            title = wording.within_a_sentence(facts.title)
            yield f"NOISY: the machine was busy while {title} was calibrated; do not ship on these latencies."
    if not study.outcomes:
        yield "The outcomes of the examples were not kept (outcomes/), so paired intervals are not measured."


def _students_by_steps(study: Study) -> Mapping[int, int]:
    """Returns how many complete students have each number of steps, the smallest number first."""
    return dict(sorted(Counter(student.num_steps for student in study.students).items()))


def _compared(study: Study, found: tuple[Comparison, ...]) -> list[TrialRecord]:
    pairs = (record for comparison in found for record in (comparison.record, comparison.other))
    twins = study.twins_of(study.best.number) if study.best is not None else ()
    records = [study.best, *pairs, *twins, study.teacher]
    return _distinct([record for record in records if record is not None])


def _distinct(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return list({(record.role, record.number): record for record in records}.values())


def _model_row(record: TrialRecord, validation: Resamples, test: Resamples) -> Row:
    accuracy = wording.accuracy(accuracy_of(record))
    of_validation, of_test = accuracy_interval(record, validation), accuracy_interval(record, test)
    return {
        "name": name_of(record),
        "shape": record.architecture.label,
        "validation": accuracy if of_validation is None else wording.interval(of_validation),
        "test": wording.NOT_MEASURED if of_test is None else wording.interval(of_test),
    }


def _progress_rows(study: Study) -> Iterator[Row]:
    final = study.hypervolume
    for point in study.progress:
        yield {
            "trial": point.trial,
            "num_trials": point.num_trials,
            "device_hours": point.device_hours,
            "hypervolume": point.hypervolume,
            "share": point.hypervolume / final if final > 0 else None,
            "num_on_frontier": point.num_on_frontier,
        }


def _importance_rows(study: Study) -> Iterator[Row]:
    for objective, of_objective in study.importances.items():
        for choice, importance in sorted(of_objective.items(), key=lambda item: -item[1]):
            yield {"objective": objective, "choice": choice, "importance": importance}


def _measurement(study: Study) -> Iterator[tuple[str, str]]:
    for facts in study.latencies.values():
        errors = {"of the median": facts.held_out_error, "of the 90th percentile": facts.held_out_p90_error}
        noisy = "NOISY: the machine was busy" if facts.is_noisy else "quiet"
        yield "Device", facts.device_name
        yield f"{facts.title} under", facts.conditions.label
        yield "Predicted figures", facts.statistic_in_words
        for figure, error in errors.items():
            shown = wording.NOT_MEASURED if error is None else wording.percentage(error)
            yield f"Mean error of the prediction {figure}, for students that the table was not fitted to", shown
        yield "Machine during the calibration", noisy


def _flattened(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", " ".join(str(part) for part in value)
        else:
            yield f"{prefix}{key}", "not recorded" if value is None else str(value)
