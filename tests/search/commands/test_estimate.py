"""Tests of the time of a whole search: its arithmetic, worked out by hand from made-up timings.

The distillation of a student of 1, 2 and 3 layers takes 22, 38 and 54 seconds, its fine-tuning 13, 26 and 39.
"""

from dataclasses import replace

import pytest

from minilm_core.models.architecture import StudentArchitecture
from search.commands.estimate import Costs, Range, SearchTime, drawn_trials, estimate_search, makespans, until_spent
from search.study.resolved import ResolvedStudy
from search.study.timings import Timings
from tests.search.commands.timings import TASK, student_of, study_of, task_times, timings_of

TRIAL_SECONDS = {1: 35.0, 2: 64.0, 3: 93.0}
TEACHER = 125.0


def shapes_of(study: ResolvedStudy) -> list[StudentArchitecture]:
    return list(study.space.architectures())


def time_of(
    study: ResolvedStudy,
    timings: Timings | None = None,
    num_tokens: int | None = 400_000,
    shared: tuple[int, int, int] = (1, 1, 1),
) -> SearchTime:
    return estimate_search(
        study,
        shapes_of(study),
        timings or timings_of(study),
        num_tokens=num_tokens,
        students_per_worker=shared,
    )


def assert_is(found: Range, low: float, mean: float, high: float) -> None:
    assert (found.low, found.mean, found.high) == pytest.approx((low, mean, high))


def test_a_student_between_the_measured_ones_is_interpolated_in_its_flops() -> None:
    study = study_of()
    costs = Costs(study=study, timings=timings_of(study))
    assert costs.trials(shapes_of(study), 1) == {
        student_of(layers): pytest.approx(seconds) for layers, seconds in TRIAL_SECONDS.items()
    }


def test_device_hours_are_those_of_the_cheapest_and_the_dearest_students_around_the_mean() -> None:
    time = time_of(study_of())
    assert_is(time.distillation_seconds, 22, 38, 54)
    assert_is(time.finetuning_seconds, 13, 26, 39)
    assert_is(time.baselines_seconds, TEACHER + 13, TEACHER + 26, TEACHER + 39)
    counted = (4 * 35 + TEACHER + 13, 4 * 64 + TEACHER + 26, 4 * 93 + TEACHER + 39)
    assert_is(time.counted_device_hours, *(seconds / 3600 for seconds in counted))
    # The teacher's pass over 400,000 tokens takes 40 seconds more.
    assert_is(time.device_hours, *((seconds + 40) / 3600 for seconds in counted))
    assert_is(time.num_trials, 4, 4, 4)
    assert (time.num_shapes_over_timeout, time.is_upper_bound) == (0, False)


def test_the_wall_time_is_that_of_two_trials_at_once_with_the_teacher_beside_them() -> None:
    time = time_of(study_of())
    assert time.preparation_seconds == pytest.approx(20)
    before = 20 + 3 * 2
    low, mean = (4 * 35 + TEACHER) / 2, (4 * 64 + TEACHER) / 2
    # In the worst order, the teacher begins when all else has ended.
    high = (4 * 93 + TEACHER) / 2 + TEACHER / 2
    assert_is(time.wall_seconds, before + low + 13, before + mean + 26, before + high + 39)


def test_seeds_and_epochs_of_fine_tuning_count() -> None:
    time = time_of(study_of("finetuning.num_seeds=3", "finetuning.num_epochs=2"))
    assert_is(time.finetuning_seconds, 3 * 23, 3 * 46, 3 * 69)


def test_the_examples_that_choose_the_epoch_are_scored_and_not_learnt() -> None:
    time = time_of(study_of("finetuning.num_epochs=2", "finetuning.selection_fraction=0.25"))
    assert time.finetuning_seconds.low == pytest.approx(1 + 2 * (0.75 * 10 + 0.25 * 4) + 2)


