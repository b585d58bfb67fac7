"""Tests of the messages of workers, and of the rows in which Tune passes them on."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm_core.errors import FailureKind
from minilm_core.results.records import Status
from search.study.jobs import Job
from search.study.messages import KEY, JobsEnded, Message, WorkerBegun, WorkersLost, decode, encode
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice

losses = st.none() | st.floats(allow_nan=False)
progresses = st.builds(
    Progress,
    stage=st.text(),
    step=st.integers(0, 10**9),
    num_steps=st.integers(1, 10**9),
    loss=losses,
    held_out_loss=losses,
    students=st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
)


begun = st.builds(WorkerBegun, rank=st.integers(0, 64), node=st.text(), placement_group=st.text())


@given(message=progresses | begun | st.builds(WorkersLost, reason=st.text()))
def test_a_message_is_decoded_unchanged(message: Message) -> None:
    assert decode(encode(message)) == message


def test_records_are_decoded_unchanged(study: ResolvedStudy, choice: StudentChoice) -> None:
    jobs = [Job.of_student(study, number, choice) for number in (3, 4)]
    records = (jobs[0].blank_record(Status.STOPPED), jobs[1].failed_record(MemoryError("too large")))
    decoded = decode(encode(JobsEnded(records=records)))
    assert decoded == JobsEnded(records=records)
    assert isinstance(decoded, JobsEnded)
    assert decoded.records[1].failure is not None
    assert decoded.records[1].failure.kind is FailureKind.OUT_OF_MEMORY


def test_an_infinite_loss_is_decoded_unchanged() -> None:
    decoded = decode(encode(Progress(stage="distilling", step=1, num_steps=2, loss=math.inf)))
    assert isinstance(decoded, Progress)
    assert decoded.loss == math.inf


def test_a_row_has_one_key_whose_value_is_text() -> None:
    row = encode(Progress(stage="distilling", step=1, num_steps=2))
    assert row.keys() == {KEY}
    assert isinstance(row[KEY], str)


@pytest.mark.parametrize("wrapped", [dict, lambda row: {**row, "training_iteration": 3, "done": True}])
def test_keys_that_tune_adds_do_not_matter(wrapped: Callable[[dict[str, str]], dict[str, object]]) -> None:
    message = WorkersLost(reason="a node went away")
    assert decode(wrapped(encode(message))) == message


def test_a_trial_that_has_not_reported_has_no_message() -> None:
    assert decode({"training_iteration": 0}) is None
