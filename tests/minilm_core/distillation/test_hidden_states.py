"""Tests of the distance between the states that leave a student's layers and those that leave its teacher's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation.data import DistillationData, held_out_loss
from minilm_core.distillation.loop import distil
from minilm_core.distillation.relations import relation_losses, state_error
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.targets import CachedTargets, OnlineTargets
from minilm_core.errors import UserError
from minilm_core.models.adapters import RelationOperands
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import DIMENSION_ORDER, HEADS_FILE, RelationEncoder, load_encoder
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.weight_transfer import build_student
from minilm_core.settings.schedules import PROJECTED_RELATIONS, LayerMapping, Precision, Relation
from tests.minilm_core.distilling import CPU, SCHEDULE, key_of
from tests.minilm_core.encoder_families import CONFIGS, build

STATES = {Relation.HIDDEN_STATES: 1.0}
COMPARED = replace(SCHEDULE, relations={Relation.VALUE: 1.0, **STATES})
INPUT_IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 12, 13, 3]])


def sliced(teacher_folder: Path, num_layers: int, hidden_size: int) -> PreTrainedModel:
    architecture = StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=4)
    layers = Initialisation.SPACED_LAYERS
    return build_student(architecture, teacher_folder, layers, distilled_layer=3, seed=0)


def test_the_error_is_relative_to_the_teachers_states_in_the_dimensions_that_a_student_keeps() -> None:
    teacher = torch.tensor([[[4.0, 9.0, 3.0], [0.0, 9.0, 1.0]]])
    student = torch.tensor([[[4.0, 0.0], [2.0, 1.0]]])
    order = torch.tensor([2, 0, 1])
    # Of the first token 3² of 4² + 3² is missing, of the second 2² of 1² is too much.
    assert state_error(teacher, student, order, None).item() == pytest.approx((9 / 25 + 4) / 2)
    first_alone = torch.tensor([[True, False]])
    assert state_error(teacher, student, order, first_alone).item() == pytest.approx(9 / 25)


def test_a_student_wider_than_its_teacher_is_refused() -> None:
    narrow, wide = (RelationOperands(states, states) for states in (torch.ones(1, 2, 4), torch.ones(1, 2, 6)))
    with pytest.raises(UserError, match="hidden states must be no wider than the teacher's, got 6 and 4"):
        relation_losses({Relation.HIDDEN_STATES: narrow}, {Relation.HIDDEN_STATES: wide}, 2)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_states_of_every_family_are_those_that_leave_the_layer(family: str) -> None:
    encoder = build(family)
    with torch.no_grad():
        relations = RelationEncoder(encoder, [2], tuple(STATES))(INPUT_IDS, None)[0]
        (entering_the_next,) = RelationEncoder(encoder, [3], PROJECTED_RELATIONS).states(INPUT_IDS, None)
    assert torch.equal(relations[Relation.HIDDEN_STATES].left, entering_the_next)


def test_the_first_layers_of_the_teacher_have_no_error(teacher_folder: Path) -> None:
    teacher = load_encoder(teacher_folder)
    of_teacher = RelationEncoder(teacher, [2], tuple(STATES))(INPUT_IDS, None)[0]
    for width, is_equal in ((teacher.config.hidden_size, True), (16, False)):
        architecture = StudentArchitecture(num_layers=2, hidden_size=width, num_heads=4)
        student = build_student(
            architecture, teacher_folder, Initialisation.FIRST_LAYERS, distilled_layer=3, seed=0
        ).eval()
        of_student = RelationEncoder(student, [2], tuple(STATES))(INPUT_IDS, None)[0]
        order = RelationEncoder(teacher, [2], tuple(STATES)).dimension_order
        error = relation_losses(of_teacher, of_student, 4, dimension_order=order)[Relation.HIDDEN_STATES]
        assert (error.item() < 1e-9) is is_equal


@pytest.mark.parametrize("mapping", [LayerMapping.LAST, LayerMapping.UNIFORM])
def test_cached_states_are_those_of_a_teacher_that_runs_beside_the_student(
    mapping: LayerMapping, teacher_folder: Path, corpus: PackedCorpus, tmp_path: Path
) -> None:
    encoder, schedule = load_encoder(teacher_folder), replace(COMPARED, layer_mapping=mapping)
    num_layers = encoder.config.num_hidden_layers
    pairs = schedule.layer_pairs(num_student_layers=1, num_teacher_layers=num_layers, teacher_layer=None)
    layers = tuple(sorted({*pairs.teacher, *(layer + 1 for layer in pairs.teacher)}))
    key = key_of(layers, corpus.fingerprint)
    for _ in cache_targets(RelationEncoder(encoder, layers, PROJECTED_RELATIONS), corpus, key, tmp_path):
        pass
    relations = tuple(schedule.weights)
    cached = CachedTargets(tmp_path / key.folder_name, CPU, Precision.FP32, layers=pairs.teacher, relations=relations)
    online = OnlineTargets(RelationEncoder(encoder, pairs.teacher, relations), Precision.FP32)
    student = RelationEncoder(sliced(teacher_folder, 1, 16), pairs.student, relations)
    losses = [
        held_out_loss(student, DistillationData(corpus=corpus, targets=each), schedule) for each in (cached, online)
    ]
    # The states on disk are rounded to bf16.
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_a_cache_of_an_earlier_version_must_be_built_again(
    teacher_folder: Path, corpus: PackedCorpus, tmp_path: Path
) -> None:
    key = key_of((3, 4), corpus.fingerprint)
    teacher = RelationEncoder(load_encoder(teacher_folder), key.layers, PROJECTED_RELATIONS)
    for _ in cache_targets(teacher, corpus, key, tmp_path):
        pass
    heads = tmp_path / key.folder_name / "heads" / HEADS_FILE
    save_file({name: value for name, value in load_file(heads).items() if name != DIMENSION_ORDER}, heads)
    folder, settings = heads.parent.parent, {"device": CPU, "precision": Precision.FP32, "layers": (3,)}
    assert CachedTargets(folder, **settings, relations=(Relation.VALUE,)).dimension_order is None
    with pytest.raises(UserError, match=r"must have the order of hidden dimensions .* got those of an earlier version"):
        CachedTargets(folder, **settings, relations=(Relation.VALUE, Relation.HIDDEN_STATES))


def test_every_parameter_learns_and_the_states_get_nearer(teacher_folder: Path, corpus: PackedCorpus) -> None:
    encoder = sliced(teacher_folder, 2, 16)
    student, measured = (RelationEncoder(encoder, [2], tuple(weights)) for weights in (COMPARED.weights, STATES))
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}

    def data_of(relations: dict[Relation, float]) -> DistillationData:
        teacher = RelationEncoder(load_encoder(teacher_folder), [3], tuple(relations))
        return DistillationData(corpus=corpus, targets=OnlineTargets(teacher, Precision.FP32))

    states_alone = replace(COMPARED, relations=STATES)
    first = held_out_loss(measured, data_of(STATES), states_alone)
    for _ in distil(student, data_of(COMPARED.weights), COMPARED, learning_rate=3e-3, seed=0):
        pass
    assert held_out_loss(measured, data_of(STATES), states_alone) < 0.95 * first
    assert not [name for name, parameter in student.named_parameters() if torch.equal(parameter, before[name])]
