"""Tests of the stopwatches: what is run in each runtime, with which threads, and what is refused."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig

from minilm_core.errors import UserError
from minilm_core.latency.calibration import calibrate
from minilm_core.latency.serving_memory import serving_memory
from minilm_core.latency.stopwatches import export_stopwatch, stopwatch, write_served
from minilm_core.latency.target import Device, LatencyTarget, Runtime, fingerprint
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder
from minilm_core.runtimes.onnx_export import write_onnx
from minilm_core.runtimes.onnx_model import OnnxModel
from minilm_core.runtimes.openvino_model import OpenVinoModel, write_openvino

needs_onnx = pytest.mark.skipif(
    any(find_spec(module) is None for module in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra onnx is not installed",
)
STUDENTS = [StudentArchitecture(num_layers=n, hidden_size=24, num_heads=4) for n in (1, 2)]


@needs_onnx
@pytest.mark.parametrize("runtime", [Runtime.ONNXRUNTIME, Runtime.ONNXRUNTIME_INT8])
def test_onnx_runtime_runs_the_targets_batch_on_the_targets_threads(
    teacher_config: PretrainedConfig, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
):
    calls: list[tuple[Path, int, tuple[int, ...]]] = []

    class Recorded(OnnxModel):
        def __init__(self, path: Path, num_threads: int = 1) -> None:
            super().__init__(path, num_threads)
            self.file, self.num_threads = path, num_threads

        def arrays(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            outputs = super().arrays(inputs)
            calls.append((self.file, self.num_threads, outputs[0].shape))
            return outputs

    monkeypatch.setattr("minilm_core.latency.stopwatches.OnnxModel", Recorded)
    target = LatencyTarget(num_threads=2, batch_size=3, sequence_length=16, runtime=runtime)
    watch = stopwatch(build_encoder(STUDENTS[0], teacher_config, seed=0), target)
    assert watch() > 0
    ((file, num_threads, shape),) = calls
    assert file.name == ("model_qint8.onnx" if runtime is Runtime.ONNXRUNTIME_INT8 else "model.onnx")
    assert (num_threads, shape) == (2, (3, 16, 24))
    assert not file.parent.exists()


@needs_onnx
def test_an_exported_encoder_says_what_pytorch_says(teacher_config: PretrainedConfig, tmp_path: Path):
    model = build_encoder(STUDENTS[1], teacher_config, seed=0).eval()
    ids = torch.arange(2 * 8).reshape(2, 8)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    write_onnx(model, inputs, ("last_hidden_state",), tmp_path / "model.onnx")
    longer = {name: torch.cat([tensor, tensor], dim=1)[:1] for name, tensor in inputs.items()}
    with torch.inference_mode():
        expected = model(**longer).last_hidden_state
    found = OnnxModel(tmp_path / "model.onnx").run(longer)["last_hidden_state"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@needs_onnx
@pytest.mark.slow
def test_a_table_of_onnx_runtime_names_its_runtime_version_and_kind(teacher_config: PretrainedConfig):
    target = LatencyTarget(sequence_length=16, runtime=Runtime.ONNXRUNTIME_INT8)
    table = calibrate(STUDENTS, teacher_config, target, num_rounds=2)
    assert table.target.label == "cpu1,b1,s16,onnxruntime-int8"
    assert "ONNX Runtime" in table.fingerprint.label
    assert table.kind is not None
    assert table.kind["model_type"] == teacher_config.model_type
    assert all(table.predict_ms(student) > 0 for student in STUDENTS)


@needs_onnx
def test_openvino_says_what_pytorch_says_from_an_export_and_from_its_own_files(
    teacher_config: PretrainedConfig, tmp_path: Path
):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    model = build_encoder(STUDENTS[1], teacher_config, seed=0).eval()
    target = LatencyTarget(batch_size=2, sequence_length=8, runtime=Runtime.OPENVINO)
    exported = write_served(model, target, tmp_path)
    write_openvino(exported, tmp_path / "openvino_model.xml")
    ids = torch.arange(3 * 16).reshape(3, 16) % model.config.vocab_size
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    for file in (exported, tmp_path / "openvino_model.xml"):
        found, *_ = OpenVinoModel(file, num_threads=2).arrays(arrays)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert export_stopwatch(exported, model, target)() > 0
    assert "OpenVINO 20" in fingerprint(Device.CPU, Runtime.OPENVINO).label


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_every_model_is_compiled_once(teacher_config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch):
    target = LatencyTarget(batch_size=2, sequence_length=8, runtime=Runtime.TORCH_COMPILE)
    counted: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., object]:
        counted.append(len(graph.graph.nodes))
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiler(model, backend=backend, **options))
    # The compiler would leave the ninth model of a process uncompiled.
    shapes = [StudentArchitecture(num_layers=1, hidden_size=4 * width, num_heads=4) for width in range(2, 12)]
    with torch.inference_mode():
        for number, shape in enumerate(shapes, start=1):
            watch = stopwatch(build_encoder(shape, teacher_config, seed=0), target)
            assert watch() > 0
            assert watch() > 0
            assert len(counted) == number


@needs_onnx
@pytest.mark.slow
def test_a_process_takes_less_memory_without_torch(teacher_config: PretrainedConfig, tmp_path: Path):
    model = build_encoder(STUDENTS[0], teacher_config, seed=0).eval()
    model.save_pretrained(tmp_path / "student")
    torch_target, onnx_target = (
        LatencyTarget(sequence_length=8),
        LatencyTarget(sequence_length=8, runtime=Runtime.ONNXRUNTIME),
    )
    (tmp_path / "served").mkdir()
    served = write_served(model, onnx_target, tmp_path / "served")
    with_torch = serving_memory(tmp_path / "student", torch_target)
    without = serving_memory(served, onnx_target)
    assert with_torch is not None
    assert without is not None
    assert 20e6 < without < with_torch / 2


def test_a_gpu_runs_pytorch():
    with pytest.raises(UserError, match=r"^runtime must be torch or torch-compile for a cuda target, got onnxruntime$"):
        LatencyTarget(device=Device.CUDA, runtime=Runtime.ONNXRUNTIME)


def test_a_missing_runtime_is_named_with_its_extra(teacher_config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("minilm_core.runtimes.onnx_extra.find_spec", lambda name: None)
    target = LatencyTarget(sequence_length=16, runtime=Runtime.ONNXRUNTIME)
    with pytest.raises(UserError, match=r"ONNX needs the package onnx, .*pip install minilm-search\[onnx\]"):
        stopwatch(build_encoder(STUDENTS[0], teacher_config, seed=0), target)
