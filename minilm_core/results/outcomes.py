"""The outcome of every example of an evaluation, kept beside the records, so that scores can be resampled. No torch.

A row of outcomes has what the task's metric needs of one example, such as the label and the prediction of a class, or
the exact match and the F1 of an answer. Files are safetensors with one tensor for each split, in the smallest type
that holds its values.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Num
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from minilm_core.atomic import write_bytes_atomically
from minilm_core.errors import UserError, first_line

Outcomes = Num[np.ndarray, "examples columns"]

_WHOLE_NUMBERS = (np.int8, np.int16, np.int32)


def save_outcomes(path: Path, outcomes: Mapping[str, Outcomes]) -> None:
    """Writes the outcomes of a model on one task, by the name of the split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, save({split: _compact(of_split) for split, of_split in outcomes.items()}))


def load_outcomes(path: Path) -> dict[str, Outcomes]:
    """Reads outcomes as float64, by the name of the split; empty if there is no such file.

    Raises:
        UserError: if the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        found = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"the outcomes of a trial must be readable, got {path} ({first_line(error)})") from error
    for split, of_split in found.items():
        if of_split.ndim != 2:
            raise UserError(
                f"the outcomes of a split must be a table, got shape {of_split.shape} for {split} in {path}"
            )
    return {split: of_split.astype(np.float64) for split, of_split in found.items()}


def _compact(outcomes: Outcomes) -> Outcomes:
    """Returns outcomes in the smallest type of whole numbers that holds them, or as float32."""
    for kind in _WHOLE_NUMBERS:
        # A value beyond the type's range changes in the conversion.
        with np.errstate(invalid="ignore"):
            converted = outcomes.astype(kind)
        if np.array_equal(converted, outcomes):
            return np.ascontiguousarray(converted)
    return np.ascontiguousarray(outcomes, dtype=np.float32)
