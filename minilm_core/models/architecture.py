"""The sizes of an encoder, with its parameters, bytes and FLOPs in closed form. Imports no torch."""

from dataclasses import dataclass

from minilm_core.errors import UserError

BYTES_PER_FP32 = 4
BYTES_PER_CHANNEL = 5
"""An output of a matrix that is quantised to int8 has a scale in fp32 and a zero point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DisentangledAttention:
    """The parts of DeBERTa's layers that BERT's layers do not have."""

    num_distances: int
    """Rows of the distance embedding that all layers share, as wide as the hidden states; 0 if there is none."""
    num_terms: int
    """The number of score terms between content and position: 1 or 2; 0 without distances."""
    shares_maps: bool
    """Whether positions share the projections of content instead of having their own."""
    is_normed: bool
    """Whether a LayerNorm follows the embedding of distances."""
    convolution_width: int
    """Kernel size, in tokens, of the convolution in parallel to the first layer; 0 if there is none."""

    def num_parameters(self, num_layers: int, hidden_size: int) -> int:
        """Returns the number of parameters of the embedding, its norm, the position projections and the convolution."""
        maps = 0 if self.shares_maps else num_layers * self.num_terms * (hidden_size + 1) * hidden_size
        norm = 2 * hidden_size if self.is_normed else 0
        convolution = (self.convolution_width * hidden_size + 3) * hidden_size if self.convolution_width else 0
        return self.num_distances * hidden_size + maps + norm + convolution

    def num_channels(self, num_layers: int, hidden_size: int) -> int:
        """Returns the number of outputs of the position projections."""
        return 0 if self.shares_maps else num_layers * self.num_terms * hidden_size

    def num_vector_parameters(self, num_layers: int, hidden_size: int) -> int:
        """Returns how many of the parameters are in biases and norms."""
        rest = (2 if self.is_normed else 0) + (3 if self.convolution_width else 0)
        return self.num_channels(num_layers, hidden_size) + rest * hidden_size

    def flops(self, num_layers: int, hidden_size: int, sequence_length: int) -> int:
        """Returns the FLOPs of the projections of all distances, the terms of all scores and the convolution."""
        # With shared projections both are computed, whichever terms there are.
        num_maps = 2 if self.shares_maps and self.num_distances else self.num_terms
        maps = num_maps * 2 * self.num_distances * hidden_size * hidden_size
        terms = self.num_terms * 2 * sequence_length * self.num_distances * hidden_size
        convolution = 2 * sequence_length * self.convolution_width * hidden_size * hidden_size
        return num_layers * (maps + terms) + convolution


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyShape:
    """What students of any size inherit from their teacher's tokenizer and family; the defaults are BERT's."""

    vocabulary_size: int
    """Rows of the word embedding."""
    num_positions: int
    """Rows of the position embedding, including padding rows; 0 if only the attention uses positions."""
    num_token_types: int
    """Rows of the token-type (segment) embedding; 0 if there is none."""
    embedding_size: int | None = None
    """ELECTRA: the width of the teacher's tables, or one that is set. A student has it, or its hidden size if smaller;
    if its hidden size is larger, a projection follows. None: the tables are as wide as the hidden states."""
    keeps_wide_tables_from: int | None = None
    """The hidden size of an ELECTRA teacher whose tables are wider than its hidden states. An encoder of at least this
    hidden size has tables of `embedding_size`. None: the tables are not wider than the hidden states."""
    num_position_biases: int = 0
    """MPNet: rows of the position-bias table that all layers share, with one entry per head."""
    disentangled: DisentangledAttention | None = None
    """DeBERTa only."""
    has_pooler: bool = True
    """Whether a dense layer over the first token is part of the encoder."""
    has_biases: bool = True
    """Whether linear maps and norms have a bias."""
    is_gated: bool = False
    """Whether the feed-forward has a second inner projection that gates the first."""

    def width(self, hidden_size: int) -> int:
        """Returns the width of the embedding tables."""
        if self.embedding_size is None:
            return hidden_size
        if self.keeps_wide_tables_from is not None and hidden_size >= self.keeps_wide_tables_from:
            return self.embedding_size
        return min(self.embedding_size, hidden_size)

    def num_parameters(self, hidden_size: int) -> int:
        """Returns the number of parameters of the tables, of the LayerNorm after them and of the projection, if any."""
        width = self.width(hidden_size)
        rows = self.vocabulary_size + self.num_positions + self.num_token_types
        projection = 0 if width == hidden_size else (width + 1) * hidden_size
        return rows * width + (1 + self.has_biases) * width + projection


_BERT = FamilyShape(vocabulary_size=0, num_positions=0, num_token_types=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentArchitecture:
    """The sizes of an encoder; derived sizes are properties.

    Raises:
        UserError: if a size is not positive or the heads do not divide the hidden size.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_ratio: float = 4
    """Width of the feed-forward divided by the hidden size; a teacher's need not be an integer."""

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
        """Width of the feed-forward; it is derived, so that a narrow student never keeps its teacher's."""
        return round(self.intermediate_ratio * self.hidden_size)

    @property
    def label(self) -> str:
        """A short name: layers x hidden size, attention heads; the feed-forward ratio only where it is not 4."""
        ratio = "" if self.intermediate_ratio == 4 else f"/{self.intermediate_ratio:g}"
        return f"{self.num_layers}x{self.hidden_size}{ratio} A{self.num_heads}"

    def num_layer_parameters(self, family: FamilyShape) -> int:
        """Returns the number of parameters of all layers and their shared tables, without embeddings and pooler.

        A norm after the last layer is counted as one of a layer's two norms: a family with it has one norm less in the
        first layer.
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
        """Returns the number of parameters of the dense layer over the first token, which fine-tuning trains."""
        return (self.hidden_size + 1) * self.hidden_size if family.has_pooler else 0

    def num_parameters(self, family: FamilyShape) -> int:
        """Returns the number of parameters of the deployed encoder: embeddings, layers and pooler."""
        embeddings = family.num_parameters(self.hidden_size)
        return embeddings + self.num_layer_parameters(family) + self.num_pooler_parameters(family)

    def size_bytes(self, family: FamilyShape) -> int:
        """Returns the size of the encoder's weights in fp32, in bytes."""
        return BYTES_PER_FP32 * self.num_parameters(family)

    def int8_size_bytes(self, family: FamilyShape) -> int:
        """Returns the size of the encoder's weights in the int8 export of a package, in bytes.

        Matrices and tables have 1 byte an element, and 5 an output channel; biases and norms stay in fp32. The file has
        the graph besides, which depends on the exporter: about 0.1 MB a layer.
        """
        width, has_biases, num_layers = self.hidden_size, family.has_biases, self.num_layers
        is_projected = family.width(width) != width
        # The outputs of the matrices of attention, of the feed-forward, of the projection of tables and of the pooler.
        channels = num_layers * (5 * width + (2 if family.is_gated else 1) * self.intermediate_size)
        channels += width * (is_projected + family.has_pooler)
        norms = (1 + has_biases) * (family.width(width) + 2 * num_layers * width)
        vectors = norms + channels * has_biases
        if family.disentangled is not None:
            channels += family.disentangled.num_channels(num_layers, width)
            vectors += family.disentangled.num_vector_parameters(num_layers, width)
        matrices = self.num_parameters(family) - vectors
        return matrices + BYTES_PER_FP32 * vectors + BYTES_PER_CHANNEL * channels

    def flops(self, sequence_length: int, family: FamilyShape = _BERT) -> int:
        """Returns the FLOPs (2 per multiply-add) of the matrix products of one forward pass over one sequence.

        Counts projections, feed-forward, attention products over all pairs of tokens and the pooler. Local layers also
        count all pairs, because eager attention computes them. Operations that are linear in the width (biases, norms,
        softmax, gates, rotation, position lookup) are left out, as in torch's flop counter.
        """
        width, inner, length = self.hidden_size, self.intermediate_size, sequence_length
        tables = family.width(width)
        projected = 0 if tables == width else 2 * length * tables * width
        attention = 4 * 2 * length * width * width + 2 * 2 * length * length * width
        feed_forward = (3 if family.is_gated else 2) * 2 * length * width * inner
        pooler = 2 * width * width if family.has_pooler else 0
        disentangled = family.disentangled.flops(self.num_layers, width, length) if family.disentangled else 0
        return projected + self.num_layers * (attention + feed_forward) + pooler + disentangled
