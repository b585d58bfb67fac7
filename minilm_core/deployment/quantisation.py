"""Quantises an exported student to int8, and measures how far its outputs are from those in fp32. Extra: onnx."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minilm_core.deployment.packaging import REFERENCE_SENTENCES
from minilm_core.errors import UserError
from minilm_core.latency.target import Device, fingerprint
from minilm_core.runtimes.onnx_export import add_to_parity
from minilm_core.runtimes.onnx_extra import require_onnx
from minilm_core.runtimes.onnx_model import ONNX_FILE, OnnxModel
from minilm_core.runtimes.onnx_quantisation import write_int8
from minilm_core.runtimes.torch_model import PackagedModel, load_packaged
from minilm_core.tasks.evaluation import predict_split
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.metrics import metric_named, score
from minilm_core.tasks.task import Task

INT8_FILE = "onnx/model_qint8.onnx"
TOLERANCE_FACTOR = 3.0
"""The factor by which int8 may differ more from fp32 on another machine than on the one that made the model."""
SMALLEST_TOLERANCE = 1e-2
"""The difference of int8 from fp32 that is accepted on any machine.

The products are the same integers everywhere, but an activation whose last bit of fp32 differs may be rounded to
another of the 256 steps.
"""
DEFAULT_TOLERANCE = 0.25
"""The accepted difference of int8 as a fraction of the largest value in fp32, if no difference was recorded."""
EVALUATION_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviation:
    """The difference of the outputs in int8 from those in fp32, on the machine that computed both."""

    num_texts: int
    num_agreeing: int | None
    """The number of texts with the same class in both; None for a model without classes."""
    max_abs_difference: float
    max_abs_value: float
    """The largest output in fp32."""

    @property
    def tolerance(self) -> float:
        """The largest difference that is accepted on another machine."""
        return max(TOLERANCE_FACTOR * self.max_abs_difference, SMALLEST_TOLERANCE)

    @property
    def default_tolerance(self) -> float:
        """The largest difference that is accepted if the machine that made the model recorded none."""
        return DEFAULT_TOLERANCE * self.max_abs_value


def quantise_int8(
    folder: Path,
    task: Task,
    split: Split,
    *,
    max_length: int = 128,
    null_threshold: float | None = None,
    max_drop: float = 0.005,
) -> None:
    """Writes FOLDER/onnx/model_qint8.onnx, and its loss of accuracy and difference from fp32 to FOLDER/parity.json.

    Args:
        folder: The package, which contains the fp32 export.
        task: The task, whose metric judges the int8 model.
        split: The labelled examples that both models are scored on, such as the task's validation split.
        max_length: The number of tokens that an example is cut to, unless the task has its own.
        null_threshold: The margin of "no answer" that the student was scored with; None if it has none.
        max_drop: The largest loss of the metric.

    Raises:
        UserError: if `max_drop` is negative, the fp32 export is missing, or the metric falls by more than `max_drop`.
    """
    if max_drop < 0:
        raise UserError(f"max_drop must be at least 0, got {max_drop}")
    require_onnx()
    if not (folder / ONNX_FILE).is_file():
        raise UserError(f"int8 is made from {ONNX_FILE}, which {folder} lacks; run export_onnx first")
    write_int8(folder / ONNX_FILE, folder / INT8_FILE)
    packaged = load_packaged(folder)
    encoded = kind_of(task).encode(task, split, packaged.tokenizer, task.length(max_length))
    before = _score(OnnxModel(folder / ONNX_FILE), packaged, task, encoded, null_threshold)
    after = _score(OnnxModel(folder / INT8_FILE), packaged, task, encoded, null_threshold)
    if before - after > max_drop:
        (folder / INT8_FILE).unlink()
        raise UserError(
            f"int8 may lose at most {max_drop} of {task.metric}, got a loss of {before - after:.4f}: "
            f"{after:.4f} after {before:.4f} in fp32"
        )
    deviation = int8_deviation(folder, packaged, REFERENCE_SENTENCES)
    report = {
        "file": INT8_FILE,
        "metric": task.metric,
        "num_examples": split.num_examples,
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
    has_classes = packaged.head.is_classifier and fp32.shape[1] > 1
    return Deviation(
        num_texts=len(texts),
        num_agreeing=int((fp32.argmax(dim=1) == int8.argmax(dim=1)).sum()) if has_classes else None,
        max_abs_difference=(int8 - fp32).abs().max().item(),
        max_abs_value=fp32.abs().max().item(),
    )


def _score(
    model: OnnxModel, packaged: PackagedModel, task: Task, encoded: EncodedSplit, null_threshold: float | None
) -> float:
    predictions = predict_split(
        model.run,
        task,
        encoded,
        pad_token_id=packaged.tokenizer.pad_token_id,
        batch_size=EVALUATION_BATCH_SIZE,
        null_threshold=null_threshold,
    )
    return score(metric_named(task.metric), predictions.outcomes)
