"""The peer: bertdistiller 0.1.2's own loss, and around it the step that its Trainer takes.

Its `compute_loss` runs unchanged, from its own file. Only the work of its constructor is repeated here, because that
starts transformers' Trainer, which needs accelerate and a data set and plays no part in the loss.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import SourceFileLoader
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.paths import ROOT

PEER_FOLDER = ROOT / "build" / "peer"
PEER_LOSS = PEER_FOLDER / "bertdistiller" / "distillation" / "minilm" / "trainer.py"

Inputs = dict[str, Tensor]


def peer_trainer(teacher: PreTrainedModel, student: PreTrainedModel, relation_heads: int) -> Any:
    """Returns the peer's trainer of a BERT student from its BERT teacher, ready to compute losses."""
    trainer_class = _peer_module().MiniLMTrainer
    trainer = trainer_class.__new__(trainer_class)
    # The peer refuses every BERT whose configuration does not have the architecture for masked words.
    teacher.config.architectures = ["BertForMaskedLM"]
    trainer.teacher = teacher.eval()
    trainer.args = SimpleNamespace(
        teacher_layer=teacher.config.num_hidden_layers,
        student_layer=student.config.num_hidden_layers,
        num_relation_heads=relation_heads,
        relations={(1, 1): 1.0, (2, 2): 1.0, (3, 3): 1.0},
    )
    trainer.attention_extractor = trainer._get_attention_extractor()
    trainer.kl_loss = nn.KLDivLoss(reduction="sum")
    return trainer


def peer_steps(
    trainer: Any, student: PreTrainedModel, batches: Iterable[Inputs], *, is_bf16: bool, learning_rate: float
) -> Iterator[float]:
    """Yields the loss after every optimiser step: the peer's loss, clipped gradients, AdamW."""
    student.train()
    optimiser = torch.optim.AdamW(student.parameters(), lr=learning_rate, fused=True)
    for inputs in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            loss = trainer.compute_loss(student, inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        yield loss.item()


def full_rows(input_ids: Tensor) -> Inputs:
    """Returns a batch as the peer's data collator does: the tokens, and a mask that masks none of them."""
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


@cache
def _peer_module() -> Any:
    # Only this file is loaded, since its package imports modules that the benchmark does not need.
    loader = SourceFileLoader("bertdistiller_trainer", str(PEER_LOSS))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module
