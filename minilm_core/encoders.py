"""Encoders: load a teacher, build a student, run either up to the Q, K and V of one layer and no further."""

import copy
import json
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from minilm_core.architecture import StudentArchitecture
from minilm_core.families import check_model_type


class RelationVectors(NamedTuple):
    """Queries, keys and values of one layer, all heads side by side."""

    query: Float[Tensor, "batch seq width"]
    key: Float[Tensor, "batch seq width"]
    value: Float[Tensor, "batch seq width"]


class Projections(nn.Module):
    """The three linear maps of one attention layer, from the states that enter it to Q, K and V."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear) -> None:
        super().__init__()
        self.query = query
        self.key = key
        self.value = value

    def forward(self, states: Float[Tensor, "batch seq hidden"]) -> RelationVectors:
        """Projects hidden states."""
        return RelationVectors(self.query(states), self.key(states), self.value(states))


class RelationEncoder(nn.Module):
    """What distillation runs of an encoder: all layers below `layer`, then that layer's Q, K and V projections.

    It shares its modules with the encoder it is made from, so training it trains the encoder. Nothing in it is left
    without a gradient: the rest of the layer, the layers above and the pooler are not part of it. That is all of a
    student's last layer but Q, K and V; they get their first gradient in fine-tuning.

    Source: MiniLM (Wang et al., 2020), section 3: only the last layer's self-attention is distilled.
    """

    def __init__(self, encoder: PreTrainedModel, layer: int) -> None:
        super().__init__()
        config = copy.deepcopy(encoder.config)
        config.num_hidden_layers = layer - 1
        with torch.device("meta"):
            trunk = type(encoder)(config, add_pooling_layer=False)
        trunk.embeddings = encoder.embeddings
        trunk.encoder.layer = encoder.encoder.layer[: layer - 1]
        attention = encoder.encoder.layer[layer - 1].attention.self
        self.trunk = trunk
        self.projections = Projections(attention.query, attention.key, attention.value)
        self.num_heads: int = config.num_attention_heads
        self.hidden_size: int = config.hidden_size

    def states(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None
    ) -> Float[Tensor, "batch seq hidden"]:
        """Returns the hidden states that enter the layer."""
        states: Tensor = self.trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states

    def forward(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None
    ) -> RelationVectors:
        """Returns the layer's queries, keys and values."""
        vectors: RelationVectors = self.projections(self.states(input_ids, attention_mask))
        return vectors


def load_encoder(folder: Path) -> PreTrainedModel:
    """Loads an encoder with its weights, in fp32 and evaluation mode, from a local folder.

    Raises:
        UserError: if its family is not supported.
    """
    check_model_type(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    encoder = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, use_safetensors=True)
    return encoder.eval()


def load_encoder_config(folder: Path) -> PretrainedConfig:
    """Loads an encoder's configuration from a local folder."""
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def student_config(architecture: StudentArchitecture, teacher_config: PretrainedConfig) -> PretrainedConfig:
    """Returns the teacher's configuration with a student's sizes: same family, tokenizer and dropout."""
    config = copy.deepcopy(teacher_config)
    config.num_hidden_layers = architecture.num_layers
    config.hidden_size = architecture.hidden_size
    config.num_attention_heads = architecture.num_heads
    config.intermediate_size = architecture.intermediate_size
    config.architectures = None
    return config


def build_encoder(architecture: StudentArchitecture, teacher_config: PretrainedConfig, *, seed: int) -> PreTrainedModel:
    """Builds a randomly initialised encoder of the teacher's family; the same seed gives the same weights."""
    check_model_type(teacher_config.to_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Whatever the teacher was stored in: parameters and optimiser state are fp32.
        return AutoModel.from_config(student_config(architecture, teacher_config), dtype=torch.float32)
