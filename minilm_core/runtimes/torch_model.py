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
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

CLASSIFIER_SUFFIX = "ForSequenceClassification"
"""The suffix of the classes of transformers with a task's head."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model and its tokenizer, loaded from a local folder."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    loading_info: Mapping[str, Any]

    @property
    def is_classifier(self) -> bool:
        """Whether the model has a task's head."""
        return type(self.model).__name__.endswith(CLASSIFIER_SUFFIX)

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
    """Returns the logits of a classifier, or the mean of an encoder's last states over real tokens.

    States of padding differ between runtimes, and no user reads them, so that they are not compared.
    """
    if "logits" in outputs:
        return outputs["logits"]
    mask = attention_mask.unsqueeze(-1).to(torch.float32)
    return (outputs["last_hidden_state"] * mask).sum(dim=1) / mask.sum(dim=1)


def load_packaged(folder: Path) -> PackagedModel:
    """Loads a model with the class its config names, and its tokenizer, for inference on the CPU in fp32."""
    factory = AutoModelForSequenceClassification if is_classifier(folder) else AutoModel
    model, info = factory.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    return PackagedModel(model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True), info)


def is_classifier(folder: Path) -> bool:
    """Returns whether a model folder's configuration names a class with a task's head."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any(name.endswith(CLASSIFIER_SUFFIX) for name in config.get("architectures") or ())
