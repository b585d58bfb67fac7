"""The sizes of an encoder and what follows from them in closed form: validity, parameters, bytes, FLOPs. No torch."""

from dataclasses import dataclass

from minilm_core.errors import UserError

BYTES_PER_FP32 = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingShape:
    """The rows of the three embedding tables; they come with the teacher's tokenizer and family."""

    vocabulary_size: int
    """Rows of the word embedding."""
    num_positions: int
    """Rows of the position embedding, padding rows included."""
    num_token_types: int
    """Rows of the token-type (segment) embedding."""

    def num_parameters(self, hidden_size: int) -> int:
        """Returns the parameters of the tables and of the LayerNorm that follows them."""
        rows = self.vocabulary_size + self.num_positions + self.num_token_types
        return rows * hidden_size + 2 * hidden_size


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentArchitecture:
    """The shape of an encoder of the BERT family; every derived size is a property.

    Raises:
        UserError: if a size is not positive or the heads do not divide the hidden size.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_ratio: int = 4
    """Width of the feed-forward over the hidden size."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_heads", "intermediate_ratio"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size must be a multiple of num_heads, got {self.hidden_size} and {self.num_heads}")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward; derived, so that a narrow student never keeps its teacher's."""
        return self.intermediate_ratio * self.hidden_size

    @property
    def label(self) -> str:
        """A short name: layers x hidden size, attention heads; the feed-forward ratio only where it is not 4."""
        ratio = "" if self.intermediate_ratio == 4 else f"/{self.intermediate_ratio}"
        return f"{self.num_layers}x{self.hidden_size}{ratio} A{self.num_heads}"

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of the stacked layers alone: weights, biases and LayerNorms, without embeddings and pooler."""
        width, inner = self.hidden_size, self.intermediate_size
        attention = 4 * (width * width + width)
        feed_forward = 2 * width * inner + inner + width
        layer_norms = 2 * 2 * width
        return self.num_layers * (attention + feed_forward + layer_norms)

    @property
    def num_pooler_parameters(self) -> int:
        """Parameters of the dense layer over the first token, which fine-tuning trains."""
        return self.hidden_size * self.hidden_size + self.hidden_size

    def num_parameters(self, embeddings: EmbeddingShape) -> int:
        """Returns all parameters of the encoder as it is deployed: embeddings, layers and pooler."""
        return embeddings.num_parameters(self.hidden_size) + self.num_layer_parameters + self.num_pooler_parameters

    def size_bytes(self, embeddings: EmbeddingShape) -> int:
        """Returns the bytes of the encoder's weights in fp32."""
        return BYTES_PER_FP32 * self.num_parameters(embeddings)

    def flops(self, sequence_length: int) -> int:
        """Returns the FLOPs (2 per multiply-add) of the matrix products of one forward pass over one sequence.

        Counts projections, feed-forward, both attention products and the pooler; what is linear in the
        width (biases, LayerNorm, softmax) is left out, as torch's flop counter leaves it out.
        """
        width, inner, length = self.hidden_size, self.intermediate_size, sequence_length
        projections = 4 * 2 * length * width * width
        attention = 2 * 2 * length * length * width
        feed_forward = 2 * 2 * length * width * inner
        return self.num_layers * (projections + attention + feed_forward) + 2 * width * width
