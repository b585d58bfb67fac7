"""What a latency is of: device, runtime and shape of a call, and the machine that it holds for. No torch."""

import dataclasses
import hashlib
import importlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.runtimes.onnx_extra import missing_package

ISA_FLAGS = frozenset(
    {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "sve"}
)
"""Instruction sets that change the speed of matrix products in fp32 or int8."""


class CannotTimeHereError(UserError):
    """This machine lacks a target's device or runtime."""


class Device(StrEnum):
    """The kind of device that a student is deployed on."""

    CPU = "cpu"
    CUDA = "cuda"


class Runtime(StrEnum):
    """What runs a deployed student."""

    TORCH = "torch"
    """PyTorch, in fp32."""
    ONNXRUNTIME = "onnxruntime"
    """ONNX Runtime with the export that a package has, in fp32."""
    ONNXRUNTIME_INT8 = "onnxruntime-int8"
    """ONNX Runtime with the int8 export that a package has."""
    TORCH_COMPILE = "torch-compile"
    """PyTorch in fp32, compiled for the shape of the call; it needs a C++ compiler."""
    OPENVINO = "openvino"
    """OpenVINO with the export that a package has, in fp32."""

    @property
    def is_torch(self) -> bool:
        """Whether PyTorch runs the student, and not an export of it."""
        return self in (Runtime.TORCH, Runtime.TORCH_COMPILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyTarget:
    """The device, the runtime and the shape of a call whose latency is meant; every latency names its target.

    Raises:
        UserError: if a number is not positive, or threads or ONNX Runtime are given for a GPU.
    """

    device: Device = Device.CPU
    num_threads: int = 1
    """The number of CPU threads for matrix products."""
    batch_size: int = 1
    sequence_length: int = 128
    runtime: Runtime = Runtime.TORCH

    def __post_init__(self) -> None:
        for name in ("num_threads", "batch_size", "sequence_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.device is Device.CUDA and self.num_threads != 1:
            raise UserError(f"num_threads must be 1 for a cuda target, got {self.num_threads}")
        if self.device is Device.CUDA and not self.runtime.is_torch:
            torch_alone = f"{Runtime.TORCH} or {Runtime.TORCH_COMPILE}"
            raise UserError(f"runtime must be {torch_alone} for a cuda target, got {self.runtime}")

    @property
    def label(self) -> str:
        """The name of the target in tables, file names and limits, such as `cpu1,b1,s128`; torch is not named."""
        return self.call if self.runtime is Runtime.TORCH else f"{self.call},{self.runtime}"

    @property
    def call(self) -> str:
        """The label without the runtime."""
        threads = self.num_threads if self.device is Device.CPU else ""
        return f"{self.device}{threads},b{self.batch_size},s{self.sequence_length}"


def target_of(content: Mapping[str, Any]) -> LatencyTarget:
    """Returns the target whose fields JSON has as text and numbers."""
    return LatencyTarget(
        **{**content, "device": Device(content["device"]), "runtime": Runtime(content.get("runtime", Runtime.TORCH))}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFingerprint:
    """The facts that must be equal for the latencies of two machines to be comparable."""

    processor: str
    """The model of the CPU, or the product name of the GPU."""
    isa: tuple[str, ...]
    """The instruction sets of `ISA_FLAGS` that the CPU has."""
    torch: str
    python: str
    onnxruntime: str | None = None
    """The version of ONNX Runtime, if that is what runs."""
    openvino: str | None = None
    """The version of OpenVINO, if that is what runs."""

    @property
    def label(self) -> str:
        """The device in words, for people."""
        isa = f" ({', '.join(self.isa)})" if self.isa else ""
        exports = {"ONNX Runtime": self.onnxruntime, "OpenVINO": self.openvino}
        versions = (f"{name} {version}" for name, version in exports.items() if version is not None)
        return f"{self.processor}{isa}, {next(versions, f'torch {self.torch}')}, Python {self.python}"


def fingerprint(device: Device, runtime: Runtime = Runtime.TORCH) -> DeviceFingerprint:
    """Returns the fingerprint of this machine.

    Raises:
        CannotTimeHereError: if it has no such device or runtime.
    """
    processor, isa = _cpu() if device is Device.CPU else (_gpu_name(), ())
    return DeviceFingerprint(
        processor=processor,
        isa=isa,
        torch=version("torch"),
        python=platform.python_version(),
        onnxruntime=_version_of("onnxruntime") if runtime in _ONNXRUNTIME else None,
        openvino=_version_of("openvino") if runtime is Runtime.OPENVINO else None,
    )


def fingerprint_key(target: LatencyTarget, kind: Mapping[str, Any]) -> str:
    """Returns twelve hex digits for this machine, a target and a kind of encoder, as `kind_of_calls` returns it.

    Latencies with equal keys are comparable.
    """
    device = dataclasses.asdict(fingerprint(target.device, target.runtime))
    # Older cached latency tables have keys without these entries; they stay valid where they are None.
    device = {name: value for name, value in device.items() if value is not None}
    facts = [target.label, device, dict(kind)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _cpu() -> tuple[str, tuple[str, ...]]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    # x86 has "flags" and "model name"; Arm has "Features" and a vendor's code in place of a name.
    flags = facts.get("flags", facts.get("Features", "")).split()
    name = facts.get("model name") or f"{platform.machine()} {facts.get('CPU part', platform.processor())}".strip()
    if "cpu family" in facts:
        name = f"{name} family {facts['cpu family']} model {facts['model']}"
    return name, tuple(sorted(ISA_FLAGS.intersection(flags)))


_ONNXRUNTIME = (Runtime.ONNXRUNTIME, Runtime.ONNXRUNTIME_INT8)


def _version_of(module: str) -> str:
    # The module is asked, because several distributions have it.
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        raise CannotTimeHereError(missing_package(module)) from None


def _gpu_name() -> str:
    # nvidia-smi knows the name, too, and planning a search must not import torch.
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    query = ["nvidia-smi", f"--id={device}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        raise CannotTimeHereError(
            f"a cuda target needs an NVIDIA GPU on this machine, nvidia-smi finds none ({device})"
        ) from None
    return answer.stdout.strip()
