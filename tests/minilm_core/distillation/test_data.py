"""Tests of the loss of a batch: which terms it has, how they are weighted, over which layers it is averaged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation.data import DistillationData, TeacherBatch, relation_loss
from minilm_core.distillation.relations import relation_losses
from minilm_core.errors import UserError
from minilm_core.models.adapters import LayerRelations, RelationOperands
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.settings.schedules import DistillationSchedule, Precision, Relation

RELATIONS = (Relation.QUERY, Relation.VALUE)
NUM_HEADS = 2


class FixedRelations(nn.Module):
    """A student whose relations are given."""

    def __init__(self, of_layers: list[LayerRelations]) -> None:
        super().__init__()
        self.of_layers = of_layers

    def forward(self, *_: object) -> list[LayerRelations]:
        return self.of_layers


def layers(width: int, seed: int) -> list[LayerRelations]:
    """Returns the relations of two layers, which differ."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [[torch.randn(2, 5, width, generator=generator) for _ in RELATIONS] for _ in range(2)]
    return [
        {relation: RelationOperands(vectors, vectors) for relation, vectors in zip(RELATIONS, of_layer, strict=True)}
        for of_layer in drawn
    ]


@pytest.fixture
def of_teacher() -> list[LayerRelations]:
    return layers(8, seed=0)


@pytest.fixture
def of_student() -> list[LayerRelations]:
    return layers(4, seed=1)


def loss_of(of_teacher: list[LayerRelations], of_student: list[LayerRelations], **settings: object) -> float:
    schedule = DistillationSchedule(
        num_steps=1, batch_size=2, relation_heads=NUM_HEADS, precision=Precision.FP32, **settings
    )
    batch = TeacherBatch(torch.zeros(2, 5, dtype=torch.long), of_teacher, NUM_HEADS)
    return relation_loss(FixedRelations(of_student), batch, schedule).item()


def test_terms_are_added_by_their_weights(of_teacher: list[LayerRelations], of_student: list[LayerRelations]) -> None:
    terms = relation_losses(of_teacher[0], of_student[0], NUM_HEADS)
    weighted = loss_of(of_teacher[:1], of_student[:1], relations={Relation.QUERY: 0.25, Relation.VALUE: 3.0})
    expected = 0.25 * terms[Relation.QUERY] + 3 * terms[Relation.VALUE]
    assert weighted == pytest.approx(expected.item(), rel=1e-6)
    assert weighted != pytest.approx(sum(terms.values()).item(), rel=1e-2)


def test_the_loss_is_the_mean_over_the_pairs_of_layers_in_their_order(
    of_teacher: list[LayerRelations], of_student: list[LayerRelations]
) -> None:
    weights = dict.fromkeys(RELATIONS, 1.0)
    pairs = [
        sum(relation_losses(teacher, student, NUM_HEADS).values()).item()
        for teacher, student in zip(of_teacher, of_student, strict=True)
    ]
    loss = loss_of(of_teacher, of_student, relations=weights)
    assert loss == pytest.approx(sum(pairs) / 2, rel=1e-6)
    assert loss_of(of_teacher[::-1], of_student, relations=weights) != pytest.approx(loss, rel=1e-2)


def test_a_student_of_other_layers_than_its_teachers_is_refused(
    of_teacher: list[LayerRelations], of_student: list[LayerRelations]
) -> None:
    with pytest.raises(UserError, match="must have equally many distilled layers, got 2 and 1"):
        loss_of(of_teacher, of_student[:1], relations=dict.fromkeys(RELATIONS, 1.0))


def test_a_student_that_computes_other_relations_than_its_schedule_is_refused(
    of_teacher: list[LayerRelations], of_student: list[LayerRelations]
) -> None:
    with pytest.raises(UserError) as refusal:
        loss_of(of_teacher, of_student, relations={Relation.QUERY: 1.0})
    assert str(refusal.value) == (
        "a student must compute the relations of its schedule, query, got query, value; "
        "build its RelationEncoder with schedule.weights"
    )


class RecordingTargets:
    """Keeps the tokens that the teacher reads."""

    num_heads, hidden_size, dimension_order = NUM_HEADS, 8, torch.arange(8)

    def __init__(self) -> None:
        self.read: list[Tensor] = []

    def relations(self, rows: np.ndarray, input_ids: Tensor) -> list[LayerRelations]:
        self.read.append(input_ids)
        return []

    def prefetch(self, rows: np.ndarray) -> None:
        pass


@pytest.mark.parametrize("is_evaluated", [False, True])
def test_a_student_reads_its_own_ids_and_the_teacher_its_own(corpus: PackedCorpus, is_evaluated: bool) -> None:
    ids, counts = np.unique(corpus.rows(np.arange(corpus.num_rows)), return_counts=True)
    dropped = ids[np.argmax(np.where(ids > 4, counts, 0))]
    kept = np.array([1, *(number for number in ids if number not in (1, dropped))])
    vocabulary = CutVocabulary(kept=np.sort(kept), num_full=40, unknown=1, coverage=0.9)
    targets, rows = RecordingTargets(), np.arange(6)
    data = DistillationData(
        corpus=corpus, targets=targets, evaluation_targets=targets if is_evaluated else None, vocabulary=vocabulary
    )
    data = data.for_evaluation if is_evaluated else data
    read = data.teacher_batch(rows, torch.device("cpu")).input_ids.numpy()
    np.testing.assert_array_equal(targets.read[0], corpus.rows(rows))
    is_dropped = corpus.rows(rows) == dropped
    assert is_dropped.any()
    np.testing.assert_array_equal(vocabulary.kept[read], np.where(is_dropped, 1, corpus.rows(rows)))
    whole = replace(data, vocabulary=None).teacher_batch(rows, torch.device("cpu"))
    np.testing.assert_array_equal(whole.input_ids, corpus.rows(rows))
