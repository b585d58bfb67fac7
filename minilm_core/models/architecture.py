"""The sizes of an encoder and what follows from them in closed form: validity, parameters, bytes, FLOPs. No torch."""

from dataclasses import dataclass

from minilm_core.errors import UserError

BYTES_PER_FP32 = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DisentangledAttention:
    """What DeBERTa's layers have more than BERT's."""

    num_distances: int
    """Rows of the embedding of distances that all layers share, as wide as the hidden states; 0 where there is none."""
    num_terms: int
    """Terms of a score that are of a content and a position: 1 or 2; 0 without distances."""
    shares_maps: bool
    """Whether positions are projected with the maps of content and not with their own."""
    is_normed: bool
    """Whether a LayerNorm follows the embedding of distances."""
    convolution_width: int
    """Tokens that the convolution beside the first layer sees; 0 where there is none."""

    def num_parameters(self, num_layers: int, hidden_size: int) -> int:
        """Returns the parameters of the embedding, its norm, the maps of positions and the convolution."""
        maps = 0 if self.shares_maps else num_layers * self.num_terms * (hidden_size + 1) * hidden_size
        norm = 2 * hidden_size if self.is_normed else 0
        convolution = (self.convolution_width * hidden_size + 3) * hidden_size if self.convolution_width else 0
        return self.num_distances * hidden_size + maps + norm + convolution

    def flops(self, num_layers: int, hidden_size: int, sequence_length: int) -> int:
        """Returns the FLOPs of the projections of all distances, the terms of all scores and the convolution."""
        # With shared maps both of them are computed, whichever terms there are.
        num_maps = 2 if self.shares_maps and self.num_distances else self.num_terms
        maps = num_maps * 2 * self.num_distances * hidden_size * hidden_size
        terms = self.num_terms * 2 * sequence_length * self.num_distances * hidden_size
        convolution = 2 * sequence_length * self.convolution_width * hidden_size * hidden_size
        return num_layers * (maps + terms) + convolution


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyShape:
    """What a student takes over from its teacher's tokenizer and family, whatever its own sizes; by default BERT's."""

    vocabulary_size: int
    """Rows of the word embedding."""
    num_positions: int
    """Rows of the position embedding, padding rows included; 0 where positions are only in the attention."""
    num_token_types: int
    """Rows of the token-type (segment) embedding; 0 where there is none."""
    embedding_size: int | None = None
    """ELECTRA: the teacher's width of the tables. A student keeps it, or its hidden size where that is smaller; where
    it is larger, a projection follows. None: as wide as the hidden states."""
    keeps_wide_tables_from: int | None = None
    """ELECTRA whose tables are wider than its hidden states: its hidden size. An encoder of at least this hidden size
    has tables of `embedding_size`. None: the tables are not wider than the hidden states."""
    num_position_biases: int = 0
    """MPNet: rows of the table that all layers share, a number a head."""
    disentangled: DisentangledAttention | None = None
    """DeBERTa only."""
    has_pooler: bool = True
    """Whether a dense layer over the first token is part of the encoder."""
    has_biases: bool = True
    """Whether linear maps and norms have a bias."""
    is_gated: bool = False
    """Whether the feed-forward has a second inner map, by which the first is multiplied."""

    def width(self, hidden_size: int) -> int:
        """Returns the width of the tables."""
        if self.embedding_size is None:
            return hidden_size
        if self.keeps_wide_tables_from is not None and hidden_size >= self.keeps_wide_tables_from:
            return self.embedding_size
        return min(self.embedding_size, hidden_size)

    def num_parameters(self, hidden_size: int) -> int:
        """Returns the parameters of the tables, of the LayerNorm that follows them and of a projection."""
        width = self.width(hidden_size)
        rows = self.vocabulary_size + self.num_positions + self.num_token_types
        projection = 0 if width == hidden_size else (width + 1) * hidden_size
        return rows * width + (1 + self.has_biases) * width + projection


_BERT = FamilyShape(vocabulary_size=0, num_positions=0, num_token_types=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentArchitecture:
    """The shape of an encoder; every derived size is a property.

    Raises:
        UserError: if a size is not positive or the heads do not divide the hidden size.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_ratio: float = 4
    """Width of the feed-forward over the hidden size; a teacher's need not be whole."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.intermediate_size < 1:
            raise UserError(
                f"intermediate_ratio must leave a feed-forward of at least 1, got {self.intermediate_ratio}"
            )
        if self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size must be a multiple of num_heads, got {self.hidden_size} and {self.num_heads}")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward; derived, so that a narrow student never keeps its teacher's."""
        return round(self.intermediate_ratio * self.hidden_size)

    @property
    def label(self) -> str:
        """A short name: layers x hidden size, attention heads; the feed-forward ratio only where it is not 4."""
        ratio = "" if self.intermediate_ratio == 4 else f"/{self.intermediate_ratio:g}"
        return f"{self.num_layers}x{self.hidden_size}{ratio} A{self.num_heads}"

    def num_layer_parameters(self, family: FamilyShape) -> int:
        """Returns the parameters of the stacked layers with what they share, without embeddings and pooler.

        A norm after the last layer counts as one of its own: where there is one, the first layer has one less.
        """
        width, inner, has_biases = self.hidden_size, self.intermediate_size, family.has_biases
        attention = 4 * (width + has_biases) * width
        num_inner_maps = 2 if family.is_gated else 1
        feed_forward = num_inner_maps * (width + has_biases) * inner + (inner + has_biases) * width
        norms = 2 * (1 + has_biases) * width
        position_biases = family.num_position_biases * self.num_heads
        disentangled = family.disentangled.num_parameters(self.num_layers, width) if family.disentangled else 0
        return self.num_layers * (attention + feed_forward + norms) + position_biases + disentangled

    def num_pooler_parameters(self, family: FamilyShape) -> int:
        """Returns the parameters of the dense layer over the first token, which fine-tuning trains."""
        return (self.hidden_size + 1) * self.hidden_size if family.has_pooler else 0

    def num_parameters(self, family: FamilyShape) -> int:
        """Returns all parameters of the encoder as it is deployed: embeddings, layers and pooler."""
        embeddings = family.num_parameters(self.hidden_size)
        return embeddings + self.num_layer_parameters(family) + self.num_pooler_parameters(family)

    def size_bytes(self, family: FamilyShape) -> int:
        """Returns the bytes of the encoder's weights in fp32."""
        return BYTES_PER_FP32 * self.num_parameters(family)

    def flops(self, sequence_length: int, family: FamilyShape = _BERT) -> int:
        """Returns the FLOPs (2 per multiply-add) of the matrix products of one forward pass over one sequence.

        Counts projections, feed-forward, attention products over all pairs of tokens (a local layer's too, which eager
        attention computes whole), and the pooler. What is linear in the width (biases, norms, softmax, gates, rotation,
        looking up positions) is left out, as torch's flop counter leaves it out.
        """
        width, inner, length = self.hidden_size, self.intermediate_size, sequence_length
        tables = family.width(width)
        projected = 0 if tables == width else 2 * length * tables * width
        attention = 4 * 2 * length * width * width + 2 * 2 * length * length * width
        feed_forward = (3 if family.is_gated else 2) * 2 * length * width * inner
        pooler = 2 * width * width if family.has_pooler else 0
        disentangled = family.disentangled.flops(self.num_layers, width, length) if family.disentangled else 0
        return projected + self.num_layers * (attention + feed_forward) + pooler + disentangled
