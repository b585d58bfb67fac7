"""The training steps that are measured: the product's and the peer's, with the same text, teacher and student."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, PreTrainedModel

from minilm_core.corpus.packed import BatchOrder, CorpusManifest, PackedCorpus
from minilm_core.distillation.data import DistillationData, relation_loss
from minilm_core.distillation.loop import distil
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsKey
from minilm_core.distillation.targets import CachedTargets, OnlineTargets
from minilm_core.errors import UserError
from minilm_core.models.encoders import RelationEncoder, build_encoder, load_encoder
from minilm_core.models.teacher import TeacherSource
from minilm_core.settings.schedules import DistillationSchedule, Precision
from minilm_core.training.devices import resolve_precision
from tests.benchmarks.cases import Batch, Case, Pair, Variant, size
from tests.benchmarks.peer import Inputs, full_rows, peer_steps, peer_trainer

CPU = torch.device("cpu")
LEARNING_RATE = 1e-4
SEED = 0
# With this many steps no evaluation is due, and the learning rate is nearly constant.
NUM_STEPS = 10_000


def precision_of(variant: Variant) -> Precision:
    """Returns the precision of a variant's matrix products."""
    if variant is Variant.PEER_BF16:
        return Precision.BF16
    return Precision.FP32 if variant.is_fp32 else resolve_precision(Precision.AUTO, CPU)


def begin(case: Case, variant: Variant, cache: Path) -> Iterator[object]:
    """Returns an iterator that takes one step at a time; its models are loaded already.

    Args:
        case: The teacher, the student and the batch.
        variant: The variant of the step.
        cache: The folder that `fill_cache` filled. Only the cached variants read it, and these load no teacher.
    """
    corpus = random_corpus(case.batch)
    student = build_student(case.pair)
    if variant.is_peer:
        trainer = peer_trainer(build_teacher(case.pair), student, case.pair.relation_heads)
        return peer_steps(
            trainer,
            student,
            peer_batches(corpus, case.batch),
            is_bf16=variant is Variant.PEER_BF16,
            learning_rate=LEARNING_RATE,
        )
    schedule = schedule_of(case, precision_of(variant))
    targets = cached_targets(case, schedule, cache) if variant.is_cached else online_targets(case.pair, schedule)
    distillation_data = DistillationData(corpus=corpus, targets=targets)
    return distil(
        relation_encoder(student, schedule), distillation_data, schedule, learning_rate=LEARNING_RATE, seed=SEED
    )


def compared_losses(case: Case, teacher: PreTrainedModel, student: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Returns the product's loss and the peer's on the same rows, in nats, without dropout and autocast."""
    corpus, schedule = random_corpus(case.batch), schedule_of(case, Precision.FP32)
    distillation_data = DistillationData(
        corpus=corpus, targets=OnlineTargets(relation_encoder(teacher, schedule), Precision.FP32)
    )
    trainer = peer_trainer(teacher, student.eval(), case.pair.relation_heads)
    rows = corpus.training_rows
    theirs = trainer.compute_loss(student, full_rows(torch.from_numpy(corpus.rows(rows))))
    encoder = relation_encoder(student, schedule).eval()
    return relation_loss(encoder, distillation_data.teacher_batch(rows, CPU), schedule), theirs


def schedule_of(case: Case, precision: Precision) -> DistillationSchedule:
    """Returns MiniLMv2's settings for a case."""
    return DistillationSchedule(
        num_steps=NUM_STEPS,
        batch_size=case.batch.num_rows,
        relation_heads=case.pair.relation_heads,
        precision=precision,
        num_evaluations=1,
    )


def teacher_folder(pair: Pair) -> Path | None:
    """Returns the folder of a pair's teacher, or None if it is not installed or has random weights."""
    if pair.teacher_source is None:
        return None
    try:
        return TeacherSource(model=pair.teacher_source).find_locally(Path())
    except UserError:
        return None


def build_teacher(pair: Pair) -> PreTrainedModel:
    """Returns a pair's teacher in evaluation mode, always with the same weights."""
    folder = teacher_folder(pair)
    if folder is not None:
        return load_encoder(folder)
    return build_encoder(pair.teacher, BertConfig(), seed=SEED).eval()


def build_student(pair: Pair) -> PreTrainedModel:
    """Returns a pair's student, always with the same weights."""
    return build_encoder(pair.student, BertConfig(), seed=SEED + 1)


def relation_encoder(encoder: PreTrainedModel, schedule: DistillationSchedule) -> RelationEncoder:
    """Returns the part of an encoder that runs in distillation if its last layer is distilled."""
    return RelationEncoder(encoder, (encoder.config.num_hidden_layers,), tuple(schedule.weights))


def online_targets(pair: Pair, schedule: DistillationSchedule) -> OnlineTargets:
    """Returns targets that run the teacher in each step."""
    return OnlineTargets(relation_encoder(build_teacher(pair), schedule), schedule.precision)


def cached_targets(case: Case, schedule: DistillationSchedule, cache: Path) -> CachedTargets:
    """Returns targets that are read from the cache of `fill_cache`."""
    key = targets_key(case, schedule.precision)
    return CachedTargets(
        cache / key.folder_name, CPU, schedule.precision, layers=key.layers, relations=tuple(schedule.weights)
    )


def fill_cache(case: Case, cache: Path) -> None:
    """Runs the teacher over the text once for each precision that a cached variant has."""
    corpus, teacher = random_corpus(case.batch), build_teacher(case.pair)
    for precision in {precision_of(variant) for variant in Variant if variant.is_cached}:
        encoder = relation_encoder(teacher, schedule_of(case, precision))
        for _ in cache_targets(encoder, corpus, targets_key(case, precision), cache):
            pass


def targets_key(case: Case, precision: Precision) -> TargetsKey:
    """Returns the key of a case's cached states."""
    return TargetsKey(
        weights_sha256=size(case.pair.teacher),
        config_sha256="",
        layers=(case.pair.teacher.num_layers,),
        corpus_fingerprint=random_corpus(case.batch).fingerprint,
        precision=precision,
    )


def random_corpus(batch: Batch) -> PackedCorpus:
    """Returns full rows of random tokens: one batch, which each step reads in another order, and one held-out row."""
    shape = (batch.num_rows + 1, batch.sequence_length)
    tokens = np.random.default_rng(SEED).integers(1000, 30000, size=shape, dtype=np.uint16)
    manifest = CorpusManifest(
        num_rows=len(tokens),
        sequence_length=batch.sequence_length,
        held_out_sequences=1,
        dtype=tokens.dtype.str,
        vocabulary_size=BertConfig().vocab_size,
        num_documents=len(tokens),
        num_documents_passed_over=0,
        num_tokens_dropped=0,
        tokens_sha256="random",
        sources=(),
    )
    return PackedCorpus(Path(), manifest, tokens)


def peer_batches(corpus: PackedCorpus, batch: Batch) -> Iterator[Inputs]:
    """Yields the product's batches without end, in the product's order."""
    order = BatchOrder(row_indices=corpus.training_rows, batch_size=batch.num_rows, seed=SEED)
    for step in itertools.count():
        yield full_rows(torch.from_numpy(corpus.rows(order.rows_of_step(step))))
