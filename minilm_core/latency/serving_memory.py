"""How much memory a process takes that serves one student: a fresh process loads it, runs one call and says so.

Run as a module, this file is that process. It imports what its runtime needs and no more, as a server would: a process
with ONNX Runtime has no torch.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from minilm_core.errors import UserError, first_line
from minilm_core.fresh_process import answer_on_stdout, answering, write_message
from minilm_core.latency.target import Device, LatencyTarget, Runtime, target_of
from minilm_core.runtimes.sessions import onnx_session, openvino_session


def serving_memory(served: Path, target: LatencyTarget) -> int | None:
    """Returns the bytes that a process takes at most which loads a student and runs one call of the target.

    On a GPU it is the memory of the GPU. None on Windows.

    Args:
        served: The folder of the student with PyTorch, and otherwise the file that `write_served` wrote.
        target: The runtime and the call.

    Raises:
        UserError: if the student cannot be loaded or run.
    """
    request = json.dumps({"served": str(served.resolve()), "target": asdict(target)})
    with answering("minilm_core.latency.serving_memory", request, "the memory of a student") as messages:
        for message in messages:
            found: int | None = message["bytes"]
            return found
    raise AssertionError("a process that ends well has answered with its memory")


def answer(request_json: str, out: TextIO) -> None:
    """Serves a student once and writes the most memory that it took, or the message of a UserError, as JSON."""
    request = json.loads(request_json)
    served, target = Path(request["served"]), target_of(request["target"])
    try:
        _run_once(served, target)
        write_message({"bytes": _peak(target)}, out)
    except UserError as error:
        write_message({"error": str(error)}, out)
    except Exception as error:
        write_message({"error": f"a student must be served, got {type(error).__name__}: {first_line(error)}"}, out)


def _run_once(served: Path, target: LatencyTarget) -> None:
    import numpy as np

    shape = (target.batch_size, target.sequence_length)
    match target.runtime:
        case Runtime.ONNXRUNTIME | Runtime.ONNXRUNTIME_INT8:
            session = onnx_session(served, target.num_threads)
            session.run(None, {each.name: np.ones(shape, np.int64) for each in session.get_inputs()})
        case Runtime.OPENVINO:
            compiled = openvino_session(served, target.num_threads)
            compiled({each.get_any_name(): np.ones(shape, np.int64) for each in compiled.inputs})
        case Runtime.TORCH | Runtime.TORCH_COMPILE:
            import torch
            from transformers.utils import logging as transformers_logging

            from minilm_core.latency.stopwatches import torch_stopwatch
            from minilm_core.models.encoders import load_encoder

            transformers_logging.disable_progress_bar()
            torch.set_num_threads(target.num_threads)
            with torch.inference_mode():
                torch_stopwatch(load_encoder(served), target)()


def _peak(target: LatencyTarget) -> int | None:
    if target.device is Device.CUDA:
        import torch

        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage gives counts the parent's memory, too, which a child has until it runs another program.
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    answer_on_stdout(answer)
