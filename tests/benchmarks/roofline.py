"""The cost of the fused relation loss and of a distillation step in closed form, and a GPU's limits. No torch."""

from dataclasses import dataclass

from minilm_core.models.architecture import StudentArchitecture

BYTES_PER_PARTITION = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The work of a computation for each unit of a GPU."""

    matrix_flops: int
    """FLOPs of the matrix products: 2 for each multiply-add."""
    memory_bytes: int
    """Bytes read from and written to memory, each once."""
    num_exponentials: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """The work of each kind that a GPU does in a second."""

    matrix_flops: float
    memory_bytes: float
    num_exponentials: float

    def floor_seconds(self, work: Work) -> float:
        """Returns the time in seconds that the busiest unit needs, which is a lower bound for any program."""
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
        """The number of pairs of a query and a key over all heads: the elements of the whole relation."""
        return self.num_sequences * self.num_heads * self.sequence_length**2

    @property
    def needed_flops(self) -> int:
        """The FLOPs that the mathematics needs: both models' logits, and the student's gradient for both operands."""
        return 2 * self.num_pairs * (self.teacher_head_size + 3 * self.student_head_size)

    def fused_work(self, element_bytes: int) -> Work:
        """Returns the work of the fused passes for vectors with a number of bytes for each element.

        Both passes compute the logits. The first sums the teacher's and the student's terms separately, since each has
        its own running maximum; the second sums their difference. Each pass takes the exponentials of both.
        """
        products = 2 * (self.teacher_head_size + self.student_head_size) + 3 * self.student_head_size
        rows = self.num_sequences * self.sequence_length * self.num_heads
        num_operands = 1 if self.is_symmetric else 2
        operands = num_operands * (self.teacher_head_size + self.student_head_size) * element_bytes
        # The first pass writes and the second reads the gradient of the left operand and two partition sums.
        kept = self.student_head_size * element_bytes + 2 * BYTES_PER_PARTITION
        gradients = num_operands * self.student_head_size * element_bytes
        return Work(
            matrix_flops=2 * self.num_pairs * products,
            memory_bytes=rows * (2 * operands + 2 * kept + gradients),
            num_exponentials=4 * self.num_pairs,
        )


def relation_encoder_flops(architecture: StudentArchitecture, sequence_length: int) -> int:
    """Returns the forward FLOPs of one sequence up to the queries, keys and values of the last layer."""
    width, num_layers = architecture.hidden_size, architecture.num_layers
    stacked = architecture.flops(sequence_length) - 2 * width * width
    return stacked // num_layers * (num_layers - 1) + projection_flops(architecture, sequence_length)


def projection_flops(architecture: StudentArchitecture, sequence_length: int) -> int:
    """Returns the FLOPs of one layer's queries, keys and values for one sequence, which cached states do not save."""
    return 3 * 2 * sequence_length * architecture.hidden_size**2


def step_flops(student: StudentArchitecture, teacher_flops: int, relation: RelationCost, num_relations: int) -> int:
    """Returns the FLOPs that the mathematics of one distillation step needs, forward and backward.

    Args:
        student: The student, whose backward pass has two products for each product of the forward pass.
        teacher_flops: The teacher's FLOPs for one sequence: `relation_encoder_flops` if the teacher runs,
            `projection_flops` if its states are cached.
        relation: One of the relations of the batch; which vectors are compared changes no product.
        num_relations: The number of relations: 3 for MiniLMv2, 2 for MiniLM.
    """
    student_flops = 3 * relation_encoder_flops(student, relation.sequence_length)
    return relation.num_sequences * (student_flops + teacher_flops) + num_relations * relation.needed_flops
