"""Why a student was chosen, in sentences: what it is best at, on what evidence, and which rule asked for that."""

from dataclasses import dataclass

from minilm_core.results.records import TrialRecord
from reports.page import wording
from reports.selection.alternatives import MORE
from reports.selection.preference import Prefer, cheapest_by, cost_of, first_by, is_comparable, preference_for
from reports.selection.requirements import Requirements
from reports.statistics import Resamples
from reports.study import Study, accuracy_of

_TITLES = {
    Prefer.FASTEST: "fastest",
    Prefer.SMALLEST: "smallest",
    Prefer.BEST: "most accurate",
    Prefer.KNEE: "knee (the best balance of the objectives)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Among whom a student was preferred, and for what."""

    prefer: Prefer
    cheap: Prefer
    """Whether the cost is latency or size."""
    num_qualifying: int
    candidates: tuple[TrialRecord, ...]
    """The students within the limits that no other one there beats."""


def reason_for(study: Study, winner: TrialRecord | None, standing: Standing, validation: Resamples) -> str:
    """Says who was chosen, what it is best at, its figures, and what a tie with the most accurate rests on."""
    num_students = len(study.students())
    if winner is None and num_students == 0:
        return "no student can be chosen: the study has no complete one"
    if winner is None:
        return f"no student is within the limits, of {wording.counted(num_students, 'complete student')}"
    accuracy = accuracy_of(winner)
    teacher_accuracy = None if study.teacher is None else accuracy_of(study.teacher)
    share = ""
    if accuracy is not None and teacher_accuracy:
        share = f" ({wording.percentage(accuracy / teacher_accuracy)} of the teacher's)"
    evidence = _evidence(winner, standing, validation) if standing.prefer is Prefer.TIED else ()
    figures = (
        f"{winner.label} ({winner.architecture.label}) is {_place(winner, standing, num_students)}: "
        f"accuracy {wording.accuracy(accuracy)}{share}, latency {wording.latency(winner.latency_ms)}, "
        f"{wording.size(winner.size_bytes)}, {wording.millions(winner.num_parameters)} parameters"
    )
    return "; ".join((figures, *evidence))


def rule_for(study: Study, limits: Requirements, asked: Prefer | None) -> str:
    """Says what is preferred, and why: because it was asked for, or because of what is limited."""
    prefer = asked or preference_for(study, limits)
    title = f"the {_TITLES[prefer]}" if prefer in _TITLES else _tied_title(cheapest_by(study))
    if asked is not None:
        return f"--prefer {asked} asks for {title}"
    if prefer is Prefer.TIED:
        return (
            "nothing is limited, so a more accurate student is preferred to a cheaper one only where the two can be "
            "told apart (--prefer overrides this)"
        )
    if limits.has_accuracy and limits.has_cost:
        cause = "accuracy and cost are both limited"
    elif limits.has_cost:
        cause = "cost is limited and accuracy is not"
    else:
        untimed = ", and latency is no objective of this study" if prefer is Prefer.SMALLEST else ""
        cause = f"accuracy is limited and cost is not{untimed}"
    return f"{cause}, so {title} is preferred (--prefer overrides this)"


def _tied_title(cheap: Prefer) -> str:
    return f"the {_TITLES[cheap]} student on the frontier that cannot be told apart from the most accurate"


def _place(winner: TrialRecord, standing: Standing, num_students: int) -> str:
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
    """Says how far the most accurate is ahead, and what became of the students that are cheaper than the winner."""
    best = _most_accurate(standing)
    cheaper = [s for s in standing.candidates if cost_of(s, standing.cheap) < cost_of(winner, standing.cheap)]
    unmeasured = [student for student in cheaper if not is_comparable(student, best, validation)]
    said: list[str] = []
    if winner is not best:
        lead = validation.difference(best, winner)
        said.append(
            f"{best.label}, the most accurate, is ahead by {wording.unsigned_points(lead.value)} "
            f"({wording.paired_interval(lead)})"
        )
    more = MORE[standing.cheap]
    if unmeasured:
        students = wording.counted(len(unmeasured), f"{more} student")
        said.append(f"{students} could not be compared with it, since labels or predictions were not kept")
    elif cheaper and winner is best:
        said.append(f"every {more} student on the frontier can be told apart from it")
    return tuple(said)


def _most_accurate(standing: Standing) -> TrialRecord:
    return first_by(standing.candidates, Prefer.BEST, standing.cheap)
