"""A study on one node of the cluster: its teacher's folder there, and the device that everything runs on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from minilm_core.kernels.compiled_loops import keep_compiled_loops_in
from minilm_core.models.teacher import resolve
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.results.layout import StudyPaths
from minilm_core.settings.schedules import Precision
from minilm_core.tasks.embeddings.teacher import as_teacher_embeds
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import load_task_data
from minilm_core.tasks.task import Task
from minilm_core.training.devices import resolve_precision, training_device
from search.config.settings import SearchConfig
from search.config.teacher_assignment import TeacherRole
from search.study.resolved import ResolvedStudy

_TASK_DATA: dict[tuple[str, Path, Path, int], TaskData] = {}
"""The tasks of this process, by task, study, tokenizer and length. Their tokens are on disk, too, but to read and hash
long texts takes seconds, which each student of a trial would spend again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeContext:
    """A study as one node of the cluster sees it."""

    study: ResolvedStudy
    teacher_folder: Path

    @classmethod
    def open(cls, study: ResolvedStudy) -> Self:
        """Finds the teacher on this node, and sets the folder of compiled loops unless one is set."""
        keep_compiled_loops_in(Path(study.config.storage.cache) / "loops")
        # The preparation of the study has checked the hash of the weights; no trial reads them all again.
        teacher = replace(study.config.teacher, sha256=None)
        return cls(study=study, teacher_folder=resolve(teacher, study.paths.root))

    def task_data(self, task: Task, tokenizer_folder: Path) -> TaskData:
        """Returns a task's splits, tokenised; a process reads them once, and a study tokenises them once."""
        # The folder of a cut vocabulary does not say how the teacher embeds.
        task = as_teacher_embeds(task, self.teacher_folder, self.config.finetuning.max_length)
        key = (repr(task), self.paths.root, tokenizer_folder, self.config.finetuning.max_length)
        if key not in _TASK_DATA:
            # A process may run the trials of one study after those of another.
            for other in [other for other in _TASK_DATA if other[1] != self.paths.root]:
                del _TASK_DATA[other]
            _TASK_DATA[key] = load_task_data(task, self.paths.root, tokenizer_folder, key[3], self.encodings)
        return _TASK_DATA[key]

    @property
    def config(self) -> SearchConfig:
        """The settings of the study."""
        return self.study.config

    @property
    def paths(self) -> StudyPaths:
        """The layout of the study's folder."""
        return self.study.paths

    @property
    def student_tokenizer(self) -> Path:
        """The folder of the students' tokenizer: the teacher's, or the study's own if it cuts the vocabulary."""
        return self.paths.vocabulary if self.config.cuts_vocabulary else self.teacher_folder

    @property
    def vocabulary(self) -> CutVocabulary | None:
        """The tokens that students keep; None: all. It is there once the study is prepared."""
        return CutVocabulary.load(self.paths.vocabulary) if self.config.cuts_vocabulary else None

    @property
    def encodings(self) -> Path:
        """The folder of the tokenised tasks, which studies share."""
        return Path(self.config.storage.cache) / "tasks"

    @property
    def device(self) -> torch.device:
        """The device that everything runs on."""
        return training_device(self.config.resources.gpus_per_worker > 0)

    @property
    def precision(self) -> Precision:
        """The precision that the teacher and the assistant run in."""
        return resolve_precision(self.config.distillation.precision, self.device)

    def folder(self, teacher_role: TeacherRole) -> Path:
        """Returns the folder of a model that teaches; the assistant's is there once the assistant is trained."""
        return self.teacher_folder if teacher_role is TeacherRole.TEACHER else self.paths.assistant.student
