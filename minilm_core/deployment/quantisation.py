"""Int8 of an exported student, and how far its answers are from those in fp32. Extra: onnx."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from minilm_core.deployment.packaging import REFERENCE_SENTENCES
from minilm_core.errors import UserError
from minilm_core.latency.table import Device, fingerprint
from minilm_core.runtimes.onnx_export import add_to_parity, logging_at_error
from minilm_core.runtimes.onnx_model import ONNX_FILE, OnnxModel, require_onnx
from minilm_core.runtimes.torch_model import PackagedModel, load_packaged
from minilm_core.tasks.metrics import metric_named, score

INT8_FILE = "onnx/model_qint8.onnx"
LARGEST_SAFE_WEIGHT = 64
"""Largest signed weight whose products cannot saturate on any x86-64 processor.

Without VNNI the processor adds two products of an unsigned 8-bit activation and a signed 8-bit weight with saturation
to 16 bits (vpmaddubsw): 2 * 255 * 64 = 32,640 is below the largest value of 32,767, 2 * 255 * 65 is not.
"""
TOLERANCE_FACTOR = 3.0
"""How many times as far from fp32 int8 may be on another machine as on the one that made it."""
SMALLEST_TOLERANCE = 1e-2
"""Int8 may be this far from fp32 on any machine.

The products are the same integers everywhere, but an activation whose last bit of fp32 differs may be rounded to the
next of 256 steps.
"""
DEFAULT_TOLERANCE = 0.25
"""Where nobody recorded how far int8 was from fp32 it may be this share of the largest value in fp32."""
EVALUATION_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledTexts:
    """The split that an int8 model is judged on: the whole of a task's validation set, say.

    Raises:
        UserError: if there is no text, or not one label for each.
    """

    texts: tuple[str, ...]
    labels: Num[np.ndarray, " examples"]
    metric: str
    second_texts: tuple[str, ...] | None = None
    """The other half of each pair, for a task on pairs."""
    max_length: int = 128
    """Tokens an example is cut to."""

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) > 0:
            raise UserError(f"there must be a label for each text, got {len(self.texts)} and {len(self.labels)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviation:
    """How far int8's delivered values are from those of fp32, on the machine that computed both."""

    num_texts: int
    num_agreeing: int | None
    """Texts that both give the same class; None where a model delivers no classes."""
    max_abs_difference: float
    max_abs_value: float
    """Of the values delivered in fp32."""

    @property
    def tolerance(self) -> float:
        """The largest difference that another machine may find."""
        return max(TOLERANCE_FACTOR * self.max_abs_difference, SMALLEST_TOLERANCE)

    @property
    def default_tolerance(self) -> float:
        """The largest difference where nothing is known of the machine that made the model."""
        return DEFAULT_TOLERANCE * self.max_abs_value


def quantise_int8(folder: Path, evaluation: LabelledTexts, *, max_drop: float = 0.005) -> None:
    """Writes FOLDER/onnx/model_qint8.onnx, and to FOLDER/parity.json what int8 costs and how far it is from fp32.

    Raises:
        UserError: if `max_drop` is negative, the fp32 export is missing, or the metric falls by more than `max_drop`.
    """
    if max_drop < 0:
        raise UserError(f"max_drop must be at least 0, got {max_drop}")
    require_onnx()
    if not (folder / ONNX_FILE).is_file():
        raise UserError(f"int8 is made from {ONNX_FILE}, which {folder} does not hold")
    _quantise(folder / ONNX_FILE, folder / INT8_FILE)
    packaged = load_packaged(folder)
    before = _metric(packaged, OnnxModel(folder / ONNX_FILE), evaluation)
    after = _metric(packaged, OnnxModel(folder / INT8_FILE), evaluation)
    if before - after > max_drop:
        (folder / INT8_FILE).unlink()
        raise UserError(
            f"int8 may lose at most {max_drop} of {evaluation.metric}, lost {before - after:.4f}: "
            f"{after:.4f} after {before:.4f} in fp32"
        )
    deviation = int8_deviation(folder, packaged, REFERENCE_SENTENCES)
    report = {
        "file": INT8_FILE,
        "metric": evaluation.metric,
        "num_examples": len(evaluation.texts),
        "fp32": before,
        "int8": after,
        "max_drop": max_drop,
        "reference": {**asdict(deviation), "tolerance": deviation.tolerance},
        "processor": asdict(fingerprint(Device.CPU)),
    }
    add_to_parity(folder, "int8", report)


def int8_deviation(folder: Path, packaged: PackagedModel, texts: Sequence[str]) -> Deviation:
    """Compares a package's int8 model with its fp32 export on this machine."""
    inputs = packaged.tokens(texts)
    fp32, int8 = (OnnxModel(folder / name).outputs(inputs) for name in (ONNX_FILE, INT8_FILE))
    has_classes = packaged.is_classifier and fp32.shape[1] > 1
    return Deviation(
        num_texts=len(texts),
        num_agreeing=int((fp32.argmax(dim=1) == int8.argmax(dim=1)).sum()) if has_classes else None,
        max_abs_difference=(int8 - fp32).abs().max().item(),
        max_abs_value=fp32.abs().max().item(),
    )


def can_saturate(model: Path) -> bool:
    """Returns whether products of an int8 model may saturate in 16 bits on a processor without VNNI."""
    import onnx

    graph = onnx.load(model).graph
    factors = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
    weights = (onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in factors)
    # Unsigned weights are multiplied by instructions that keep 32 bits.
    return any(w.dtype == np.int8 and np.abs(w.astype(np.int16)).max() > LARGEST_SAFE_WEIGHT for w in weights)


def _quantise(model: Path, out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Measured with VNNI on a classifier of 6x384: weights of seven bits are as fast as those of eight and as close to
    # fp32; unsigned ones cannot saturate either and are a tenth closer, but no faster than fp32.
    with logging_at_error():
        quantize_dynamic(model, out, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def _metric(packaged: PackagedModel, model: OnnxModel, evaluation: LabelledTexts) -> float:
    outputs = torch.cat([model.outputs(batch) for batch in _batches(packaged, evaluation)]).numpy()
    predictions = outputs[:, 0] if outputs.shape[1] == 1 else outputs.argmax(axis=1)
    return score(metric_named(evaluation.metric), evaluation.labels, predictions)


def _batches(packaged: PackagedModel, evaluation: LabelledTexts) -> Iterator[Mapping[str, Tensor]]:
    for start in range(0, len(evaluation.texts), EVALUATION_BATCH_SIZE):
        rows = slice(start, start + EVALUATION_BATCH_SIZE)
        second = None if evaluation.second_texts is None else list(evaluation.second_texts[rows])
        yield packaged.tokenizer(
            list(evaluation.texts[rows]),
            second,
            padding=True,
            truncation=True,
            max_length=evaluation.max_length,
            return_tensors="pt",
        )
