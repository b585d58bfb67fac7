"""Stopwatches: a model on a latency target, of which one call is timed, in each runtime."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from minilm_core.errors import UserError
from minilm_core.latency.target import Device, LatencyTarget, Runtime
from minilm_core.models.families import max_sequence_length
from minilm_core.runtimes.onnx_export import write_onnx
from minilm_core.runtimes.onnx_extra import require_onnx, require_openvino
from minilm_core.runtimes.onnx_model import OnnxModel
from minilm_core.runtimes.onnx_quantisation import write_int8
from minilm_core.runtimes.openvino_model import OpenVinoModel

MAX_COMPILED = 4096
"""More models than are timed in one process."""

Stopwatch = Callable[[], float]
"""Runs a model once and returns the time in milliseconds."""


def stopwatch(model: PreTrainedModel, target: LatencyTarget) -> Stopwatch:
    """Takes a model to the target and returns a function that times one run on random tokens without padding.

    For ONNX Runtime and OpenVINO the encoder is exported, which takes seconds. PyTorch runs with the threads that its
    process has set, the others with the target's. A model is compiled by its first run.

    Raises:
        UserError: if the target's sequences are longer than the model's, or its runtime is not installed.
    """
    if target.runtime.is_torch:
        return torch_stopwatch(model, target)
    # A session has read its file once it is made.
    with tempfile.TemporaryDirectory(prefix="minilm-latency-") as folder:
        return export_stopwatch(write_served(model, target, Path(folder)), model, target)


def torch_stopwatch(model: PreTrainedModel, target: LatencyTarget) -> Stopwatch:
    """Returns the stopwatch of a model that PyTorch runs, compiled or not."""
    inputs = _inputs(model, target)
    model = model.eval().to(target.device.value)
    inputs = {name: tensor.to(target.device.value) for name, tensor in inputs.items()}
    call = _compiled(model) if target.runtime is Runtime.TORCH_COMPILE else model
    if target.device is Device.CUDA:
        return lambda: _cuda_ms(lambda: call(**inputs))
    return lambda: _cpu_ms(lambda: call(**inputs))


def _compiled(model: PreTrainedModel) -> Callable[..., object]:
    """Returns a model that its first run compiles, or fails to: by default the ninth model would run uncompiled."""
    from torch._dynamo import config

    config.recompile_limit = config.accumulated_recompile_limit = MAX_COMPILED
    config.fail_on_recompile_limit_hit = True
    compiled: Callable[..., object] = torch.compile(model, dynamic=False)
    return compiled


def write_served(model: PreTrainedModel, target: LatencyTarget, folder: Path) -> Path:
    """Writes what the target's runtime loads into an empty folder, as for a package but without token types.

    Returns:
        The file; the folder has no other one that is needed.

    Raises:
        UserError: if the runtime is not installed.
    """
    require_onnx()
    if target.runtime is Runtime.OPENVINO:
        require_openvino()
    exported, quantised = folder / "model.onnx", folder / "model_qint8.onnx"
    # The exporter needs 2 sequences to see that their number may differ.
    write_onnx(model.eval(), _random_tokens(model, 2, 8), ("last_hidden_state",), exported)
    if target.runtime is not Runtime.ONNXRUNTIME_INT8:
        return exported
    write_int8(exported, quantised)
    return quantised


def export_stopwatch(served: Path, model: PreTrainedModel, target: LatencyTarget) -> Stopwatch:
    """Returns the stopwatch of what `write_served` wrote of a model."""
    inputs = _inputs(model, target)
    of_runtime = OpenVinoModel if target.runtime is Runtime.OPENVINO else OnnxModel
    session = of_runtime(served, target.num_threads)
    arrays = {name: inputs[name].numpy() for name in session.input_names}
    return lambda: _cpu_ms(lambda: session.arrays(arrays))


def _inputs(model: PreTrainedModel, target: LatencyTarget) -> Mapping[str, Int[Tensor, "batch tokens"]]:
    limit = max_sequence_length(model.config.to_dict())
    if target.sequence_length > limit:
        raise UserError(f"sequence_length must be at most {limit} for this model, got {target.sequence_length}")
    return _random_tokens(model, target.batch_size, target.sequence_length)


def _random_tokens(
    model: PreTrainedModel, batch_size: int, sequence_length: int
) -> Mapping[str, Int[Tensor, "batch tokens"]]:
    shape = (batch_size, sequence_length)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(model.config.vocab_size // 2, model.config.vocab_size, shape, generator=generator)
    return {"input_ids": input_ids, "attention_mask": torch.ones(shape, dtype=torch.long)}


def _cpu_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_ms(call: Callable[[], object]) -> float:
    # torch's events have no type annotations.
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))
