"""Tests of checkpoints: each is complete or absent, only the latest is kept, every number is restored exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minilm_core.atomic import atomic_folder
from minilm_core.training.checkpoints import load_checkpoint, save_checkpoint


def some_tensors(value: float = 1.0) -> dict[str, Tensor]:
    return {"weight": torch.full((2, 3), value)}


def loaded(root: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    checkpoint = load_checkpoint(root)
    assert checkpoint is not None
    return checkpoint


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([1.5, -0.0, float("inf"), 2**-149]),
        torch.tensor([1.0, 2.0], dtype=torch.float64) / 3,
        torch.tensor([1.0, 2.0]).bfloat16() / 3,
        torch.tensor([1.0, 2.0]).half() / 3,
        torch.tensor([2**62 + 1, -1]),
        torch.tensor([True, False]),
        torch.tensor(7.0),
        torch.empty(0, 3),
        torch.arange(6.0).reshape(2, 3).T,
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=["fp32", "fp64", "bf16", "fp16", "int64", "bool", "scalar", "empty", "transposed", "parameter"],
)
def test_a_tensor_comes_back_bit_for_bit(tmp_path: Path, tensor: Tensor) -> None:
    save_checkpoint(tmp_path, 1, {"tensor": tensor}, {})
    back = loaded(tmp_path)[0]["tensor"]
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    as_bytes = [each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (back, tensor)]
    assert torch.equal(*as_bytes)
    assert not back.requires_grad


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"step": 3, "rate": 0.1, "names": ["a", "ä"], "none": None, "nested": {"is": True}}
    save_checkpoint(tmp_path, 3, some_tensors(), state)
    assert loaded(tmp_path)[1] == state


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "missing") is None


def test_older_checkpoints_are_dropped(tmp_path: Path) -> None:
    for step in (1, 9, 10, 100):
        save_checkpoint(tmp_path, step, some_tensors(step), {"step": step})
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000100"]


def test_of_two_checkpoints_the_later_is_read(tmp_path: Path) -> None:
    for step in (9, 10):
        save_checkpoint(tmp_path / str(step), step, some_tensors(step), {"step": step})
        folder = f"step-{step:08d}"
        (tmp_path / str(step) / folder).rename(tmp_path / folder)
    tensors, state = loaded(tmp_path)
    assert state == {"step": 10}
    assert torch.equal(tensors["weight"], some_tensors(10)["weight"])


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, some_tensors(), {"step": 1})
    with atomic_folder(tmp_path / "step-00000002") as scratch:
        (scratch / "tensors.safetensors").write_bytes(b"half")
        assert loaded(tmp_path)[1] == {"step": 1}
        (scratch / "state.json").write_text('{"step": 2}', encoding="utf-8")
        assert loaded(tmp_path)[1] == {"step": 1}


def test_a_half_written_checkpoint_of_a_crashed_process_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "step-00000001.partial-1-abcdef00"
    left.mkdir()
    (left / "tensors.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, 2, some_tensors(), {})
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("state", [{"step": object()}, {"step": {1, 2}}])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, state: dict[str, Any]) -> None:
    save_checkpoint(tmp_path, 1, some_tensors(), {"step": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path, 2, some_tensors(), state)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000001"]
    assert loaded(tmp_path)[1] == {"step": 1}


def test_a_stray_file_beside_the_checkpoints_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"")
    save_checkpoint(tmp_path, 1, some_tensors(), {"step": 1})
    save_checkpoint(tmp_path, 2, some_tensors(), {"step": 2})
    assert loaded(tmp_path)[1] == {"step": 2}


def test_saving_changes_no_tensor(tmp_path: Path) -> None:
    tensors = some_tensors()
    save_checkpoint(tmp_path, 1, tensors, {})
    tensors["weight"].add_(1.0)
    assert torch.equal(loaded(tmp_path)[0]["weight"], some_tensors()["weight"])
