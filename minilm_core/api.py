"""What a program needs to distil a student without Ray: the README's example imports from here."""

from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.distillation.data import DistillationData, held_out_loss
from minilm_core.distillation.loop import DistillationProgress, distil, distil_together
from minilm_core.distillation.relations import relation_losses
from minilm_core.distillation.targets import CachedTargets, OnlineTargets, TargetsKey, cache_targets
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, base_config, build_encoder, load_encoder, save_encoder
from minilm_core.models.initialisation import Initialisation
from minilm_core.models.student_family import StudentFamily
from minilm_core.models.teacher import TeacherSource, resolve
from minilm_core.models.weight_transfer import build_student, initialise
from minilm_core.settings.schedules import DistillationSchedule, LayerMapping, Method, Precision, Relation

__all__ = [
    "CachedTargets",
    "CorpusSettings",
    "CorpusSource",
    "DistillationData",
    "DistillationProgress",
    "DistillationSchedule",
    "Initialisation",
    "LayerMapping",
    "Method",
    "OnlineTargets",
    "PackedCorpus",
    "Precision",
    "Relation",
    "RelationEncoder",
    "StudentArchitecture",
    "StudentFamily",
    "TargetsKey",
    "TeacherSource",
    "base_config",
    "build_encoder",
    "build_student",
    "cache_targets",
    "distil",
    "distil_together",
    "held_out_loss",
    "initialise",
    "load_encoder",
    "pack",
    "relation_losses",
    "resolve",
    "save_encoder",
]
