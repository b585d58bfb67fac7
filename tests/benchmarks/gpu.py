"""The speed and memory of one relation and of whole steps on a GPU, compared with the peer and the hardware's limits.

    python -m tests.benchmarks.gpu [--dry-run] OUT.json

Steps are also taken by three students that share their teacher's targets. The limits are measured too. MFU is the
fraction of the rate that a large bf16 product reaches on the same GPU. The roofline is the least time that the busiest
unit of the GPU needs for the fused passes, over the measured time. A dry run takes the same steps with tiny models on
the CPU, without the fused passes, to show that the command works.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import StudentRun, distil_together
from minilm_core.distillation.relations import split_heads
from minilm_core.distillation.target_cache import cache_targets
from minilm_core.distillation.targets import CachedTargets, OnlineTargets, Targets
from minilm_core.kernels.blockwise import Side, blockwise_kl
from minilm_core.kernels.gpu import is_available, padded_relation_kl
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.settings.schedules import Precision
from minilm_core.training.devices import device_name
from tests.benchmarks.cases import BASE_TO_SMALL, Batch, Case, Pair, Variant
from tests.benchmarks.peer import PEER_LOSS, peer_steps, peer_trainer
from tests.benchmarks.roofline import Rates, RelationCost, projection_flops, relation_encoder_flops, step_flops
from tests.benchmarks.steps import (
    LEARNING_RATE,
    SEED,
    build_student,
    build_teacher,
    peer_batches,
    random_corpus,
    relation_encoder,
    schedule_of,
    targets_key,
)

BATCHES = (Batch(num_rows=256, sequence_length=128), Batch(num_rows=64, sequence_length=512))
CASES = tuple(Case(pair=BASE_TO_SMALL, batch=batch) for batch in BATCHES)
DRY_CASES = (
    Case(
        pair=Pair(
            teacher=StudentArchitecture(num_layers=2, hidden_size=32, num_heads=2),
            student=StudentArchitecture(num_layers=1, hidden_size=16, num_heads=2),
            relation_heads=2,
        ),
        batch=Batch(num_rows=2, sequence_length=16),
    ),
)
DRY_RUN = "--dry-run"
NUM_STUDENTS = 3
"""The students that share one teacher."""
NUM_WARMUP_RUNS, NUM_RUNS = 3, 9
NUM_RELATIONS = 3
BYTES_PER_BF16 = 2
# For one multiprocessor, since compute capability 8.0. Source: CUDA C++ Programming Guide, arithmetic instructions.
EXPONENTIALS_PER_CLOCK = 16

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The time and memory of some runs."""

    median_seconds: float
    peak_memory_bytes: int | None
    """The peak over all memory that torch had allocated on the device; None on a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    batch: str
    tokens_per_second: float
    milliseconds: float
    mfu: float
    """The FLOPs that the mathematics needs, over those that a large product does in the same time."""
    roofline: float | None
    """The least time over the measured time; None for a whole step, whose least time is unknown."""
    peak_memory_bytes: int | None


def main(arguments: Sequence[str]) -> None:
    """Measures, prints a table and writes a list of rows."""
    is_dry = DRY_RUN in arguments
    files = [argument for argument in arguments if argument != DRY_RUN]
    if len(files) != 1:
        raise SystemExit(f"usage: python -m tests.benchmarks.gpu [{DRY_RUN}] OUT.json")
    device = torch.device("cpu") if is_dry else fused_device()
    rates = measured_rates(device)
    print(f"{device_name(device)}, torch {torch.__version__}: {rates}", flush=True)
    rows = []
    for case in DRY_CASES if is_dry else CASES:
        for row in (*relation_rows(case, rates, device), *step_rows(case, rates, device)):
            print(line_of(row), flush=True)
            rows.append(asdict(row))
    out = Path(files[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def fused_device() -> torch.device:
    """Returns the GPU, if the fused passes can run on it."""
    if not torch.cuda.is_available():
        raise SystemExit("the benchmark must have a CUDA device, got none")
    device = torch.device("cuda", torch.cuda.current_device())
    if not is_available(device):
        raise SystemExit(f"the fused passes need triton and compute capability 8.0, got {device_name(device)}")
    return device


def relation_rows(case: Case, rates: Rates, device: torch.device) -> Iterator[Row]:
    """Yields the rows of one relation's value and gradient, fused and in blocks, for bf16 vectors."""
    cost = relation_cost(case)
    for what, is_fused in (("relation, fused", True), ("relation, in blocks", False)):
        if is_fused and not is_available(device):
            continue
        measured = measure(relation_run(case, device, is_fused=is_fused), device)
        floor_seconds = rates.floor_seconds(cost.fused_work(BYTES_PER_BF16))
        yield row_of(what, case.batch, measured, rates, flops=cost.needed_flops, floor_seconds=floor_seconds)


