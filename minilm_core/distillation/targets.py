"""What the teacher says about a batch: computed now, or once and read from disk. A student never sees the teacher."""

import os
import weakref
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation.target_storage import HEADS_FOLDER, STATES_FILE, TargetsManifest, hold
from minilm_core.errors import UserError
from minilm_core.models.adapters import LayerRelations
from minilm_core.models.encoders import RelationEncoder, load_heads
from minilm_core.settings.schedules import Precision, Relation
from minilm_core.training.cpu_linear import multiply_with_onednn
from minilm_core.training.devices import autocast, resolve_precision

RowNumbers = Int[np.ndarray, " batch"]


class Targets(Protocol):
    """A source of teacher vectors."""

    num_heads: int
    """Attention heads of the teacher."""

    hidden_size: int
    """The teacher's."""

    def relations(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> list[LayerRelations]:
        """Returns the operands of each distilled layer for rows of the corpus, whose tokens are `input_ids`."""

    def prefetch(self, rows: RowNumbers) -> None:
        """Is told the rows of the next batch while this one is learned from; it changes nothing but the time taken."""


class OnlineTargets:
    """Runs the teacher up to its highest distilled layer for every batch."""

    def __init__(self, teacher: RelationEncoder, precision: Precision = Precision.AUTO) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        multiply_with_onednn(self.teacher)
        self.precision = resolve_precision(precision, next(teacher.parameters()).device)
        self.num_heads = teacher.num_heads
        self.hidden_size = teacher.hidden_size

    @torch.no_grad()
    def relations(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> list[LayerRelations]:
        """Returns the teacher's operands; the rows' numbers do not matter here."""
        with autocast(self.precision, input_ids.device):
            relations: list[LayerRelations] = self.teacher(input_ids, None)
        return relations

    def prefetch(self, rows: RowNumbers) -> None:
        """Does nothing: there is no disk to wait for."""


class CachedTargets:
    """The states that enter the teacher's distilled layers, in bf16 on disk, and those layers' own projections.

    What a batch needs is read when it is asked for, straight into the batch, and nothing else is: no part of the file
    is mapped or held. The process keeps the cache from being evicted for as long as this lives.

    It is exact up to the rounding of the states to bf16. With a trained teacher of 6x384, queries, keys and values
    differ from those computed now by 0.15 % of their norm. Of a batch of 8 rows the attention loss differs by up to
    0.08 % of itself, those of the other relations by up to 0.01 %; over 64 rows most of it cancels, and 0.011 % and
    0.003 % are left. Source: `python -m tests.benchmarks.cached_losses --rows 64`.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        precision: Precision,
        *,
        layers: Sequence[int],
        relations: Collection[Relation],
    ) -> None:
        """Opens what `cache_targets` wrote.

        Args:
            folder: The cache's folder of one key.
            device: Where the operands are wanted.
            precision: What the projections run in.
            layers: Those of the cached layers that are compared.
            relations: What is compared of each.

        Raises:
            UserError: if the cache is unfinished, damaged, of another format or without one of the layers.
        """
        resources = ExitStack()
        weakref.finalize(self, resources.close)
        resources.enter_context(hold(folder))
        self._manifest = TargetsManifest.load(folder)
        for layer in layers:
            if layer not in self._manifest.layers:
                cached = ", ".join(map(str, self._manifest.layers))
                raise UserError(f"cached targets must be of layer {layer}, got those of {cached} in {folder}")
        self._file = os.open(folder / STATES_FILE, os.O_RDONLY)
        resources.callback(os.close, self._file)
        self._places = [self._manifest.layers.index(layer) for layer in layers]
        self._heads = load_heads(folder / HEADS_FOLDER, layers, relations).to(device)
        multiply_with_onednn(self._heads)
        self._device = device
        self._precision = precision
        self.num_heads = self._manifest.num_heads
        self.hidden_size = self._manifest.hidden_size

    def check_corpus(self, corpus: PackedCorpus) -> None:
        """Refuses a corpus that the states are not of.

        Raises:
            UserError: naming both.
        """
        if corpus.fingerprint != self._manifest.corpus_fingerprint:
            raise UserError(
                f"cached targets must be of the corpus they are used with, {corpus.fingerprint[:12]}, "
                f"got those of {self._manifest.corpus_fingerprint[:12]}"
            )

    def prefetch(self, rows: RowNumbers) -> None:
        """Has the disk read ahead the rows of a later batch, into memory that the system takes back as it likes."""
        # Each row is asked for alone: neighbours that no batch wants would waste the disk.
        if hasattr(os, "posix_fadvise"):
            for offset in self._offsets(rows).flat:
                os.posix_fadvise(self._file, int(offset), self._manifest.layer_bytes, os.POSIX_FADV_WILLNEED)

    def states(self, rows: RowNumbers) -> list[Float[Tensor, "batch seq hidden"]]:
        """Returns the hidden states that enter each distilled layer, in bf16."""
        # All requests are under way before the first is waited for.
        self.prefetch(rows)
        return [self._read(offsets).to(self._device, non_blocking=True) for offsets in self._offsets(rows)]

    @torch.no_grad()
    def relations(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> list[LayerRelations]:
        """Returns the teacher's operands for the rows; the tokens are not needed again."""
        with autocast(self._precision, self._device):
            return [
                head(states if self._precision is Precision.BF16 else states.float())
                for head, states in zip(self._heads.values(), self.states(rows), strict=True)
            ]

    def _offsets(self, rows: RowNumbers) -> Int[np.ndarray, "layers batch"]:
        """Returns where in the file the states of each layer and row begin, in bytes."""
        of_layers = np.array(self._places, dtype=np.int64)[:, None] * self._manifest.layer_bytes
        offsets: np.ndarray = of_layers + rows.astype(np.int64) * self._manifest.row_bytes
        return offsets

    def _read(self, offsets: Int[np.ndarray, " batch"]) -> Float[Tensor, "batch seq hidden"]:
        shape = (len(offsets), self._manifest.sequence_length, self._manifest.hidden_size)
        # From page-locked memory a GPU fetches the batch while the host goes on.
        states = torch.empty(shape, dtype=torch.bfloat16, pin_memory=self._device.type == "cuda")
        for offset, row in zip(offsets, states.view(torch.uint8).numpy(), strict=True):
            if os.preadv(self._file, [row], int(offset)) != self._manifest.layer_bytes:
                raise OSError(f"cached targets must not change while they are read, row at byte {offset} was cut short")
        return states
