"""What a program needs to distil a student without Ray: the README's example imports from here."""

from minilm_core.architecture import StudentArchitecture
from minilm_core.corpus import CorpusSettings, PackedCorpus
from minilm_core.distillation import DistillationProgress, distil, distil_together
from minilm_core.encoders import RelationEncoder, base_config, build_encoder, load_encoder, save_encoder
from minilm_core.inheritance import build_student, initialise
from minilm_core.initialisation import Initialisation
from minilm_core.lessons import Lessons, held_out_loss
from minilm_core.packing import pack
from minilm_core.relations import relation_losses
from minilm_core.schedules import DistillationSchedule, LayerMapping, Method, Precision, Relation
from minilm_core.sources import CorpusSource, TeacherSource, resolve
from minilm_core.student_family import StudentFamily
from minilm_core.targets import CachedTargets, OnlineTargets, TargetsKey, cache_targets

__all__ = [
    "CachedTargets",
    "CorpusSettings",
    "CorpusSource",
    "DistillationProgress",
    "DistillationSchedule",
    "Initialisation",
    "LayerMapping",
    "Lessons",
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
