"""Shared by the tests of weight transfer: drawn and initialised students, and the indices that they keep."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder
from minilm_core.models.families import encoder_architecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.weight_transfer import initialise
from tests.minilm_core.encoder_families import CONFIGS

# Teachers are 4x24 A4 with feed-forward 96 (ModernBERT's first: 36). 8 of 24 dimensions, 2 of 4 heads.
NARROW = StudentArchitecture(num_layers=2, hidden_size=8, num_heads=2, intermediate_ratio=3)


def drawn(architecture: StudentArchitecture, family: str, seed: int = 0) -> PreTrainedModel:
    return build_encoder(architecture, CONFIGS[family], seed=seed).eval()


def initialised(
    architecture: StudentArchitecture, teacher: PreTrainedModel, family: str, initialisation: Initialisation
) -> PreTrainedModel:
    student = drawn(architecture, family)
    initialise(student, teacher, initialisation, distilled_layer=4)
    return student


def kept_hidden(teacher: PreTrainedModel, number: int) -> Tensor:
    """Returns the hidden dimensions whose norm weights have the largest sums of squares."""
    totals = [0.0] * 24
    for name, parameter in teacher.named_parameters():
        if "norm" in name.lower() and name.endswith("weight") and parameter.shape == (24,):
            for index, weight in enumerate(parameter.tolist()):
                totals[index] += weight**2
    order = sorted(range(24), key=lambda index: -totals[index])
    return torch.tensor(sorted(order[:number]))


def changed(student: PreTrainedModel, family: str) -> set[str]:
    before = dict(drawn(encoder_architecture(student.config.to_dict()), family).named_parameters())
    return {name for name, parameter in student.named_parameters() if not torch.equal(parameter, before[name])}