def step_rows(case: Case, rates: Rates, device: torch.device) -> Iterator[Row]:
    """Yields the rows of whole training steps, also of the peer's if it is installed."""
    if PEER_LOSS.is_file() and device.type == "cuda":
        for variant in (Variant.PEER_FP32, Variant.PEER_BF16):
            measured = measure(peer_run(case, device, is_bf16=variant is Variant.PEER_BF16), device)
            yield row_of(variant, case.batch, measured, rates, flops=flops_of_step(case, is_cached=False))
    with tempfile.TemporaryDirectory() as cache:
        for variant in (Variant.ONLINE_BEST, Variant.CACHED_BEST):
            for num_students in (1, NUM_STUDENTS):
                measured = measure(product_run(case, variant, Path(cache), device, num_students=num_students), device)
                what = variant if num_students == 1 else f"{variant}, {num_students} students"
                flops = flops_of_step(case, is_cached=variant.is_cached, num_students=num_students)
                yield row_of(what, case.batch, measured, rates, flops=flops, num_students=num_students)


def row_of(
    what: str,
    batch: Batch,
    measured: Measured,
    rates: Rates,
    *,
    flops: int,
    floor_seconds: float | None = None,
    num_students: int = 1,
) -> Row:
    """Returns the row of a measurement; the tokens of a step count once for each student."""
    return Row(
        what=what,
        batch=batch.label,
        tokens_per_second=num_students * batch.num_tokens / measured.median_seconds,
        milliseconds=1000 * measured.median_seconds,
        mfu=flops / rates.matrix_flops / measured.median_seconds,
        roofline=None if floor_seconds is None else floor_seconds / measured.median_seconds,
        peak_memory_bytes=measured.peak_memory_bytes,
    )


def line_of(row: Row) -> str:
    """Returns a row as text."""
    roofline = "" if row.roofline is None else f"{row.roofline:7.1%} of roofline"
    memory = "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**20:>9,.0f} MiB"
    return (
        f"{row.batch:>8} {row.what:<24}{row.tokens_per_second:>13,.0f} tok/s{row.milliseconds:>10.2f} ms"
        f"{row.mfu:>7.1%} MFU{memory} {roofline}"
    ).rstrip()


def relation_cost(case: Case) -> RelationCost:
    """Returns what one relation of MiniLMv2 costs."""
    pair, batch = case.pair, case.batch
    return RelationCost(
        num_sequences=batch.num_rows,
        sequence_length=batch.sequence_length,
        num_heads=pair.relation_heads,
        teacher_head_size=pair.teacher.hidden_size // pair.relation_heads,
        student_head_size=pair.student.hidden_size // pair.relation_heads,
        is_symmetric=True,
    )


def flops_of_step(case: Case, *, is_cached: bool, num_students: int = 1) -> int:
    """Returns the FLOPs that the mathematics of a step needs, for any implementation; students share one teacher."""
    teacher_flops = (projection_flops if is_cached else relation_encoder_flops)(
        case.pair.teacher, case.batch.sequence_length
    )
    first, each = (
        step_flops(case.pair.student, flops, relation_cost(case), NUM_RELATIONS) for flops in (teacher_flops, 0)
    )
    return first + (num_students - 1) * each


