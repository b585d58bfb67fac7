import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import FailureKind
from reports import Prefer, Requirements, Study, pick, write_decision
from reports.selection.answer import STALE, Answer, answer, first_options
from reports.statistics import Split, resample
from tests.reports.example_studies import (
    TASK,
    failed,
    kept_labels,
    student,
    study_of,
    teacher,
    without_interval,
    write_large_study,
)

accuracies = st.integers(0, 200).map(lambda count: count / 200)


def answer_of(study: Study) -> Answer:
    return answer(study, resample(study, Split.VALIDATION))


def requirements_in(words: tuple[str, ...]) -> Requirements:
    """The requirements that the words of a pick state."""
    verb, _, *options = words
    assert verb == "pick"
    named = zip(options[::2], options[1::2], strict=True)
    return Requirements.parse(**{option.removeprefix("--").replace("-", "_"): value for option, value in named})


@settings(deadline=None, derandomize=True)
@given(st.lists(accuracies, min_size=1, max_size=8), accuracies)
def test_the_pick_that_is_proposed_admits_the_student_of_the_headline(found: list[float], of_teacher: float) -> None:
    records = [student(i, accuracy, tasks={}, latency_ms=float(i + 1)) for i, accuracy in enumerate(found)]
    study = study_of(*records, teacher(of_teacher, tasks=without_interval(of_teacher, 0)))
    validation = resample(study, Split.VALIDATION)
    requirements = requirements_in(("pick", "STUDY", *first_options(study, validation)))
    assert requirements.within is not None
    unlimited, limited = pick(study), pick(study, requirements)
    assert limited.winner is not None
    assert unlimited.winner is not None
    assert pick(study_of(unlimited.winner, *study.records[-1:]), requirements).num_qualifying == 1


def test_the_limit_proposed_is_the_tightest_whole_percentage_that_admits_the_headlines_student(
    make_study: Callable[..., Study],
) -> None:
    """The best student has 88 % of its teacher's accuracy, so that `--within 1%` would admit none."""
    study = make_study(
        student(0, 0.66), student(1, 0.75, 4, latency_ms=9.0), teacher(0.85), evaluation=kept_labels(TASK)
    )
    found = answer_of(study)
    assert "trial 1 (4x64 A2)" in found.headline
    assert found.command == f"minilm-search pick {study.path} --within 12%"
    assert found.next_words == ("pick", str(study.path), "--within", "12%")
    assert pick(study, Requirements(within=0.11)).winner is None


def test_without_a_teacher_a_pick_without_limits_is_proposed(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8))
    assert answer_of(study).next_words == ("pick", str(study.path))


def test_the_headline_is_the_pick_without_limits(tmp_path) -> None:
    study = write_large_study(tmp_path / "study")
    decision = pick(study)
    found = answer_of(study)
    assert found.headline == f"Not chosen yet; without limits, {decision.reason}."
    assert [detail for detail in found.details if detail.startswith("Alternative")] == [
        f"Alternative: {mention.reason}." for mention in decision.alternatives
    ]


def test_a_current_decision_is_the_answer_and_the_package_is_next(full_study: Study) -> None:
    decision = pick(full_study, Requirements.parse(max_latency=["6.5ms"]), prefer=Prefer.BEST)
    write_decision(full_study, decision)
    found = answer_of(full_study)
    assert found.headline == f"Chosen: {decision.reason}."
    assert found.next_words == ("package", str(full_study.path), "--picked", "-o", "student")
    assert found.pick_words == ("pick", str(full_study.path), "--max-latency", "6.5ms", "--prefer", "best")


def test_a_decision_for_no_student_is_followed_by_a_pick_that_some_student_meets(full_study: Study) -> None:
    write_decision(full_study, pick(full_study, Requirements(max_size_bytes=1)))
    found = answer_of(full_study)
    assert found.headline == "None chosen: no student is within the limits, of 4 complete students."
    assert pick(full_study, requirements_in(found.next_words)).winner is not None


def test_a_decision_made_from_other_records_is_called_stale(full_study: Study) -> None:
    path = write_decision(full_study, pick(full_study))
    path.write_text(json.dumps({**json.loads(path.read_text()), "records_sha256": "other"}))
    found = answer_of(full_study)
    assert found.details[0] == STALE
    assert found.headline.startswith("Not chosen yet; ")


def test_a_decision_whose_mentions_do_not_name_their_student_is_shown_with_its_number(full_study: Study) -> None:
    path = write_decision(full_study, pick(full_study, prefer=Prefer.BEST))
    content = json.loads(path.read_text())
    del content["rule"], content["options"]
    content["alternatives"] = [{"trial": 7, "reason": "-1.0 points of accuracy against the choice"}]
    path.write_text(json.dumps(content))
    assert answer_of(full_study).details == ("Alternative: trial 7: -1.0 points of accuracy against the choice.",)


@pytest.mark.parametrize("records", [(), (failed(0, FailureKind.CRASH, "broken"),)])
def test_without_a_complete_student_resume_is_next(make_study: Callable[..., Study], records: tuple) -> None:
    study = make_study(*records)
    assert answer_of(study).next_words == ("resume", str(study.path))
