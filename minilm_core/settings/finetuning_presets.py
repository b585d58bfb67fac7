"""The authors' settings of fine-tuning, and cheap ones for a search, under names. Imports no torch.

Source: MiniLM (Wang et al., 2020) and MiniLMv2 (Wang et al., 2021), appendices on fine-tuning. The papers choose the
number of epochs on the development set; here the best epoch is chosen on a tenth of the train split.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningPreset:
    """Settings of fine-tuning."""

    settings: Mapping[str, Any]
    """The keys of FinetuningSchedule that differ from its defaults."""
    learning_rates: tuple[float, ...]
    """The peak learning rates that are tried."""


_BEST_EPOCH = {"selection_fraction": 0.1}

FINETUNING_PRESETS: Mapping[str, FinetuningPreset] = {
    "glue": FinetuningPreset(
        settings={"num_epochs": 5, "batch_size": 32, "max_length": 128, **_BEST_EPOCH},
        learning_rates=(2e-5, 3e-5, 4e-5, 5e-5),
    ),
    # CoLA, RTE and MRPC, which have few examples.
    "glue-small": FinetuningPreset(
        settings={"num_epochs": 10, "batch_size": 32, "max_length": 128, **_BEST_EPOCH},
        learning_rates=(2e-5, 3e-5, 4e-5, 5e-5),
    ),
    "squad2": FinetuningPreset(
        settings={"num_epochs": 3, "batch_size": 32, "max_length": 384, "teacher_learning_rate": 6e-5},
        learning_rates=(6e-5,),
    ),
    "xnli": FinetuningPreset(
        settings={"num_epochs": 5, "batch_size": 128, "max_length": 128, **_BEST_EPOCH},
        learning_rates=(3e-5, 4e-5, 5e-5, 6e-5),
    ),
    "mlqa": FinetuningPreset(
        settings={"num_epochs": 3, "batch_size": 32, "max_length": 512},
        learning_rates=(3e-5, 4e-5, 5e-5, 6e-5),
    ),
    # Cheap, and with high learning rates: after minutes of distillation weights are far from trained.
    "search": FinetuningPreset(
        settings={"num_epochs": 2, "batch_size": 32, "max_length": 128},
        learning_rates=(1e-4, 2e-4, 4e-4),
    ),
}