def measure(run: Run, device: torch.device) -> Measured:
    """Times single runs on a device, after warm-up runs that compile kernels and allocate memory."""
    is_gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if is_gpu else torch.cpu.synchronize
    for _ in range(NUM_WARMUP_RUNS):
        run()
    wait()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(NUM_RUNS):
        started = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - started)
    return Measured(
        median_seconds=statistics.median(seconds),
        peak_memory_bytes=torch.cuda.max_memory_allocated() if is_gpu else None,
    )


def measured_rates(device: torch.device) -> Rates:
    """Returns a device's rates: of a large bf16 product, of a large copy, and of a GPU's exponentials."""
    size, num_copied = (8192, 2**30) if device.type == "cuda" else (256, 2**20)
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    product = measure(lambda: left @ right, device)
    source = torch.randn(num_copied, device=device)
    target = torch.empty_like(source)
    copy = measure(lambda: target.copy_(source), device)
    return Rates(
        matrix_flops=2 * size**3 / product.median_seconds,
        memory_bytes=2 * source.nbytes / copy.median_seconds,
        num_exponentials=num_exponentials(device) if device.type == "cuda" else math.inf,
    )


def num_exponentials(device: torch.device) -> float:
    """Returns how many exponentials a GPU computes in a second at its highest clock."""
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    megahertz = int(subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0])
    num_multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return EXPONENTIALS_PER_CLOCK * num_multiprocessors * megahertz * 1e6


def relation_run(case: Case, device: torch.device, *, is_fused: bool) -> Run:
    """Returns a function that computes one relation's value and gradient."""
    heads, shape = case.pair.relation_heads, (case.batch.num_rows, case.batch.sequence_length)
    teacher, student = (
        torch.randn(*shape, model.hidden_size, dtype=torch.bfloat16, device=device)
        for model in (case.pair.teacher, case.pair.student)
    )
    student.requires_grad_()

    def run() -> None:
        student.grad = None
        if is_fused:
            divergence = padded_relation_kl((teacher, teacher), (student, student), heads, None)
        else:
            of_teacher, of_student = split_heads(teacher, heads), split_heads(student, heads)
            divergence = blockwise_kl(Side(of_teacher, of_teacher, None), Side(of_student, of_student, None), None)
        divergence.backward()

    return run


def peer_run(case: Case, device: torch.device, *, is_bf16: bool) -> Run:
    """Returns a function that takes one of the peer's steps."""
    student = build_student(case.pair).to(device)
    trainer = peer_trainer(build_teacher(case.pair).to(device), student, case.pair.relation_heads)
    batches = (
        {name: tensor.to(device) for name, tensor in inputs.items()}
        for inputs in peer_batches(random_corpus(case.batch), case.batch)
    )
    steps = peer_steps(trainer, student, batches, is_bf16=False, learning_rate=LEARNING_RATE)

    def run() -> None:
        # The peer's own autocast is for the CPU.
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            next(steps)

    return run


def product_run(case: Case, variant: Variant, cache: Path, device: torch.device, *, num_students: int = 1) -> Run:
    """Returns a function that takes one of the product's steps, in bf16 and, on a GPU, compiled."""
    schedule = replace(schedule_of(case, Precision.BF16), compile=device.type == "cuda")
    corpus = random_corpus(case.batch)
    teacher = relation_encoder(build_teacher(case.pair), schedule).to(device)
    targets: Targets = OnlineTargets(teacher, schedule.precision)
    if variant.is_cached:
        key = targets_key(case, schedule.precision)
        for _ in cache_targets(teacher, corpus, key, cache):
            pass
        targets = CachedTargets(
            cache / key.folder_name, device, schedule.precision, layers=key.layers, relations=tuple(schedule.weights)
        )
    runs = [
        StudentRun(student=relation_encoder(build_student(case.pair), schedule).to(device), learning_rate=LEARNING_RATE)
        for _ in range(num_students)
    ]
    steps = distil_together(runs, DistillationData(corpus=corpus, targets=targets), schedule, seed=SEED)
    return lambda: next(steps)


if __name__ == "__main__":
    main(sys.argv[1:])
