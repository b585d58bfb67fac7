from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import UserError
from reports.latency import LatencyConditions
from reports.selection.requirements import (
    LatencyLimit,
    Requirements,
    parse_accuracy,
    parse_latency,
    parse_percentage,
)


def test_a_percentage_is_a_fraction() -> None:
    assert parse_percentage("1%") == 0.01
    assert parse_percentage("0.5 %") == 0.005


def test_an_accuracy_is_read_as_a_fraction_or_a_percentage() -> None:
    assert parse_accuracy("0.9") == parse_accuracy("90%") == 0.9


def test_a_latency_without_conditions_names_none() -> None:
    assert parse_latency("20ms") == LatencyLimit(max_ms=20.0)


def test_a_latency_is_read_with_its_conditions() -> None:
    conditions = LatencyConditions(device="cpu", num_threads=1, batch_size=1, sequence_length=128, percentile=90)
    assert parse_latency("0.02s@cpu1,b1,s128,p90") == LatencyLimit(max_ms=20.0, conditions=conditions, target="cpu1")
    on_gpu = LatencyConditions(device="cuda", sequence_length=64)
    assert parse_latency("20ms@cuda,s64") == LatencyLimit(max_ms=20.0, conditions=on_gpu, target="cuda")


@pytest.mark.parametrize("target", ["gpu-b32", "phone", "b", "cuda2", "tpu1", "0.5-core"])
def test_a_latency_may_name_its_target_before_its_conditions(target: str) -> None:
    assert parse_latency(f"20ms@{target}") == LatencyLimit(max_ms=20.0, target=target)
    at_p90 = LatencyLimit(max_ms=20.0, target=target, conditions=LatencyConditions(percentile=90))
    assert parse_latency(f"20ms@{target},p90") == at_p90


def test_what_could_be_a_target_or_a_condition_is_taken_for_both() -> None:
    conditions = LatencyConditions(device="cpu", num_threads=1)
    assert parse_latency("20ms@cpu1") == LatencyLimit(max_ms=20.0, conditions=conditions, target="cpu1")
    assert str(parse_latency("20ms@cpu1,p90")) == "20ms@cpu1,p90"


@pytest.mark.parametrize("written", [{"max_size": "25"}, {"max_latency": ["20"]}, {"max_latency": ["20@cpu1"]}])
def test_a_number_without_its_unit_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must have a unit, as in"):
        Requirements.parse(**written)


@pytest.mark.parametrize("text", ["1", "0.01", "%", "-1%", "1%%"])
def test_a_percentage_without_its_sign_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a percentage must be written like 1%"):
        parse_percentage(text)


@pytest.mark.parametrize("text", ["high", "", "-0.9", "1e-1"])
def test_an_accuracy_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"an accuracy must be written like 0\.9"):
        parse_accuracy(text)


@pytest.mark.parametrize("text", ["ms", "20min", "@cpu1", "-1ms"])
def test_a_text_that_is_not_a_latency_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a duration must be positive milliseconds such as 20, 20ms"):
        parse_latency(text)


