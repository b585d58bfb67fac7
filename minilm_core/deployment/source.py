"""The student that a package is made from, and the facts that its card and its provenance state. No torch."""

from dataclasses import dataclass
from pathlib import Path

from minilm_core.latency.table import LatencyTable
from minilm_core.results.records import Evaluation, TaskResult, TrialRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageSource:
    """A trained student with the facts that its package states about it."""

    model_folder: Path
    """The student and its tokenizer, as `save_pretrained` wrote them."""
    record: TrialRecord
    task: str
    """The task the student was fine-tuned on; one of the record's tasks."""
    study: str
    teacher: str
    """The teacher's name, as the study gives it."""
    method: str
    """The distillation method's name."""
    licence: str | None
    """The Hub's identifier for the licence of the teacher's weights, which a student inherits; None: not stated."""
    config_sha256: str | None = None
    """The hash of the study's resolved search.yaml; None for a student that no search made."""
    base_model: str | None = None
    """The teacher's id on the Hub; None for a teacher from elsewhere."""
    latency_table: LatencyTable | None = None
    """The table that the record's latency was predicted from."""
    decision: Path | None = None
    """decision.json: why this student was picked."""

    @property
    def title(self) -> str:
        """The package's name: study, trial and sizes."""
        return f"{self.study} trial {self.record.number} ({self.record.architecture.label})"


def evaluations_by_split(result: TaskResult) -> dict[str, Evaluation]:
    """Returns a task's evaluations by the name of the split or set; a split that was not evaluated is left out."""
    splits = {"validation": result.validation, "test": result.test, **result.evaluation_sets}
    return {split: evaluation for split, evaluation in splits.items() if evaluation is not None}
