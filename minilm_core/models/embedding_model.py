"""An encoder that embeds texts: its pooled, normalised last states, saved as a folder of sentence-transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from minilm_core.models.sentence_files import (
    Pooling,
    SentenceSettings,
    read_sentence_settings,
    write_sentence_files,
)


@dataclass
class EmbeddingOutput(ModelOutput):  # type: ignore[misc]  # transformers is not followed
    """What an `EmbeddingModel` returns."""

    sentence_embedding: Float[Tensor, "batch hidden"] | None = None
    """The embedding of each text, of length 1."""


class EmbeddingModel(nn.Module):
    """An encoder whose output for a text is its pooled last states, scaled to length 1.

    It has no weights beside the encoder's. A pooler, which some encoders have for their pretraining, is not used; it
    keeps its weights, so that the folder is complete for `AutoModel`.
    """

    def __init__(self, encoder: PreTrainedModel, settings: SentenceSettings) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        for name, parameter in encoder.named_parameters():
            # Data parallelism waits for the gradient of every parameter that learns.
            if name.startswith("pooler."):
                parameter.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path,
        *,
        settings: SentenceSettings | None = None,
        output_loading_info: bool = False,
        **of_transformers: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Loads an encoder, and how it embeds a text from its folder unless it is given.

        Raises:
            UserError: if a file is missing or damaged.
        """
        encoder, info = AutoModel.from_pretrained(folder, output_loading_info=True, **of_transformers)
        model = cls(encoder, settings or read_sentence_settings(folder))
        return (model, info) if output_loading_info else model

    def save_pretrained(self, folder: Path) -> None:
        """Writes a folder that `AutoModel` and, once it has a tokenizer, sentence-transformers load."""
        self.encoder.save_pretrained(folder)
        write_sentence_files(folder, self.settings, hidden_size=self.config.hidden_size)

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's configuration."""
        return self.encoder.config

    def get_input_embeddings(self) -> nn.Module:
        """Returns the encoder's table of tokens, as models of transformers do."""
        table: nn.Module = self.encoder.get_input_embeddings()
        return table

    def set_input_embeddings(self, table: nn.Module) -> None:
        """Replaces the encoder's table of tokens, as models of transformers do."""
        self.encoder.set_input_embeddings(table)

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"],
        token_type_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> EmbeddingOutput:
        """Returns the embedding of each text, in fp32."""
        # Not all families have types of tokens.
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state.float()
        pooled = pool(states, attention_mask, self.settings.pooling)
        return EmbeddingOutput(sentence_embedding=functional.normalize(pooled, dim=-1))


def pool(
    states: Float[Tensor, "batch seq hidden"], attention_mask: Int[Tensor, "batch seq"], pooling: Pooling
) -> Float[Tensor, "batch hidden"]:
    """Returns one vector a text, in which padding has no part. Padding is at the end."""
    mask = attention_mask.unsqueeze(-1)
    match pooling:
        case Pooling.MEAN:
            return (states * mask).sum(dim=1) / mask.sum(dim=1)
        case Pooling.CLS:
            return states[:, 0]
        case Pooling.MAX:
            return states.masked_fill(mask == 0, -torch.inf).amax(dim=1)
