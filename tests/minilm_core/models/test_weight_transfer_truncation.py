"""Tests of a teacher that is cut to its first layers, in every family."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.models.encoders import load_encoder
from minilm_core.models.families import encoder_architecture, family_shape
from minilm_core.models.weight_transfer import truncate_teacher
from tests.minilm_core.encoder_families import CONFIGS, layers_of, write_teacher

# Longer than ModernBERT's window, with padding at the end of the second row.
INPUT_IDS = torch.tensor([[0, *range(4, 18), 2], [0, *range(5, 13), 2, 1, 1, 1, 1, 1, 1]])
MASK = (INPUT_IDS != 1).long()
NUM_LAYERS = (1, 2, 3)


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher of 4 layers."""
    folder = tmp_path_factory.mktemp(request.param) / "teacher"
    write_teacher(request.param, folder)
    return folder


@torch.no_grad()
def states_after(encoder: PreTrainedModel, num_layers: int) -> Tensor:
    """Returns the hidden states that a layer returns, counted from 1."""
    seen: list[Tensor] = []
    handle = layers_of(encoder)[num_layers - 1].register_forward_hook(
        lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    encoder(INPUT_IDS, attention_mask=MASK)
    handle.remove()
    return seen[0]


@torch.no_grad()
def output_of(encoder: PreTrainedModel) -> Tensor:
    output: Tensor = encoder(INPUT_IDS, attention_mask=MASK).last_hidden_state
    return output


@pytest.mark.parametrize("num_layers", NUM_LAYERS)
def test_every_weight_is_the_teachers(folder: Path, num_layers: int) -> None:
    teacher, truncated = load_encoder(folder), truncate_teacher(folder, num_layers, seed=5)
    left = {name for name, _ in truncated.named_parameters()}
    upper = {id(weight) for layer in layers_of(teacher)[num_layers:] for weight in layer.parameters()}
    assert left == {name for name, weight in teacher.named_parameters() if id(weight) not in upper}
    for name, weight in truncated.named_parameters():
        assert torch.equal(weight, teacher.get_parameter(name)), name


@pytest.mark.parametrize("num_layers", NUM_LAYERS)
def test_a_saved_one_computes_the_teachers_states_after_as_many_layers(
    folder: Path, num_layers: int, tmp_path: Path
) -> None:
    truncate_teacher(folder, num_layers, seed=5).save_pretrained(tmp_path)
    truncated, teacher = load_encoder(tmp_path), load_encoder(folder)
    assert torch.equal(states_after(truncated, num_layers), states_after(teacher, num_layers))
    # What follows the layers, such as ModernBERT's last norm, follows the lower ones now.
    del layers_of(teacher)[num_layers:]
    assert torch.equal(output_of(truncated), output_of(teacher))


def test_its_sizes_are_the_teachers_except_for_the_layers(folder: Path) -> None:
    teacher_json, truncated = load_encoder(folder).config.to_dict(), truncate_teacher(folder, 3, seed=5)
    sizes = encoder_architecture(truncated.config.to_dict())
    assert (sizes.num_layers, sizes.hidden_size, sizes.num_heads) == (3, 24, 4)
    assert sizes.intermediate_ratio == encoder_architecture(teacher_json).intermediate_ratio
    assert sizes.num_parameters(family_shape(teacher_json)) == truncated.num_parameters()


def test_a_teacher_of_fewer_layers_is_refused(teacher_folder: Path) -> None:
    num_layers = encoder_architecture(load_encoder(teacher_folder).config.to_dict()).num_layers
    with pytest.raises(UserError, match=rf"layers must name one of the teacher's {num_layers} for each"):
        truncate_teacher(teacher_folder, num_layers + 1, seed=0)


def test_a_pooler_that_the_teachers_folder_lacks_is_drawn_from_the_seed(teacher_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((teacher_folder / "config.json").read_bytes())
    weights = load_file(teacher_folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    first, again, other = (truncate_teacher(tmp_path, 1, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.pooler.dense.weight, again.pooler.dense.weight)
    assert not torch.equal(first.pooler.dense.weight, other.pooler.dense.weight)
