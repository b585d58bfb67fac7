"""What the teacher says about a batch: computed now, or once and read from disk. A student never sees the teacher."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minilm_core.atomic import atomic_folder
from minilm_core.corpus import PackedCorpus
from minilm_core.devices import autocast
from minilm_core.encoders import Projections, RelationEncoder, RelationVectors
from minilm_core.errors import UserError
from minilm_core.schedules import Precision

ROWS_PER_WRITE = 32

RowNumbers = Int[np.ndarray, " batch"]


class Targets(Protocol):
    """A source of teacher vectors."""

    num_heads: int
    """Attention heads of the teacher."""

    def vectors(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> RelationVectors:
        """Returns the teacher's Q, K and V for the given rows of the corpus, whose tokens are `input_ids`."""


class OnlineTargets:
    """Runs the teacher up to its distilled layer for every batch."""

    def __init__(self, teacher: RelationEncoder, precision: Precision) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.precision = precision
        self.num_heads = teacher.num_heads

    @torch.no_grad()
    def vectors(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> RelationVectors:
        """Returns the teacher's vectors; the rows' numbers do not matter here."""
        with autocast(self.precision, input_ids.device):
            vectors: RelationVectors = self.teacher(input_ids, None)
        return vectors


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsKey:
    """All that the cached states depend on; another teacher, layer, text, packing or precision is another cache."""

    weights_sha256: str
    """Of the teacher's safetensors."""
    layer: int
    """The distilled layer, counted from 1."""
    corpus_fingerprint: str
    """Of the packed tokens, and so of text, tokenizer and packing together."""
    precision: Precision
    """What the teacher ran in; the states are kept in bf16 either way."""

    @property
    def folder_name(self) -> str:
        """A short name made of everything above."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]


class CachedTargets:
    """The states that enter the teacher's distilled layer, in bf16 on disk, and that layer's own projections.

    Reading maps the file: a batch's rows are read when they are asked for and nothing is held in memory.
    """

    def __init__(self, folder: Path, device: torch.device, precision: Precision) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        shape = (manifest["num_rows"], manifest["sequence_length"], manifest["hidden_size"])
        self._states = np.memmap(folder / "states.bf16", dtype=np.int16, mode="r", shape=shape)
        self._projections = _load_projections(folder / "projections.safetensors", manifest["hidden_size"]).to(device)
        self._device = device
        self._precision = precision
        self._corpus_fingerprint: str = manifest["corpus_fingerprint"]
        self.num_heads: int = manifest["num_heads"]

    def check_corpus(self, corpus: PackedCorpus) -> None:
        """Refuses a corpus that the states are not of.

        Raises:
            UserError: naming both.
        """
        if corpus.fingerprint != self._corpus_fingerprint:
            raise UserError(
                f"cached targets must be of the corpus they are used with, {corpus.fingerprint[:12]}, "
                f"got those of {self._corpus_fingerprint[:12]}"
            )

    def states(self, rows: RowNumbers) -> Float[Tensor, "batch seq hidden"]:
        """Returns the hidden states that enter the distilled layer, in bf16."""
        return torch.from_numpy(self._states[rows]).view(torch.bfloat16).to(self._device)

    @torch.no_grad()
    def vectors(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> RelationVectors:
        """Returns the teacher's vectors for the rows; the tokens are not needed again."""
        with autocast(self._precision, self._device):
            states = self.states(rows)
            vectors: RelationVectors = self._projections(
                states if self._precision is Precision.BF16 else states.float()
            )
        return vectors


def cache_targets(teacher: RelationEncoder, corpus: PackedCorpus, key: TargetsKey, cache: Path) -> Iterator[int]:
    """Runs the teacher over the whole corpus once, into `cache / key.folder_name`, and yields the rows done so far.

    A folder that was not finished is never seen under its name; two writers of one key leave one whole folder. Does
    nothing where the folder is there already.
    """
    folder = cache / key.folder_name
    if folder.is_dir():
        return
    device = next(teacher.parameters()).device
    teacher.eval()
    with atomic_folder(folder) as scratch:
        with (scratch / "states.bf16").open("wb") as file:
            for start in range(0, corpus.num_rows, ROWS_PER_WRITE):
                rows = np.arange(start, min(start + ROWS_PER_WRITE, corpus.num_rows))
                file.write(_states_of(teacher, corpus.rows(rows), key.precision, device))
                yield int(rows[-1]) + 1
        projections = {name: value.detach().float().cpu() for name, value in teacher.projections.state_dict().items()}
        save_file(projections, scratch / "projections.safetensors")
        manifest = {
            **asdict(key),
            "num_rows": corpus.num_rows,
            "sequence_length": corpus.manifest.sequence_length,
            "hidden_size": teacher.hidden_size,
            "num_heads": teacher.num_heads,
        }
        (scratch / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


@torch.no_grad()
def _states_of(
    teacher: RelationEncoder, tokens: Int[np.ndarray, "batch seq"], precision: Precision, device: torch.device
) -> bytes:
    with autocast(precision, device):
        states = teacher.states(torch.from_numpy(tokens).to(device), None)
    return states.to(torch.bfloat16).cpu().view(torch.int16).numpy().tobytes()


def _load_projections(path: Path, hidden_size: int) -> Projections:
    projections = Projections(*(nn.Linear(hidden_size, hidden_size) for _ in range(3)))
    projections.load_state_dict(load_file(path))
    return projections.eval().requires_grad_(False)
