"""Loads a model folder with PyTorch, as the user of a package does, and runs it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from minilm_core.models.embedding_model import EmbeddingModel
from minilm_core.models.sentence_files import has_sentence_files


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a model has on top of its encoder."""

    model_class: Any
    """The class of transformers that loads the model."""
    output_names: tuple[str, ...]
    """The model's outputs, in order."""
    pipeline_tag: str
    """The Hub's name of the task."""

    @property
    def is_classifier(self) -> bool:
        """Whether each text has one vector of logits."""
        return self.model_class is AutoModelForSequenceClassification


EMBEDDING = Head(model_class=EmbeddingModel, output_names=("sentence_embedding",), pipeline_tag="sentence-similarity")
"""An encoder with its pooling."""
ENCODER = Head(model_class=AutoModel, output_names=("last_hidden_state",), pipeline_tag="feature-extraction")
HEADS = {
    "ForSequenceClassification": Head(
        model_class=AutoModelForSequenceClassification, output_names=("logits",), pipeline_tag="text-classification"
    ),
    "ForQuestionAnswering": Head(
        model_class=AutoModelForQuestionAnswering,
        output_names=("start_logits", "end_logits"),
        pipeline_tag="question-answering",
    ),
    "ForTokenClassification": Head(
        model_class=AutoModelForTokenClassification, output_names=("logits",), pipeline_tag="token-classification"
    ),
}
"""The heads of tasks, by the suffix of the class of transformers that a model's config.json names."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model and its tokenizer, loaded from a local folder."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    loading_info: Mapping[str, Any]
    head: Head

    def tokens(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Returns texts as one padded batch of the model's inputs."""
        batch: Mapping[str, Tensor] = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        return batch

    def outputs(self, texts: Sequence[str]) -> Float[Tensor, "texts values"]:
        """Returns the outputs for texts that are compared: see `comparable_outputs`."""
        inputs = self.tokens(texts)
        with torch.inference_mode():
            return comparable_outputs(self.model(**inputs), inputs["attention_mask"])


def comparable_outputs(outputs: Mapping[str, Tensor], attention_mask: Tensor) -> Float[Tensor, "batch values"]:
    """Returns what a model says of each text as one vector, without what it says of padding.

    That is the logits of a classifier, an embedding, the logits of the real tokens of a head on tokens, or the mean of
    an encoder's last states. States of padding differ between runtimes, and no user reads them.
    """
    if "logits" in outputs and outputs["logits"].ndim == 2:
        return outputs["logits"]
    if "sentence_embedding" in outputs:
        return outputs["sentence_embedding"]
    mask = attention_mask.unsqueeze(-1).to(torch.float32)
    if "logits" in outputs:
        return (outputs["logits"] * mask).flatten(1)
    if "start_logits" in outputs:
        return (torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1) * mask).flatten(1)
    return (outputs["last_hidden_state"] * mask).sum(dim=1) / mask.sum(dim=1)


def load_packaged(folder: Path) -> PackagedModel:
    """Loads a model with the class its config names, and its tokenizer, for inference on the CPU in fp32."""
    head = head_of(folder)
    model, info = head.model_class.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    return PackagedModel(model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True), info, head)


def head_of(folder: Path) -> Head:
    """Returns the head of the model in a folder, which its files name; ENCODER if it has none."""
    if has_sentence_files(folder):
        return EMBEDDING
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for suffix, head in HEADS.items():
        if any(name.endswith(suffix) for name in config.get("architectures") or ()):
            return head
    return ENCODER
