"""Why a student was chosen, in sentences: what it is best at, the evidence, and the rule that was applied."""

from dataclasses import dataclass

from minilm_core.results.objectives import LATENCY
from minilm_core.results.records import TrialRecord
from reports import wording
from reports.selection.alternatives import MORE
from reports.selection.preference import Prefer, cheapest_by, cost_of, first_by, is_comparable, preference_for
from reports.selection.requirements import Requirements
from reports.statistics import Resamples
from reports.study import Study
from reports.trial_rows import accuracy_of

_TITLES = {
    Prefer.FASTEST: "fastest",
    Prefer.SMALLEST: "smallest",
    Prefer.BEST: "most accurate",
    Prefer.KNEE: "knee (the best balance of the objectives)",
}


LOW_SHARE = 0.8
"""The share of the teacher's accuracy below which a student is never chosen without a word about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The competition that a student won: its candidates and what was preferred."""

    prefer: Prefer
    cheap: Prefer
    """The cost, latency or size, as a preference."""
    num_qualifying: int
    candidates: tuple[TrialRecord, ...]
    """The qualifying students that no other qualifying one beats."""


def reason_for(study: Study, winner: TrialRecord | None, standing: Standing, validation: Resamples) -> str:
    """Returns which student was chosen, what it is best at, its figures, and the evidence for a tie."""
    num_students = len(study.students)
    if winner is None and num_students == 0:
        return "no student can be chosen: the study has no complete one"
    if winner is None:
        return f"no student is within the limits, of {wording.counted(num_students, 'complete student')}"
    evidence = _evidence(winner, standing, validation) if standing.prefer is Prefer.TIED else ()
    figures = (
        f"{winner.label} ({winner.architecture.label}) is {_position(winner, standing, num_students)}: "
        f"accuracy {wording.accuracy(accuracy_of(winner))}{_share(study, winner, validation)}, "
        f"latency {_latencies(study, winner)}, "
        f"{wording.size(winner.size_bytes)}, {wording.millions(winner.num_parameters)} parameters"
    )
    return "; ".join((figures, *evidence, *_warning(study, winner)))


def _warning(study: Study, winner: TrialRecord) -> tuple[str, ...]:
    accuracy, teacher = accuracy_of(winner), None if study.teacher is None else accuracy_of(study.teacher)
    if accuracy is None or not teacher or accuracy >= LOW_SHARE * teacher:
        return ()
    return (f"BEWARE: that is less than {LOW_SHARE:.0%} of the teacher's accuracy",)


def _latencies(study: Study, winner: TrialRecord) -> str:
    """Returns the latency on each target, which is named where it has a name."""
    named = {objective: facts.name for objective, facts in study.latencies.items()} or {LATENCY: None}
    return ", ".join(
        f"{wording.latency(winner.latency_on(objective))}{'' if name is None else f' at {name}'}"
        for objective, name in named.items()
    )


def _share(study: Study, winner: TrialRecord, validation: Resamples) -> str:
    """Returns the share of the teacher's accuracy in brackets, with its paired interval where it was measured."""
    accuracy, teacher = accuracy_of(winner), study.teacher
    teacher_accuracy = None if teacher is None else accuracy_of(teacher)
    if teacher is None or accuracy is None or not teacher_accuracy:
        return ""
    share = wording.percentage(accuracy / teacher_accuracy)
    if winner in validation and teacher in validation:
        share = wording.share(validation.ratio(winner, teacher))
    return f" ({share} of the teacher's)"


def rule_for(study: Study, requirements: Requirements, requested: Prefer | None, *, strictly: bool = False) -> str:
    """Returns what is preferred, and why: because it was requested, or because of the requirements."""
    prefer = requested or preference_for(study, requirements, strictly=strictly)
    title = f"the {_TITLES[prefer]}" if prefer in _TITLES else _tied_title(cheapest_by(study))
    if requested is not None:
        return f"--prefer {requested} asks for {title}"
    if requirements.has_accuracy and requirements.has_cost:
        cause = "accuracy and cost are both limited"
    elif requirements.has_cost:
        cause = "cost is limited and accuracy is not"
    elif requirements.has_accuracy:
        untimed = ", and latency is no objective of this study" if prefer is Prefer.SMALLEST else ""
        cause = f"accuracy is limited and cost is not{untimed}"
    else:
        cause = "nothing is limited"
    if prefer is Prefer.TIED:
        return (
            f"{cause}, so a more accurate student is preferred to a cheaper one only where the two can be told apart "
            "(--strictly and --prefer override this)"
        )
    by_option = ", even where it cannot be told apart from a cheaper one, as --strictly asks"
    return f"{cause}, so {title} is preferred{by_option * (prefer is Prefer.BEST)} (--prefer overrides this)"


def _tied_title(cheap: Prefer) -> str:
    return f"the {_TITLES[cheap]} student on the frontier that cannot be told apart from the most accurate"


def _position(winner: TrialRecord, standing: Standing, num_students: int) -> str:
    everyone = wording.counted(num_students, "complete student")
    num_qualifying = standing.num_qualifying
    if num_qualifying == 1:
        return "the only complete student" if num_students == 1 else f"the only one within the limits, of {everyone}"
    within = "" if num_qualifying == num_students else f"{num_qualifying} students within the limits, out of "
    among = f"of the {within}{everyone}"
    if standing.prefer is not Prefer.TIED:
        return f"the {_TITLES[standing.prefer]} {among}"
    if winner is _most_accurate(standing):
        return f"the most accurate {among}"
    return f"{_tied_title(standing.cheap)}, out {among}"


def _evidence(winner: TrialRecord, standing: Standing, validation: Resamples) -> tuple[str, ...]:
    """Returns the lead of the most accurate student, and why the students cheaper than the winner were not chosen."""
    best = _most_accurate(standing)
    cheaper = [s for s in standing.candidates if cost_of(s, standing.cheap) < cost_of(winner, standing.cheap)]
    unmeasured = [student for student in cheaper if not is_comparable(student, best, validation)]
    clauses: list[str] = []
    if winner is not best:
        lead = validation.difference(best, winner)
        clauses.append(
            f"{best.label}, the most accurate, is ahead by {wording.unsigned_points(lead.value)} "
            f"({wording.paired_interval(lead)})"
        )
    more = MORE[standing.cheap]
    if unmeasured:
        students = wording.counted(len(unmeasured), f"{more} student")
        clauses.append(f"{students} could not be compared with it, since outcomes were not kept")
    elif cheaper and winner is best:
        clauses.append(f"every {more} student on the frontier can be told apart from it")
    return tuple(clauses)


def _most_accurate(standing: Standing) -> TrialRecord:
    return first_by(standing.candidates, Prefer.BEST, standing.cheap)
