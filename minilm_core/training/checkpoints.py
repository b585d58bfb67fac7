"""Checkpoints: tensors as safetensors and plain state as JSON; a checkpoint is either complete or absent."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minilm_core.atomic import atomic_folder, is_scratch
from minilm_core.errors import UserError, first_line


def save_checkpoint(root: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes `root/step-NNNNNNNN` atomically, then removes all older checkpoints."""
    folder = root / f"step-{step:08d}"
    with atomic_folder(folder) as scratch:
        on_cpu = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        save_file(on_cpu, scratch / "tensors.safetensors")
        (scratch / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for other in root.glob("step-*"):
        if other != folder and other.is_dir():
            shutil.rmtree(other)


def load_checkpoint(root: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Reads the latest complete checkpoint under `root`, with its tensors on the CPU; None if there is none.

    Raises:
        UserError: if its files were damaged after they were written.
    """
    name = latest_checkpoint(root)
    if name is None:
        return None
    folder = root / name
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return load_file(folder / "tensors.safetensors"), state
    except (SafetensorError, ValueError, FileNotFoundError) as error:
        raise UserError(
            f"a checkpoint must be complete, got a damaged one in {folder} ({first_line(error)}); "
            f"remove it to start again"
        ) from error


def checkpoint_step(root: Path) -> int | None:
    """Returns the step of the latest complete checkpoint under `root`; None if there is none."""
    name = latest_checkpoint(root)
    return None if name is None else int(name.removeprefix("step-"))


def latest_checkpoint(root: Path) -> str | None:
    """Returns the folder name of the latest complete checkpoint under `root`; None if there is none."""
    return max((folder.name for folder in root.glob("step-*") if not is_scratch(folder)), default=None)
