"""A model folder under PyTorch, as whoever is given a package loads it, and what it delivers."""

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
"""How transformers ends the names of classes with a task's head."""


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model and its tokenizer, loaded from a folder and from nowhere else."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    loading_info: Mapping[str, Any]

    @property
    def is_classifier(self) -> bool:
        """Whether the model delivers logits."""
        return type(self.model).__name__.endswith(CLASSIFIER_SUFFIX)

    def tokens(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Returns some texts as one padded batch of the model's inputs."""
        batch: Mapping[str, Tensor] = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        return batch

    def outputs(self, texts: Sequence[str]) -> Float[Tensor, "texts values"]:
        """Returns what the package delivers for some texts: see `delivered`."""
        inputs = self.tokens(texts)
        with torch.inference_mode():
            return delivered(self.model(**inputs), inputs["attention_mask"])


def delivered(outputs: Mapping[str, Tensor], attention_mask: Tensor) -> Float[Tensor, "batch values"]:
    """Returns the logits of a classifier; of a bare encoder the mean of its last states over real tokens.

    What stands at padding differs between runtimes and is never delivered, so it is no part of a comparison.
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