@pytest.mark.parametrize(
    "qualifier", ["", "cpu1,", "cpu1,cpu2", "b1,b2", "s128 b1", "p90;b1", "cpu1,phone", "Phone", "phone,laptop"]
)
def test_a_text_that_is_not_a_list_of_conditions_is_refused(qualifier: str) -> None:
    with pytest.raises(UserError, match="a latency's conditions must be like cpu1,b1,s128,p50"):
        parse_latency(f"20ms@{qualifier}")


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"within": 1.5}, "within must lie between 0% and 100%, got 150%"),
        ({"within": -0.1}, "within must lie between 0% and 100%, got -10%"),
        ({"min_accuracy": 90.0}, "min_accuracy must lie between 0 and 1, got 90"),
        ({"max_size_bytes": 0}, "max_size_bytes must be positive, got 0"),
        ({"max_parameters": -1}, "max_parameters must be positive, got -1"),
    ],
)
def test_a_limit_outside_its_range_is_refused(fields: dict[str, float], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        Requirements(**fields)


def test_a_limit_of_a_latency_must_be_positive() -> None:
    with pytest.raises(UserError, match="max_latency must be positive, got 0 ms"):
        LatencyLimit(max_ms=0.0)


def test_requirements_are_read_as_a_user_writes_them() -> None:
    assert Requirements.parse(
        within="1%", max_latency=["20ms@b1", "5ms@phone"], max_size="25MB", max_parameters="30M"
    ) == Requirements(
        within=0.01,
        latencies=(
            LatencyLimit(max_ms=20.0, conditions=LatencyConditions(batch_size=1), target="b1"),
            LatencyLimit(max_ms=5.0, target="phone"),
        ),
        max_size_bytes=25_000_000,
        max_parameters=30_000_000,
    )


def test_conditions_are_covered_where_each_named_one_was_measured() -> None:
    measured = LatencyConditions(device="cpu", num_threads=1, batch_size=1, sequence_length=128, percentile=50)
    assert LatencyConditions(device="cpu", percentile=50).is_covered_by(measured)
    assert not LatencyConditions(device="cpu", percentile=90).is_covered_by(measured)
    assert not LatencyConditions(batch_size=1).is_covered_by(LatencyConditions(device="cpu"))


parsed_requirements = st.builds(
    Requirements.parse,
    within=st.none() | st.integers(0, 1000).map(lambda tenths: f"{tenths / 10}%"),
    min_accuracy=st.none() | st.floats(0, 1).map(lambda value: f"{value:.4f}"),
    max_latency=st.lists(
        st.tuples(
            st.integers(1, 10**6),
            st.sampled_from(["", "@cpu1,b1,s128,p90", "@cpu4,onnxruntime-int8", "@cuda,s64", "@p50", "@phone,p90"]),
        ).map(lambda parts: f"{parts[0] / 1000:.3f}ms{parts[1]}"),
        max_size=3,
    ),
    max_size=st.none() | st.integers(1, 10**12).map(lambda size: f"{size}B"),
    max_parameters=st.none() | st.integers(1, 10**10).map(str),
)


@settings(deadline=None, derandomize=True)
@given(parsed_requirements)
def test_requirements_written_as_options_are_read_as_the_same_requirements(requirements: Requirements) -> None:
    words = iter(requirements.options())
    named: dict[str, Any] = {"max_latency": []}
    for option, value in zip(words, words, strict=True):
        if option == "--max-latency":
            named["max_latency"].append(value)
        else:
            named[option.removeprefix("--").replace("-", "_")] = value
    assert Requirements.parse(**named) == requirements


def test_a_percentage_is_the_number_nearest_to_what_was_written() -> None:
    assert Requirements.parse(within="93.3%").within == 0.933


def test_requirements_are_written_as_a_user_would_write_them() -> None:
    requirements = Requirements(
        within=0.05,
        min_accuracy=0.9,
        latencies=(LatencyLimit(max_ms=6.0),),
        max_size_bytes=25_000_000,
        max_parameters=30_000_000,
    )
    assert requirements.options() == (
        *("--within", "5%", "--min-accuracy", "0.9", "--max-latency", "6ms"),
        *("--max-size", "25MB", "--max-parameters", "30M"),
    )


@pytest.mark.parametrize(
    ("requirements", "has_accuracy", "has_cost"),
    [
        (Requirements(), False, False),
        (Requirements(within=0.0), True, False),
        (Requirements(min_accuracy=0.0), True, False),
        (Requirements(latencies=(LatencyLimit(max_ms=1.0),)), False, True),
        (Requirements(max_size_bytes=1), False, True),
        (Requirements(max_parameters=1), False, True),
        (Requirements(within=0.0, max_parameters=1), True, True),
    ],
)
def test_requirements_state_whether_accuracy_and_cost_are_limited(
    requirements: Requirements, has_accuracy: bool, has_cost: bool
) -> None:
    assert (requirements.has_accuracy, requirements.has_cost) == (has_accuracy, has_cost)
