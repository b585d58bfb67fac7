"""Exports a packaged student to ONNX in fp32, and compares the export with PyTorch. Extra: onnx."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.models.families import max_sequence_length
from minilm_core.runtimes.exported_model import ExportedModel
from minilm_core.runtimes.onnx_extra import require_onnx
from minilm_core.runtimes.onnx_model import ONNX_FILE, PARITY_FILE, OnnxModel
from minilm_core.runtimes.torch_model import PackagedModel, comparable_outputs, load_packaged

OPSET_VERSION = 18
PARITY_TOLERANCE = 1e-4
"""The largest difference of an output in fp32 from that of PyTorch."""
PARITY_SHAPES = ((1, 8), (1, 128), (3, 64), (8, 128), (2, 511))
"""Batch sizes and sequence lengths to compare; lengths are cut to the positions of the model."""


def export_onnx(model_folder: Path, out: Path) -> None:
    """Writes OUT/onnx/model.onnx in fp32, and its largest difference from PyTorch to OUT/parity.json.

    Raises:
        UserError: if the extra is not installed, or an output differs too much.
    """
    require_onnx()
    packaged = load_packaged(model_folder)
    path = out / ONNX_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_onnx(packaged.model, _random_inputs(packaged, 2, 8), packaged.head.output_names, path)
    try:
        report = check_parity(packaged, OnnxModel(path), ONNX_FILE)
    except UserError:
        path.unlink()
        raise
    add_to_parity(out, "onnx", {**report, "opset": OPSET_VERSION})


def write_onnx(
    model: PreTrainedModel, inputs: Mapping[str, Int[Tensor, "batch tokens"]], output_names: Sequence[str], path: Path
) -> None:
    """Writes a model as an ONNX file for batches and sequences of any size.

    Args:
        model: The model, in evaluation mode on the CPU.
        inputs: An example of its inputs: at least 2 sequences of at least 2 tokens.
        output_names: The names of its first outputs.
        path: The file, whose folder must exist.
    """
    import onnx

    batch = torch.export.Dim("batch", min=1)
    sequence = torch.export.Dim("sequence", min=1, max=max_sequence_length(model.config.to_dict()))
    with _exporter_warnings_ignored():
        program = torch.onnx.export(
            model,
            kwargs=dict(inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=OPSET_VERSION,
            dynamic_shapes={name: {0: batch, 1: sequence} for name in inputs},
            output_names=list(output_names),
        )
    assert program is not None, "the dynamo exporter returns its program"
    graph = program.model_proto
    # The int8 quantiser refuses the shapes that the exporter infers for inner values.
    del graph.graph.value_info[:]
    onnx.save(graph, path)


def check_parity(packaged: PackagedModel, exported: ExportedModel, file: str) -> dict[str, Any]:
    """Compares an export with PyTorch over batches and lengths, and returns the report.

    Raises:
        UserError: if an output differs too much.
    """
    differences, agreements = [], []
    for batch_size, length in _grid(packaged):
        inputs = _random_inputs(packaged, batch_size, length)
        with torch.inference_mode():
            expected = comparable_outputs(packaged.model(**inputs), inputs["attention_mask"])
        exported_outputs = exported.outputs(inputs)
        differences.append((exported_outputs - expected).abs().max().item())
        agreements.append((exported_outputs.argmax(dim=1) == expected.argmax(dim=1)).double().mean().item())
    difference = float(np.max(differences))
    # Written so that NaN fails too.
    if not difference <= PARITY_TOLERANCE:
        raise UserError(
            f"{file} must agree with PyTorch within {PARITY_TOLERANCE:g}, got a difference of {difference:.2g}"
        )
    return {
        "file": file,
        "inputs": exported.input_names,
        "outputs": exported.output_names,
        "shapes": _grid(packaged),
        "tolerance": PARITY_TOLERANCE,
        "max_abs_difference": difference,
        "argmax_agreement": min(agreements) if expected.shape[1] > 1 and packaged.head.is_classifier else None,
    }


def _random_inputs(packaged: PackagedModel, batch_size: int, length: int) -> Mapping[str, Tensor]:
    """Returns random tokens; every row but the first is padded at its end."""
    generator = torch.Generator().manual_seed(length)
    vocabulary_size = packaged.model.config.vocab_size
    tokens = torch.randint(vocabulary_size // 2, vocabulary_size, (batch_size, length), generator=generator)
    num_real = length - torch.arange(batch_size) % (length // 2)
    mask = (torch.arange(length) < num_real.unsqueeze(1)).long()
    values = {
        "input_ids": torch.where(mask.bool(), tokens, packaged.tokenizer.pad_token_id),
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
    }
    return {name: values[name] for name in packaged.tokenizer.model_input_names}


def _grid(packaged: PackagedModel) -> tuple[tuple[int, int], ...]:
    limit = max_sequence_length(packaged.model.config.to_dict())
    return tuple(dict.fromkeys((batch_size, min(length, limit)) for batch_size, length in PARITY_SHAPES))


def add_to_parity(folder: Path, name: str, report: Mapping[str, Any]) -> None:
    """Adds the report of one export to the package's parity.json, which keeps those of the others."""
    path = folder / PARITY_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text_atomically(path, json.dumps({**content, name: report}, indent=2, allow_nan=False) + "\n")


@contextmanager
def _exporter_warnings_ignored() -> Iterator[None]:
    # torch causes these warnings itself: a deprecated check in its tracer, and axes of the second and third input that
    # equal those of the first, as they should. Its log reports that torchvision is absent.
    with logging_at_error(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r"# The axis name: \w+ will not be used", category=UserWarning)
        yield


@contextmanager
def logging_at_error() -> Iterator[None]:
    """Hides what libraries log below the level of errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
