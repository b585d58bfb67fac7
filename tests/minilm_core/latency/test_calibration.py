"""Tests of the calibration: the architectures that it times, its table, and the timing of a finished model."""

import pytest
import torch
from transformers import BertConfig, ModernBertConfig, PretrainedConfig

from minilm_core.errors import UserError
from minilm_core.latency.calibration import (
    calibrate,
    plan_calibration,
    with_short_vocabulary,
)
from minilm_core.latency.measurements import Statistic
from minilm_core.latency.stopwatches import stopwatch
from minilm_core.latency.target import LatencyTarget
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder

SHORT = LatencyTarget(sequence_length=16)


def students(depths: tuple[int, ...], hidden_sizes: tuple[int, ...] = (24, 48)) -> list[StudentArchitecture]:
    return [StudentArchitecture(num_layers=n, hidden_size=h, num_heads=4) for n in depths for h in hidden_sizes]


def test_each_width_is_timed_at_its_shallowest_and_deepest():
    plan = plan_calibration(students((2, 4, 6, 12)))
    assert [(a.hidden_size, a.num_layers) for a in plan.fitted] == [(24, 2), (24, 12), (48, 2), (48, 12)]


def test_held_out_students_have_depths_that_are_not_fitted():
    plan = plan_calibration(students((2, 4, 6, 12)))
    assert [(a.hidden_size, a.num_layers) for a in plan.held_out] == [(24, 5), (48, 9)]


@pytest.mark.parametrize(
    ("depths", "fitted", "held_out"), [((1,), {1, 2}, {3}), ((4,), {1, 4}, {2, 3}), ((2, 3), {2, 3}, {4})]
)
def test_a_space_of_few_depths_is_fitted_and_checked(depths: tuple[int, ...], fitted: set[int], held_out: set[int]):
    plan = plan_calibration(students(depths))
    assert {a.num_layers for a in plan.fitted} == fitted
    assert {a.num_layers for a in plan.held_out} == held_out


def test_a_space_of_one_width_has_held_out_students():
    plan = plan_calibration(students((2, 4, 6, 12), hidden_sizes=(24,)))
    assert [a.num_layers for a in plan.held_out] == [5, 9]


def test_a_deep_teacher_does_not_make_students_deeper():
    teacher = StudentArchitecture(num_layers=12, hidden_size=96, num_heads=4)
    plan = plan_calibration([*students((2, 6)), teacher])
    assert [(a.hidden_size, a.num_layers) for a in plan.fitted] == [
        (24, 2),
        (24, 6),
        (48, 2),
        (48, 6),
        (96, 1),
        (96, 12),
    ]
    assert [(a.hidden_size, a.num_layers) for a in plan.held_out] == [(24, 3), (48, 5)]


def test_the_vocabulary_is_cut_below_a_padding_token_at_its_end():
    config = with_short_vocabulary(ModernBertConfig(intermediate_size=48, max_position_embeddings=64))
    assert (config.vocab_size, config.pad_token_id) == (2048, 0)
    (student,) = students((1,), hidden_sizes=(24,))
    assert stopwatch(build_encoder(student, config, seed=0), SHORT)() > 0
    tiny = BertConfig(vocab_size=100, pad_token_id=99)
    assert (with_short_vocabulary(tiny).vocab_size, with_short_vocabulary(tiny).pad_token_id) == (100, 99)


def test_a_calibration_of_no_student_is_refused():
    with pytest.raises(UserError, match="needs at least 1 student, got 0"):
        plan_calibration([])


def test_a_calibration_predicts_every_width_of_the_space(teacher_config: PretrainedConfig):
    space = students((1, 2, 3))
    table = calibrate(space, teacher_config, SHORT, num_rounds=2)
    assert table.covers(space)
    assert all(0 < table.predict_ms(student) < 1000 for student in space)
    assert all(len(m.round_medians_ms) == 2 for m in table.fitted + table.held_out)
    assert table.statistic is Statistic.MEDIAN
    for measurement in table.fitted + table.held_out:
        # The median of all runs lies between the medians of the two rounds.
        low, high = sorted(measurement.round_medians_ms)
        assert low <= measurement.latency_ms <= high
    assert table.p90_over_p50 >= 1


def test_progress_rises_to_one(teacher_config: PretrainedConfig):
    fractions: list[float] = []
    space = students((1, 2), hidden_sizes=(24,))
    calibrate(space, teacher_config, SHORT, num_rounds=2, progress=lambda _, fraction: fractions.append(fraction))
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


def test_a_calibration_leaves_the_number_of_threads_unchanged(teacher_config: PretrainedConfig):
    before = torch.get_num_threads()
    target = LatencyTarget(num_threads=before + 1, sequence_length=8)
    calibrate(students((1,), hidden_sizes=(24,)), teacher_config, target, num_rounds=2)
    assert torch.get_num_threads() == before


def test_a_single_round_is_refused(teacher_config: PretrainedConfig):
    with pytest.raises(UserError, match="num_rounds must be at least 2 for a spread, got 1"):
        calibrate(students((1, 2)), teacher_config, SHORT, num_rounds=1)


def test_a_sequence_longer_than_the_teachers_is_refused(teacher_config: PretrainedConfig):
    with pytest.raises(UserError, match="sequence_length must be at most 64 for this model, got 65"):
        calibrate(students((1, 2)), teacher_config, LatencyTarget(sequence_length=65))
