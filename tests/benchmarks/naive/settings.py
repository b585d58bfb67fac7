"""What both sides of the comparison are told: students, data, rates, sizes and the resources that they may use."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.settings.schedules import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedTask:
    """A classification task as both sides read it: a folder with train.parquet and validation.parquet."""

    name: str
    folder: str
    text_columns: tuple[str, ...]
    num_labels: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The shape of a student."""

    num_layers: int
    hidden_size: int
    num_heads: int

    @property
    def label(self) -> str:
        """Layers and width."""
        return f"{self.num_layers}x{self.hidden_size}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of a comparison. All students have one recipe, and begin with random weights.

    Raises:
        UserError: if a width is no multiple of the head size or the number of relation heads.
    """

    teacher: str
    """The teacher's folder."""
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    """Every number of layers with every width is a student."""
    head_size: int
    corpus: str
    """A file of JSON lines with the key text, just long enough."""
    tasks: tuple[ComparedTask, ...]
    sequence_length: int
    num_held_out_rows: int
    num_steps: int
    """Of each distillation; its rows are distinct."""
    batch_size: int
    relation_heads: int
    distillation_learning_rate: float
    distillation_warmup_fraction: float = 0.05
    num_epochs: int
    """Of each fine-tuning."""
    finetuning_batch_size: int
    max_length: int
    finetuning_learning_rate: float
    finetuning_warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    is_bf16: bool
    num_threads: int
    """Of each trial."""
    num_concurrent: int
    """Trials that run at once."""
    seed: int = 0

    def __post_init__(self) -> None:
        for width in self.widths:
            if width % self.head_size or width % self.relation_heads:
                raise UserError(
                    f"widths must be multiples of the head size {self.head_size} and of {self.relation_heads} "
                    f"relation heads, got {width}"
                )

    @property
    def students(self) -> tuple[Size, ...]:
        """The students of both sides."""
        return tuple(
            Size(num_layers=layers, hidden_size=width, num_heads=width // self.head_size)
            for layers, width in product(self.layers, self.widths)
        )

    @property
    def precision(self) -> Precision:
        """The precision of both sides' matrix products."""
        return Precision.BF16 if self.is_bf16 else Precision.FP32

    @property
    def num_rows(self) -> int:
        """The rows of text that a side reads, those that are held out among them."""
        return num_rows(num_steps=self.num_steps, batch_size=self.batch_size, num_held_out_rows=self.num_held_out_rows)

    def for_program(self, work: Path) -> dict[str, Any]:
        """Returns the settings as program.py reads them."""
        return {**asdict(self), "students": [asdict(student) for student in self.students], "work": str(work)}

    def search_yaml(self, work: Path) -> dict[str, Any]:
        """Returns the settings as `minilm-search launch` reads them: a space of these students and no baselines."""
        shared = {
            "precision": self.precision.value,
            "weight_decay": self.weight_decay,
            "max_gradient_norm": self.max_gradient_norm,
        }
        return {
            "name": "compared",
            "seed": self.seed,
            "teacher": {"model": self.teacher},
            "corpus": {
                "sources": [{"path": self.corpus}],
                "sequence_length": self.sequence_length,
                "max_tokens": self.num_rows * self.sequence_length,
                "held_out_sequences": self.num_held_out_rows,
            },
            "tasks": list(self._tasks()),
            "space": {
                "num_layers": list(self.layers),
                "hidden_sizes": list(self.widths),
                "head_sizes": [self.head_size],
                "distillation_learning_rate": [self.distillation_learning_rate],
                "finetuning_learning_rate": [self.finetuning_learning_rate],
                "initialisations": ["random"],
            },
            "distillation": {
                **shared,
                "relation_heads": self.relation_heads,
                "num_steps": self.num_steps,
                "batch_size": self.batch_size,
                "warmup_fraction": self.distillation_warmup_fraction,
                "num_evaluations": 1,
            },
            "finetuning": {
                **shared,
                "num_epochs": self.num_epochs,
                "batch_size": self.finetuning_batch_size,
                "max_length": self.max_length,
                "warmup_fraction": self.finetuning_warmup_fraction,
            },
            "objectives": ["accuracy", "num_parameters"],
            # No latency is predicted; the default length may exceed the teacher's positions.
            "latency": {"sequence_length": self.sequence_length},
            "sampler": {"name": "random", "begin_with": [student.label for student in self.students]},
            "budget": {"num_trials": len(self.students)},
            "resources": {"max_concurrent_trials": self.num_concurrent, "cpus_per_worker": self.num_threads},
            "baselines": {"teacher": False, "twin": False, "ablations": False, "truncated_teacher": False},
            "storage": {"path": str(work / "studies"), "cache": str(work / "cache")},
        }

    def _tasks(self) -> Iterator[dict[str, Any]]:
        for task in self.tasks:
            yield {
                "name": task.name,
                "path": task.folder,
                "text_columns": list(task.text_columns),
                "label_column": "label",
                "num_labels": task.num_labels,
                "metric": "accuracy",
            }


def num_rows(*, num_steps: int, batch_size: int, num_held_out_rows: int) -> int:
    """Returns the rows of a distillation that sees none twice, and those that are held out."""
    return num_steps * batch_size + num_held_out_rows


def check_distinct(what: str, values: Sequence[int]) -> None:
    """Checks that each number is given once.

    Raises:
        UserError: if one is given twice.
    """
    if len(set(values)) != len(values):
        raise UserError(f"{what} must be given once each, got {', '.join(map(str, values))}")
