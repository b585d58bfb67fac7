"""Tokens per second of one distillation step, the teacher running beside the student or read from the cache.

    python -m tests.benchmarks.distillation OUT.json

Teachers and students are BERT-shaped with random weights: speed does not depend on them. Variants take turns, a step
each, so that they share the machine's noise; the median step counts.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig

from minilm_core.architecture import StudentArchitecture
from minilm_core.corpus import CorpusManifest, PackedCorpus
from minilm_core.devices import resolve_precision, training_device
from minilm_core.distillation import DistillationProgress, Lessons, distil
from minilm_core.encoders import RelationEncoder, build_encoder
from minilm_core.schedules import DistillationSchedule, Precision
from minilm_core.targets import CachedTargets, OnlineTargets, Targets, TargetsKey, cache_targets

NUM_STEPS = 9
BATCH_SIZE, SEQUENCE_LENGTH = 16, 128
PAIRS = (
    (StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12), (6, 384), 48),
    (StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12), (3, 192), 48),
    (StudentArchitecture(num_layers=6, hidden_size=384, num_heads=12), (3, 192), 24),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to run the same step."""

    name: str
    precision: Precision
    is_cached: bool


def main() -> None:
    """Measures every pair and writes a list of rows."""
    rows = [row for teacher, student, relation_heads in PAIRS for row in measure(teacher, student, relation_heads)]
    for row in rows:
        print(
            f"{row['teacher']:>7} -> {row['student']:<6} {row['variant']:<12} {row['tokens_per_second']:>9,.0f} tok/s"
        )
    if len(sys.argv) > 1:
        out = Path(sys.argv[1])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(
    teacher_architecture: StudentArchitecture, student_size: tuple[int, int], relation_heads: int
) -> Iterator[dict[str, object]]:
    """Yields a row for each variant of one teacher and student."""
    num_layers, hidden_size = student_size
    student = StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=hidden_size // 32)
    best = resolve_precision(Precision.AUTO, training_device(torch.cuda.is_available()))
    variants = [
        Variant(name=f"{'cached' if is_cached else 'online'}-{name}", precision=precision, is_cached=is_cached)
        for is_cached in (False, True)
        for name, precision in (("fp32", Precision.FP32), ("best", best))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        corpus = random_corpus(Path(scratch))
        steps = {v: begin(v, teacher_architecture, student, relation_heads, corpus, Path(scratch)) for v in variants}
        seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
        for step in range(NUM_STEPS):
            for variant, progress in steps.items():
                started = time.perf_counter()
                next(progress)
                # The first step pays for memory and kernels that the others find ready.
                if step:
                    seconds[variant].append(time.perf_counter() - started)
    for variant in variants:
        median = statistics.median(seconds[variant])
        yield {
            "teacher": f"{teacher_architecture.num_layers}x{teacher_architecture.hidden_size}",
            "student": f"{num_layers}x{hidden_size}",
            "batch": f"{BATCH_SIZE}x{SEQUENCE_LENGTH}",
            "variant": variant.name,
            "precision": str(variant.precision),
            "tokens_per_second": BATCH_SIZE * SEQUENCE_LENGTH / median,
        }


def begin(
    variant: Variant,
    teacher: StudentArchitecture,
    student: StudentArchitecture,
    relation_heads: int,
    corpus: PackedCorpus,
    scratch: Path,
) -> Iterator[DistillationProgress]:
    """Returns a distillation that is about to take its first step."""
    config = BertConfig()
    device = training_device(torch.cuda.is_available())
    encoder = RelationEncoder(build_encoder(teacher, config, seed=0).eval(), teacher.num_layers).to(device)
    targets: Targets = OnlineTargets(encoder, variant.precision)
    if variant.is_cached:
        key = TargetsKey(
            weights_sha256=teacher.label,
            layer=teacher.num_layers,
            corpus_fingerprint=corpus.fingerprint,
            precision=variant.precision,
        )
        for _ in cache_targets(encoder, corpus, key, scratch):
            pass
        targets = CachedTargets(scratch / key.folder_name, device, variant.precision)
    schedule = DistillationSchedule(
        num_steps=10_000,
        batch_size=BATCH_SIZE,
        relation_heads=relation_heads,
        precision=variant.precision,
        num_evaluations=1,
    )
    pupil = RelationEncoder(build_encoder(student, config, seed=1), student.num_layers).to(device)
    return distil(pupil, Lessons(corpus=corpus, targets=targets), schedule, learning_rate=1e-4, seed=0)


def random_corpus(folder: Path) -> PackedCorpus:
    """Returns full rows of random tokens, enough for some batches."""
    tokens = np.random.default_rng(0).integers(1000, 30000, size=(4 * BATCH_SIZE, SEQUENCE_LENGTH), dtype=np.uint16)
    manifest = CorpusManifest(
        num_rows=len(tokens),
        sequence_length=SEQUENCE_LENGTH,
        held_out_sequences=1,
        dtype=tokens.dtype.str,
        vocabulary_size=30522,
        num_documents=len(tokens),
        num_documents_passed_over=0,
        num_tokens_dropped=0,
        tokens_sha256="random",
        sources=(),
    )
    return PackedCorpus(folder, manifest, tokens)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
