"""Tests that the passes compile for a GPU, which triton can do without one. Their values are tested in test_gpu."""

import multiprocessing
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from minilm_core.kernels.gpu import Blocks, choose_blocks, pad_head_size

HOPPER = 90
SMALLEST_SHARED_BYTES = 99 * 1024
"""Shared memory of a program on the smallest GPU of compute capability 8.0 or later."""
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def cache_in(folder: Path) -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = str(folder)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """Yields a separate process, because triton may run as an interpreter in this one."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    context, folder = multiprocessing.get_context("spawn"), tmp_path_factory.mktemp("triton")
    with ProcessPoolExecutor(1, mp_context=context, initializer=cache_in, initargs=(folder,)) as executor:
        yield executor


def constants_of(teacher_head_size: int, student_head_size: int, blocks: Blocks) -> dict[str, Any]:
    from minilm_core.kernels.gpu_passes import Shape

    shape = Shape(
        num_heads=48,
        teacher_head_size=teacher_head_size,
        student_head_size=student_head_size,
        teacher_width=pad_head_size(teacher_head_size),
        student_width=pad_head_size(student_head_size),
        block_rows=blocks.rows,
        block_columns=blocks.columns,
    )
    return {"shape": shape, "has_gradient": True, "is_symmetric": True}


def types_of(dtype: str) -> dict[str, Any]:
    """Returns the types of a kernel's arguments, as Triton names them."""
    from minilm_core.kernels.gpu_passes import Divergence, Operands, Sequences

    vectors, floats = f"*{dtype}", "*fp32"
    divergence = Divergence(floats, floats, floats, vectors)
    return {
        "operands": Operands(*[vectors] * 4),
        "sequences": Sequences("*i32", "i32", "i32"),
        "out": divergence,
        "divergence": divergence,
        "factor": floats,
        "gradient": vectors,
    }


def pointers(types: dict[str, Any]) -> Iterator[tuple[int, ...]]:
    """Yields the place of each argument that is a pointer: its index, and its index in the tuple that contains it."""
    for index, kind in enumerate(types.values()):
        if isinstance(kind, tuple):
            yield from ((index, inner) for inner, member in enumerate(kind) if member.startswith("*"))
        elif kind.startswith("*"):
            yield (index,)


def resources(dtype: str, teacher_head_size: int, student_head_size: int, folder: Path) -> list[tuple[int, int]]:
    """Returns the bytes of shared memory and of stack that a program of each pass needs on a Hopper GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from minilm_core.kernels.gpu_passes import divergence_kernel, gradient_kernel

    blocks = choose_blocks(pad_head_size(max(teacher_head_size, student_head_size)), 512, TYPES[dtype])
    constants = constants_of(teacher_head_size, student_head_size, blocks)
    found = []
    for kernel in (divergence_kernel, gradient_kernel):
        names = kernel.arg_names
        types = {name: "constexpr" if name in constants else types_of(dtype)[name] for name in names}
        source = ASTSource(
            fn=kernel,
            signature=types,
            constexprs={(names.index(name),): value for name, value in constants.items() if name in names},
            attrs={path: [["tt.divisibility", 16]] for path in pointers(types)},
        )
        options = {"num_warps": blocks.num_warps, "num_stages": blocks.num_stages}
        compiled = triton.compile(source, target=GPUTarget("cuda", HOPPER, 32), options=options)
        path = folder / "pass.cubin"
        path.write_bytes(compiled.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        stack = re.search(r"STACK:(\d+)", usage)
        assert stack is not None
        found.append((compiled.metadata.shared, int(stack[1])))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "teacher_head_size", "student_head_size"), [("bf16", 16, 8), ("fp32", 64, 64)])
def test_the_passes_fit_a_gpus_registers_and_the_smallest_shared_memory(
    compiler: Executor, tmp_path: Path, dtype: str, teacher_head_size: int, student_head_size: int
) -> None:
    found = compiler.submit(resources, dtype, teacher_head_size, student_head_size, tmp_path).result()
    assert len(found) == 2
    for shared_bytes, stack_bytes in found:
        assert 0 < shared_bytes <= SMALLEST_SHARED_BYTES
        # Spilled registers would be on the stack.
        assert stack_bytes == 0
