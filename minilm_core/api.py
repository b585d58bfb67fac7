"""The library without Ray: what a program imports to distil, fine-tune, evaluate and package a student."""

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.deployment.packaging import package
from minilm_core.deployment.quantisation import quantise_int8
from minilm_core.deployment.source import PackageSource
from minilm_core.deployment.verification import verify
from minilm_core.distillation.data import DistillationData, held_out_loss
from minilm_core.distillation.loop import DistillationProgress, StudentRun, distil, distil_together
from minilm_core.distillation.relations import relation_losses
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsKey
from minilm_core.distillation.targets import CachedTargets, OnlineTargets
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, base_config, build_encoder, load_encoder, save_encoder
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.sentence_files import Pooling
from minilm_core.models.student_family import StudentFamily
from minilm_core.models.teacher import TeacherSource, config_sha256, resolve, weights_sha256
from minilm_core.models.vocabulary.comparison import compare_tokenizers
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.models.vocabulary.tokenizers import choose_tokens, save_cut_tokenizer
from minilm_core.models.weight_transfer import build_student, initialise, truncate_teacher
from minilm_core.results.records import Role, Status, TrialRecord
from minilm_core.runtimes.onnx_export import export_onnx
from minilm_core.settings.learning_rates import LearningRateSchedule
from minilm_core.settings.schedules import (
    PROJECTED_RELATIONS,
    DistillationSchedule,
    FinetuningSchedule,
    LayerMapping,
    Method,
    Precision,
    Relation,
)
from minilm_core.settings.soft_labels import SoftLabels
from minilm_core.tasks.benchmarks import named_task
from minilm_core.tasks.embeddings.settings import EmbeddingSettings
from minilm_core.tasks.evaluation import evaluate
from minilm_core.tasks.finetuning import build_task_model, finetune, load_task_data, save_task_model
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.splits import load_split
from minilm_core.tasks.task import EvaluationSet, SplitRole, Task
from minilm_core.tasks.teacher_outputs import reduction_for, teacher_outputs, with_teacher_outputs

__all__ = [
    "PROJECTED_RELATIONS",
    "CachedTargets",
    "CorpusSettings",
    "CorpusSource",
    "CutVocabulary",
    "DistillationData",
    "DistillationProgress",
    "DistillationSchedule",
    "EmbeddingSettings",
    "EvaluationSet",
    "FinetuningSchedule",
    "Initialisation",
    "LayerMapping",
    "LearningRateSchedule",
    "Method",
    "OnlineTargets",
    "PackageSource",
    "PackedCorpus",
    "Pooling",
    "Precision",
    "Relation",
    "RelationEncoder",
    "Role",
    "SoftLabels",
    "SpanSettings",
    "SplitRole",
    "Status",
    "StudentArchitecture",
    "StudentFamily",
    "StudentRun",
    "TargetsKey",
    "Task",
    "TeacherSource",
    "TrialRecord",
    "base_config",
    "build_encoder",
    "build_student",
    "build_task_model",
    "cache_targets",
    "choose_tokens",
    "compare_tokenizers",
    "config_sha256",
    "distil",
    "distil_together",
    "evaluate",
    "export_onnx",
    "finetune",
    "held_out_loss",
    "initialise",
    "load_encoder",
    "load_split",
    "load_task_data",
    "named_task",
    "pack",
    "package",
    "quantise_int8",
    "reduction_for",
    "relation_losses",
    "resolve",
    "save_cut_tokenizer",
    "save_encoder",
    "save_task_model",
    "teacher_outputs",
    "truncate_teacher",
    "verify",
    "weights_sha256",
    "with_teacher_outputs",
]
