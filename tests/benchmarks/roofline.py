"""What the fused relation loss and a distillation step cost in closed form, and how fast a GPU can be. No torch."""

from dataclasses import dataclass

from minilm_core.models.architecture import StudentArchitecture

BYTES_PER_PARTITION = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a computation asks of each unit of a GPU."""

    matrix_flops: int
    """2 per multiply-add of its matrix products."""
    memory_bytes: int
    """Read from and written to memory, everything once."""
    num_exponentials: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """How much of each a GPU does in a second."""

    matrix_flops: float
    memory_bytes: float
    num_exponentials: float

    def floor_seconds(self, work: Work) -> float:
        """Returns the time that the busiest unit needs; no program is faster."""
        return max(
            work.matrix_flops / self.matrix_flops,
            work.memory_bytes / self.memory_bytes,
            work.num_exponentials / self.num_exponentials,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RelationCost:
    """The cost of one relation of a batch of full rows: value and gradient."""

    num_sequences: int
    sequence_length: int
    num_heads: int
    teacher_head_size: int
    student_head_size: int
    is_symmetric: bool
    """Whether left and right are the same vectors, as in all relations but the attention distribution."""

    @property
    def num_pairs(self) -> int:
        """Pairs of a query and a key over all heads: elements that the relation would have in memory."""
        return self.num_sequences * self.num_heads * self.sequence_length**2

    @property
    def needed_flops(self) -> int:
        """FLOPs of the mathematics: both models' logits, and the student's gradient on both sides of its product."""
        return 2 * self.num_pairs * (self.teacher_head_size + 3 * self.student_head_size)

    def fused_work(self, element_bytes: int) -> Work:
        """Returns what the fused passes do with vectors of that many bytes an element.

        The logits are computed in both passes. The first sums teacher's and student's shares apart, since their
        largest logits rise apart; the second sums their difference. Each pass takes both shares' exponentials.
        """
        products = 2 * (self.teacher_head_size + self.student_head_size) + 3 * self.student_head_size
        rows = self.num_sequences * self.sequence_length * self.num_heads
        num_operands = 1 if self.is_symmetric else 2
        operands = num_operands * (self.teacher_head_size + self.student_head_size) * element_bytes
        # Written by the first pass and read by the second: the gradient as left operand, and two partitions.
        kept = self.student_head_size * element_bytes + 2 * BYTES_PER_PARTITION
        gradients = num_operands * self.student_head_size * element_bytes
        return Work(
            matrix_flops=2 * self.num_pairs * products,
            memory_bytes=rows * (2 * operands + 2 * kept + gradients),
            num_exponentials=4 * self.num_pairs,
        )


def relation_encoder_flops(architecture: StudentArchitecture, sequence_length: int) -> int:
    """Returns the forward FLOPs of one sequence up to the last layer's queries, keys and values and no further."""
    width, num_layers = architecture.hidden_size, architecture.num_layers
    stacked = architecture.flops(sequence_length) - 2 * width * width
    return stacked // num_layers * (num_layers - 1) + projection_flops(architecture, sequence_length)


def projection_flops(architecture: StudentArchitecture, sequence_length: int) -> int:
    """Returns the FLOPs of one layer's queries, keys and values of one sequence: what cached states leave to do."""
    return 3 * 2 * sequence_length * architecture.hidden_size**2


def step_flops(student: StudentArchitecture, teacher_flops: int, relation: RelationCost, num_relations: int) -> int:
    """Returns the FLOPs of the mathematics of one distillation step, forward and backward.

    Args:
        student: Its backward pass has two products for each of the forward pass.
        teacher_flops: Of one sequence: `relation_encoder_flops` where the teacher runs, `projection_flops` where its
            states are cached.
        relation: One of the relations of the batch; which vectors are compared changes no product.
        num_relations: How many there are: three of MiniLMv2, two of MiniLM.
    """
    student_flops = 3 * relation_encoder_flops(student, relation.sequence_length)
    return relation.num_sequences * (student_flops + teacher_flops) + num_relations * relation.needed_flops
