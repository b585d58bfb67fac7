"""Encoders: load a teacher, build a student, and run either of them up to its distilled layers."""

import copy
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from minilm_core.atomic import atomic_folder
from minilm_core.errors import UserError, first_line
from minilm_core.models.adapters import LayerRelations, RelationOperands, adapter_of
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.families import check_model_type, encoder_architecture, student_settings
from minilm_core.models.student_family import StudentFamily, student_base
from minilm_core.models.tokenizers import save_tokenizer
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.models.width_slicing import dimension_order
from minilm_core.settings.schedules import PROJECTED_RELATIONS, Relation, entered_layers

HEADS_FILE = "heads.safetensors"
"""The file of the distilled layers' projections, next to the cached states that enter these layers."""
DIMENSION_ORDER = "dimension_order"
"""The name in that file of the order of the teacher's hidden dimensions, which `dimension_order` returns."""


class RelationEncoder(nn.Module):
    """The part of an encoder that distillation runs: the layers below the distilled ones, and projections of those.

    It shares its modules with the encoder, so training it trains the encoder. It has no parameter without a gradient:
    it leaves out the rest of the highest distilled layer, the layers above, the pooler and the projections that no
    relation uses. These get their first gradient in fine-tuning. If hidden states are compared, that layer is run and
    learns as a whole.

    Source: MiniLM (Wang et al., 2020), section 3: only the last layer's self-attention is distilled.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        layers: Sequence[int],
        relations: Collection[Relation],
        *,
        teacher_width: int | None = None,
    ) -> None:
        """Selects the modules that distillation needs.

        Args:
            encoder: An encoder of a supported family.
            layers: The distilled layers, counted from 1, in rising order. The number after the last layer stands for
                the states that leave the encoder, which only `states` returns.
            relations: The relations that are compared in each of them.
            teacher_width: For a student, its teacher's hidden size. If value vectors are compared and the widths
                differ, a learned matrix per layer maps the student's vectors to this width.
        """
        super().__init__()
        adapter = adapter_of(encoder)
        self.layers = tuple(layers)
        self.compares_hidden_states = Relation.HIDDEN_STATES in relations
        self.trunk = adapter.trunk(encoder, self.layers[-1] - 1 + self.compares_hidden_states)
        self._entered = entered_layers(self.layers, relations)
        projected = [relation for relation in relations if relation in PROJECTED_RELATIONS]
        self.heads = nn.ModuleDict(
            {
                str(layer): adapter.head(encoder, layer, projected)
                for layer in self.layers
                if layer <= encoder_architecture(encoder.config.to_dict()).num_layers
            }
        )
        # No buffer, because the workers of a data-parallel student would exchange it at every step.
        self.dimension_order = dimension_order(dict(encoder.named_parameters()), encoder.config.hidden_size)
        self.config: PretrainedConfig = encoder.config
        self.num_heads: int = encoder.config.num_attention_heads
        self.hidden_size: int = encoder.config.hidden_size
        self.transforms = nn.ModuleDict()
        if Relation.VALUE_VECTORS in relations and teacher_width is not None and teacher_width != self.hidden_size:
            self.transforms.update(
                {str(layer): _seeded_linear(self.hidden_size, teacher_width, seed=layer) for layer in self.layers}
            )

    def checkpoint_activations(self) -> None:
        """Switches to storing only the layers' inputs for the backward pass, which recomputes the rest."""
        self.trunk.checkpoints_activations = True

    def states(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None
    ) -> list[Float[Tensor, "batch seq hidden"]]:
        """Returns the hidden states that enter each distilled layer.

        Args:
            input_ids: The tokens.
            attention_mask: 1 for real tokens and 0 for padding. None: all tokens are real, as in packed rows, which is
                what `distil` passes; a mask is for users of the library who run padded batches.
        """
        states: list[Tensor] = self.trunk(input_ids, attention_mask, self.layers)
        return states

    def forward(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None
    ) -> list[LayerRelations]:
        """Returns the operands of each distilled layer's relations; the arguments are those of `states`."""
        entering = dict(zip(self._entered, self.trunk(input_ids, attention_mask, self._entered), strict=True))
        of_layers: list[LayerRelations] = [
            head(entering[layer]) for layer, head in zip(self.layers, self.heads.values(), strict=True)
        ]
        if self.compares_hidden_states:
            for layer, relations in zip(self.layers, of_layers, strict=True):
                leaving = entering[layer + 1]
                relations[Relation.HIDDEN_STATES] = RelationOperands(leaving, leaving)
        if self.transforms:
            for transform, relations in zip(self.transforms.values(), of_layers, strict=True):
                vectors = transform(relations[Relation.VALUE_VECTORS].left)
                relations[Relation.VALUE_VECTORS] = RelationOperands(vectors, vectors)
        return of_layers


def save_heads(encoder: RelationEncoder, folder: Path) -> None:
    """Saves the heads of the distilled layers and the encoder's configuration, to be used on cached states."""
    tensors = {**encoder.heads.state_dict(), **dict(encoder.heads.named_buffers(remove_duplicate=False))}
    tensors[DIMENSION_ORDER] = encoder.dimension_order
    # Cloned, because safetensors refuses tensors that the heads of several layers share.
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, folder / HEADS_FILE)
    encoder.config.save_pretrained(folder)