def test_soft_labels_come_before_the_search_and_cost_a_twin_more() -> None:
    study = study_of("finetuning.soft_labels={weight: 0.5, temperature: 2}")
    time = time_of(study)
    # Half an epoch more for the unlabelled texts, and the teacher's outputs for the train split and those texts.
    assert_is(time.finetuning_seconds, 18, 36, 54)
    teacher = TEACHER + 40 + 20
    assert_is(time.baselines_seconds, teacher + 18 + 13, teacher + 36 + 26, teacher + 54 + 39)
    mean = 20 + 6 + teacher + 4 * (38 + 36) / 2 + 36
    assert time.wall_seconds.mean == pytest.approx(mean)


def test_several_workers_count_each_and_take_time_to_start() -> None:
    time = time_of(study_of("resources.workers_per_trial=2"))
    assert time.counted_device_hours.low == pytest.approx((2 * 4 * 35 + TEACHER + 13) / 3600)
    assert time.wall_seconds.low == pytest.approx(10 + 6 + (4 * (35 + 8) + TEACHER) / 2 + 13)
    assert time.wall_seconds.mean == pytest.approx(10 + 6 + (4 * (64 + 17) + TEACHER) / 2 + 26)


def test_a_trial_ends_at_its_timeout() -> None:
    time = time_of(study_of("budget.trial_timeout_minutes=1"))
    assert time.num_shapes_over_timeout == 2
    counted = (4 * 35 + 60 + 13, 4 * (35 + 60 + 60) / 3 + 60 + 26, 4 * 60 + 60 + 39)
    assert_is(time.counted_device_hours, *(seconds / 3600 for seconds in counted))


def test_the_device_hours_end_the_search_with_the_trials_that_run_then() -> None:
    # 270 seconds, of which the teacher takes 125: four trials of 35 seconds, three of 64, or two of 93 and one beside.
    time = time_of(study_of("budget.max_device_hours=0.075"))
    assert_is(time.num_trials, 3, 3, 4)
    counted = (4 * 35 + TEACHER + 13, 3 * 64 + TEACHER + 26, 3 * 93 + TEACHER + 39)
    assert_is(time.counted_device_hours, *(seconds / 3600 for seconds in counted))


def test_students_that_share_a_pass_of_the_teacher_take_their_part_of_it() -> None:
    time = time_of(study_of(), shared=(2, 2, 1))
    assert time.distillation_seconds.low == pytest.approx(22 - 100 * 0.05 / 2)
    assert time.distillation_seconds.high == pytest.approx(54)


def test_early_stopping_is_left_out_and_its_measurements_are_not() -> None:
    time = time_of(study_of("stopping={rungs: [20, 50]}"))
    assert time.is_upper_bound
    # The loss is measured after 20 steps in any case, and at the rung of 50 besides.
    assert time.distillation_seconds.low == pytest.approx(22 + 1)


def test_a_text_of_unknown_length_leaves_the_pass_over_it_out() -> None:
    time = time_of(study_of(), num_tokens=None)
    assert time.preparation_seconds is None
    assert time.device_hours == time.counted_device_hours
    assert time.wall_seconds.low == pytest.approx(6 + (4 * 35 + TEACHER) / 2 + 13)


def test_a_teacher_that_runs_beside_its_students_needs_no_pass() -> None:
    study = study_of()
    time = time_of(study, replace(timings_of(study), caching_seconds={}), num_tokens=None)
    assert time.preparation_seconds == 0


def test_the_assistant_is_distilled_before_the_search() -> None:
    study = study_of("assistant={num_steps: 10}")
    timings = timings_of(study)
    timings = replace(timings, assistant=timings.students[1].distillation)
    # Its five measurements of the held-out loss take three seconds each.
    assert time_of(study, timings).preparation_seconds == pytest.approx(20 + 4 + 10 * 0.35 + 5 * 3)


def test_the_teachers_first_layers_are_interpolated_between_the_students_and_the_teacher() -> None:
    study = study_of("baselines={twin: false, truncated_teacher: true}")
    timings = timings_of(study)
    costs = Costs(study=study, timings=timings)
    first, last = timings.students[1].flops, timings.teacher.flops
    flops = replace(study.teacher, num_layers=3).flops(128, study.teacher_family)
    assert costs.truncated_seconds(3) == pytest.approx(39 + (TEACHER - 39) * (flops - first) / (last - first))
    assert costs.later_baselines([student_of(3)]) == [[costs.truncated_seconds(3)]]


