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
from minilm_core.latency.table import Device, LatencyTarget, Runtime
from minilm_core.models.families import max_sequence_length
from minilm_core.runtimes.onnx_export import write_onnx
from minilm_core.runtimes.onnx_extra import require_onnx
from minilm_core.runtimes.onnx_model import OnnxModel
from minilm_core.runtimes.onnx_quantisation import write_int8

Stopwatch = Callable[[], float]
"""Runs a model once and returns the time in milliseconds."""


def stopwatch(model: PreTrainedModel, target: LatencyTarget) -> Stopwatch:
    """Takes a model to the target and returns a function that times one run on random tokens without padding.

    For ONNX Runtime an encoder is exported as for a package, but without token types, which takes seconds. PyTorch runs
    with the threads that its process has set, ONNX Runtime with the target's.

    Raises:
        UserError: if the target's sequences are longer than the model's, or its runtime is not installed.
    """
    limit = max_sequence_length(model.config.to_dict())
    if target.sequence_length > limit:
        raise UserError(f"sequence_length must be at most {limit} for this model, got {target.sequence_length}")
    inputs = _random_tokens(model, target.batch_size, target.sequence_length)
    if target.runtime is not Runtime.TORCH:
        return _onnx_stopwatch(model.eval(), inputs, target)
    model = model.eval().to(target.device.value)
    inputs = {name: tensor.to(target.device.value) for name, tensor in inputs.items()}
    if target.device is Device.CUDA:
        return lambda: _cuda_ms(model, inputs)
    return lambda: _cpu_ms(lambda: model(**inputs))


def _random_tokens(
    model: PreTrainedModel, batch_size: int, sequence_length: int
) -> Mapping[str, Int[Tensor, "batch tokens"]]:
    shape = (batch_size, sequence_length)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(model.config.vocab_size // 2, model.config.vocab_size, shape, generator=generator)
    return {"input_ids": input_ids, "attention_mask": torch.ones(shape, dtype=torch.long)}


def _onnx_stopwatch(
    model: PreTrainedModel, inputs: Mapping[str, Int[Tensor, "batch tokens"]], target: LatencyTarget
) -> Stopwatch:
    require_onnx()
    # A session has read its file once it is made.
    with tempfile.TemporaryDirectory(prefix="minilm-latency-") as folder:
        exported, quantised = Path(folder) / "model.onnx", Path(folder) / "model_qint8.onnx"
        # The exporter needs 2 sequences to see that their number may differ.
        write_onnx(model, _random_tokens(model, 2, 8), ("last_hidden_state",), exported)
        if target.runtime is Runtime.ONNXRUNTIME_INT8:
            write_int8(exported, quantised)
        session = OnnxModel(quantised if quantised.exists() else exported, target.num_threads)
    arrays = {name: inputs[name].numpy() for name in session.input_names}
    return lambda: _cpu_ms(lambda: session.arrays(arrays))


def _cpu_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_ms(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> float:
    # torch's events have no type annotations.
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    model(**inputs)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))