def load_heads(folder: Path, layers: Sequence[int], relations: Collection[Relation]) -> nn.ModuleDict:
    """Loads the projections that relations need, of some of the layers that `save_heads` wrote, for evaluation in fp32.

    Raises:
        UserError: if the file is damaged.
    """
    with torch.device("meta"):
        skeleton = AutoModel.from_config(load_encoder_config(folder), dtype=torch.float32)
    adapter = adapter_of(skeleton)
    projected = [relation for relation in relations if relation in PROJECTED_RELATIONS]
    heads = nn.ModuleDict({str(layer): adapter.head(skeleton, layer, projected) for layer in layers})
    tensors = _load_head_tensors(folder)
    heads.load_state_dict({name: tensors[name] for name in heads.state_dict()}, assign=True)
    # Buffers that modules compute from the configuration, such as rotary angles, are not in the state dict.
    for name, _ in list(heads.named_buffers(remove_duplicate=False)):
        owner, _, attribute = name.rpartition(".")
        setattr(heads.get_submodule(owner), attribute, tensors[name])
    return heads.eval().requires_grad_(False)


def load_dimension_order(folder: Path) -> Int[Tensor, " hidden"]:
    """Loads the order of the teacher's hidden dimensions that `save_heads` wrote.

    Raises:
        UserError: if the file is damaged, or of an earlier version, which did not write it.
    """
    tensors = _load_head_tensors(folder)
    if DIMENSION_ORDER not in tensors:
        raise UserError(
            f"cached targets must have the order of hidden dimensions with relation hidden_states, got those of an "
            f"earlier version in {folder.parent}; remove it to have it built again"
        )
    return tensors[DIMENSION_ORDER]


def _load_head_tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / HEADS_FILE)
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(
            f"cached targets must be complete, got {folder.parent} ({first_line(error)}); "
            f"remove it to have it built again"
        ) from error


def _seeded_linear(num_inputs: int, num_outputs: int, *, seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(num_inputs, num_outputs, bias=False)


def load_encoder(folder: Path) -> PreTrainedModel:
    """Loads an encoder with its weights, in fp32 and evaluation mode, from a local folder.

    Raises:
        UserError: if its family is not supported, or its weights are damaged or do not match its config.json.
    """
    check_model_type(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    try:
        encoder, info = AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    # transformers raises RuntimeError for weights of other sizes, and KeyError for a broken index.
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise UserError(
            f"weights must be complete and have the sizes of config.json, got {folder} ({first_line(error)})"
        ) from error
    # transformers draws missing weights at random. A pooler is often missing, and distillation does not use it.
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UserError(f"weights must have every parameter of config.json's layers, got {folder} without {missing[0]}")
    loaded: PreTrainedModel = encoder.eval()
    return loaded


def load_encoder_config(folder: Path) -> PretrainedConfig:
    """Loads an encoder's configuration from a local folder."""
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def save_encoder(encoder: PreTrainedModel, tokenizer_folder: Path, folder: Path) -> None:
    """Writes an encoder and its tokenizer atomically to a folder that transformers can load."""
    with atomic_folder(folder) as scratch:
        encoder.save_pretrained(scratch)
        save_tokenizer(tokenizer_folder, encoder.config.to_dict(), scratch)


def base_config(
    teacher_config: PretrainedConfig,
    family: StudentFamily,
    vocabulary: CutVocabulary | None = None,
    *,
    embedding_size: int | None = None,
) -> PretrainedConfig:
    """Returns the configuration that a student's sizes are written into: its teacher's, or one for BERT or ELECTRA.

    Args:
        teacher_config: The teacher's configuration.
        family: The family of the student.
        vocabulary: The tokens that the student keeps, whose ids the configuration then has; None: all.
        embedding_size: The width of an ELECTRA student's tables.
    """
    teacher_json = teacher_config.to_dict()
    base = student_base(teacher_json, family, embedding_size)
    config = teacher_config if base is teacher_json else AutoConfig.for_model(**base)
    if vocabulary is not None:
        config = copy.deepcopy(config)
        config.update(vocabulary.settings(config.to_dict()))
    return config


def student_config(architecture: StudentArchitecture, base: PretrainedConfig) -> PretrainedConfig:
    """Returns a configuration with a student's sizes and the family, vocabulary and dropout of `base`.

    Raises:
        UserError: if the family cannot have these sizes.
    """
    config = copy.deepcopy(base)
    config.update(student_settings(architecture, base.to_dict()))
    return config


def build_encoder(architecture: StudentArchitecture, base: PretrainedConfig, *, seed: int) -> PreTrainedModel:
    """Builds a randomly initialised encoder; the same seed gives the same weights.

    Args:
        architecture: The encoder's sizes.
        base: The configuration for everything else: the teacher's, or what `base_config` returns.
        seed: The seed of the weights.

    Raises:
        UserError: if the family is not supported or cannot have these sizes.
    """
    check_model_type(base.to_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Parameters and optimiser state are fp32, whatever type the teacher is stored in.
        return AutoModel.from_config(student_config(architecture, base), dtype=torch.float32)