def test_a_best_student_that_inherits_has_a_twin_from_random_weights_too() -> None:
    space = (
        "space={num_layers: [1], hidden_sizes: [96], head_sizes: [16], initialisations: [random, spaced_layers],"
        " distillation_learning_rate: [1e-3], finetuning_learning_rate: [1e-4]}"
    )
    study = study_of(space)
    costs = Costs(study=study, timings=timings_of(study))
    assert costs.later_baselines([student_of(1)]) == [[13.0], [13.0, 13.0]]


def test_without_baselines_nothing_is_trained_but_students() -> None:
    time = time_of(study_of("baselines={teacher: false, twin: false, truncated_teacher: false}"))
    assert_is(time.baselines_seconds, 0, 0, 0)
    assert time.wall_seconds.low == pytest.approx(26 + 70)


def test_tasks_add_up() -> None:
    study = study_of()
    task = replace(study.config.tasks[0], name="other")
    study = replace(study, config=replace(study.config, tasks=(*study.config.tasks, task)))
    timings = timings_of(study)
    other = task_times(epoch=1.0, forward=0.5, evaluation=0.25, fixed=0.0)
    students = tuple(replace(entry, tasks={**entry.tasks, "other": other}) for entry in timings.students)
    teacher = replace(timings.teacher, tasks={TASK: timings.teacher.tasks[TASK], "other": other})
    time = time_of(study, replace(timings, students=students, teacher=teacher))
    assert_is(time.finetuning_seconds, 13 + 1.25, 26 + 1.25, 39 + 1.25)


LISTED = (
    "space={num_layers: [1, 2, 3], hidden_sizes: [96], head_sizes: [16],"
    " distillation_learning_rate: [1e-3, 2e-3], finetuning_learning_rate: [1e-4]}"
)


@pytest.mark.parametrize(
    ("overrides", "low", "mean", "high"),
    [
        ((), [35] * 4, [64] * 4, [93] * 4),
        # There are two students of each shape.
        ((LISTED,), [35, 35, 64, 64], [64] * 4, [93, 93, 64, 64]),
        ((LISTED, "budget.num_trials=9"), [35, 35, 64, 64, 93, 93], [64] * 6, [93, 93, 64, 64, 35, 35]),
        (("sampler.begin_with=[3x96]",), [93, 35, 35, 35], [93, 64, 64, 64], [93] * 4),
        (
            (LISTED, "sampler.begin_with=[3x96]", "budget.num_trials=6"),
            [93, 35, 35, 64, 64, 93],
            [93, 64, 64, 64, 64, 64],
            [93, 93, 64, 64, 35, 35],
        ),
    ],
)
def test_the_cheapest_and_the_dearest_students_are_those_that_may_be_drawn_together(
    overrides: tuple[str, ...], low: list[float], mean: list[float], high: list[float]
) -> None:
    study = study_of(*overrides)
    of_shapes = {student_of(layers): seconds for layers, seconds in TRIAL_SECONDS.items()}
    assert drawn_trials(study, [of_shapes] * 3) == [low, mean, high]


def test_a_student_to_begin_with_that_is_over_a_limit_is_not_drawn() -> None:
    study = study_of("sampler.begin_with=[3x96]")
    of_shapes = {student_of(layers): TRIAL_SECONDS[layers] for layers in (1, 2)}
    assert drawn_trials(study, [of_shapes] * 3)[0] == [35] * 4


@pytest.mark.parametrize(
    ("left", "num_running", "num_trials"), [(100, 1, 3), (20, 1, 2), (19, 1, 2), (21, 1, 3), (5, 3, 3), (0, 1, 0)]
)
def test_the_trial_that_reaches_the_budget_is_the_last(left: float, num_running: int, num_trials: int) -> None:
    assert until_spent([10.0, 10.0, 10.0], left, num_running=num_running) == [10.0] * num_trials


def test_jobs_take_at_least_their_part_of_the_slots_and_at_most_grahams_bound() -> None:
    assert makespans([3.0, 3.0, 2.0], 2) == (4.0, 5.5)
    assert makespans([9.0, 1.0], 2) == (9.0, 9.5)
    assert makespans([], 4) == (0.0, 0.0)
