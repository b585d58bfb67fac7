"""Relations of random vectors for the tests of the fused passes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minilm_core.kernels.gpu import RaggedLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A relation of random vectors, small by default."""

    lengths: tuple[int, ...] = (5, 1, 3)
    num_heads: int = 2
    teacher_head_size: int = 8
    student_head_size: int = 4
    is_symmetric: bool = True
    dtype: torch.dtype = torch.float32
    scale: float = 1.0
    is_student_the_teacher: bool = False

    def operands(self) -> list[Tensor]:
        """Returns the teacher's left and right vectors, then the student's."""
        generator = torch.Generator().manual_seed(sum(self.lengths))
        num_tokens, operands = sum(self.lengths), []
        for head_size in (self.teacher_head_size, self.student_head_size):
            shape = (num_tokens, self.num_heads * head_size)
            left = (self.scale * torch.randn(shape, generator=generator)).to(self.dtype)
            right = left if self.is_symmetric else torch.randn(shape, generator=generator).to(self.dtype)
            operands += [left, right]
        return operands[:2] * 2 if self.is_student_the_teacher else operands

    def layout(self, device: torch.device) -> RaggedLayout:
        """Returns the layout of the sequences."""
        starts = torch.tensor([0, *self.lengths], device=device).cumsum(0).to(torch.int32)
        return RaggedLayout(cu_seqlens=starts, max_seqlen=max(self.lengths), token_numbers=None)
