"""Tests of the training device, the precision and the memory of the process."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch._inductor.config

from minilm_core.errors import UserError
from minilm_core.settings.schedules import Precision
from minilm_core.training.devices import autocast, check_can_compile, device_name, resolve_precision, training_device

CPU = torch.device("cpu")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
def test_a_precision_that_was_asked_for_stays(precision: Precision) -> None:
    assert resolve_precision(precision, CPU) is precision


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists the processor's instructions there")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64 processors")
@pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" in os.environ, reason="torch may be held to other instructions than these")
def test_auto_is_bf16_on_a_processor_with_instructions_for_it_and_fp32_on_others() -> None:
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    expected = Precision.BF16 if flags & BF16_FLAGS else Precision.FP32
    assert resolve_precision(Precision.AUTO, CPU) is expected


@pytest.mark.slow
def test_auto_is_fp32_where_torch_is_held_to_instructions_without_bf16() -> None:
    program = (
        "import torch; from minilm_core.settings.schedules import Precision; "
        "from minilm_core.training.devices import resolve_precision; "
        "print(resolve_precision(Precision.AUTO, torch.device('cpu')))"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "fp32"


def test_auto_never_stays_auto() -> None:
    assert resolve_precision(Precision.AUTO, training_device(torch.cuda.is_available())) in (
        Precision.FP32,
        Precision.BF16,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_auto_is_bf16_on_a_gpu_from_compute_capability_8() -> None:
    expected = Precision.BF16 if torch.cuda.get_device_capability()[0] >= 8 else Precision.FP32
    assert resolve_precision(Precision.AUTO, training_device(torch.cuda.is_available())) is expected


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [(Precision.FP32, torch.float32), (Precision.BF16, torch.bfloat16), (Precision.FP16, torch.float16)],
)
def test_matrix_products_run_in_the_precision_asked_for(precision: Precision, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == dtype


def test_a_program_without_a_gpu_trains_on_the_cpu() -> None:
    assert training_device(torch.cuda.is_available()).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_record_names_the_processor() -> None:
    assert device_name(CPU) == f"CPU {platform.machine()}"


def test_a_worker_that_was_given_no_gpu_stays_on_the_cpu() -> None:
    assert training_device(False).type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="gpus_per_worker must be 0 on a machine where PyTorch finds no GPU"):
        training_device(True)


COUNT_PAGE_FAULTS = """
import resource, torch
from minilm_core.training.devices import keep_freed_memory
{}
def take_and_free():
    # The allocator requests more memory until it has blocks for all arrays.
    for _ in range(20):
        torch.empty(12_000_000).fill_(1)

take_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_kept_memory_is_not_requested_again() -> None:
    def num_page_faults(call: str) -> int:
        command = [sys.executable, "-c", COUNT_PAGE_FAULTS.format(call)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    # 48 MB are 11,719 pages of 4 KiB, or 23 of 2 MiB.
    assert num_page_faults("keep_freed_memory()") < num_page_faults("") / 10


HOLD_AND_RETURN = """
import torch
from minilm_core.training.devices import held_bytes, keep_freed_memory, return_freed_memory
keep_freed_memory()
before = held_bytes()
blocks = [torch.empty(250_000).fill_(1) for _ in range(100)]
last = torch.empty(250_000).fill_(1)
del blocks
kept = held_bytes() - before
return_freed_memory()
print(kept, held_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps memory")
def test_kept_memory_is_returned_on_request() -> None:
    command = [sys.executable, "-c", HOLD_AND_RETURN]
    kept, left = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert kept > 90e6, "a hundred blocks of 1 MB"
    assert left < kept / 4


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
def test_a_processor_with_a_compiler_can_compile() -> None:
    check_can_compile(CPU)


def test_a_processor_without_a_compiler_cannot() -> None:
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(
            UserError,
            match=r"compile must be false without a C\+\+ compiler .*, got true; install one or set compile: false$",
        ),
    ):
        check_can_compile(CPU)
