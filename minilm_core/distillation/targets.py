"""The teacher's relations for a batch, computed online or from states on disk. A student never sees the teacher."""

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
from minilm_core.models.adapters import LayerRelations, RelationOperands
from minilm_core.models.encoders import RelationEncoder, load_dimension_order, load_heads
from minilm_core.settings.schedules import Precision, Relation, entered_layers
from minilm_core.training.cpu_linear import multiply_with_onednn
from minilm_core.training.devices import autocast, resolve_precision

RowNumbers = Int[np.ndarray, " batch"]


class Targets(Protocol):
    """A source of the teacher's relations."""

    num_heads: int
    """The number of attention heads of the teacher."""

    hidden_size: int
    """The hidden size of the teacher."""

    dimension_order: Int[Tensor, " hidden"] | None
    """The teacher's hidden dimensions; those that a narrower student inherits come first. None: no hidden states are
    compared."""

    def relations(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> list[LayerRelations]:
        """Returns the operands of each distilled layer for rows of the corpus with the tokens `input_ids`."""

    def prefetch(self, rows: RowNumbers) -> None:
        """Starts to read the rows of the next batch while the current one is used; it only saves time."""


class OnlineTargets:
    """Runs the teacher up to its highest distilled layer for every batch."""

    def __init__(self, teacher: RelationEncoder, precision: Precision = Precision.AUTO) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        multiply_with_onednn(self.teacher)
        self.precision = resolve_precision(precision, next(teacher.parameters()).device)
        self.num_heads = teacher.num_heads
        self.hidden_size = teacher.hidden_size
        self.dimension_order: Int[Tensor, " hidden"] | None = teacher.dimension_order

    @torch.no_grad()
    def relations(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> list[LayerRelations]:
        """Returns the teacher's operands, computed from the tokens alone."""
        with autocast(self.precision, input_ids.device):
            relations: list[LayerRelations] = self.teacher(input_ids, None)
        return relations

    def prefetch(self, rows: RowNumbers) -> None:
        """Does nothing, because nothing is read from disk."""


class CachedTargets:
    """The states that enter the teacher's distilled layers, in bf16 on disk, and those layers' own projections.

    The states of a batch are read straight into its tensors; no part of the file is mapped or kept in memory. The cache
    is protected from eviction while the object lives.

    The result is exact up to the rounding of the states to bf16. With a trained teacher of 6x384, queries, keys and
    values differ from those of an online teacher by 0.15 % of their norm. For a batch of 8 rows the loss of the
    attention relation differs by up to 0.08 %, and that of the other relations by up to 0.01 %. Over 64 rows most of
    the differences cancel: 0.011 % and 0.003 % remain. Source: `python -m tests.benchmarks.cached_losses --rows 64`.
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
        """Opens a cache that `cache_targets` wrote.

        Args:
            folder: The folder of one key.
            device: The device of the operands.
            precision: The precision of the projections.
            layers: The cached layers to compare.
            relations: The relations to compare of each layer.

        Raises:
            UserError: if the cache is unfinished, damaged or of another format, or lacks one of the layers.
        """
        resources = ExitStack()
        weakref.finalize(self, resources.close)
        resources.enter_context(hold(folder))
        self._manifest = TargetsManifest.load(folder)
        self._layers = tuple(layers)
        self._compares_hidden_states = Relation.HIDDEN_STATES in relations
        self._entered = entered_layers(layers, relations)
        for layer in self._entered:
            if layer not in self._manifest.layers:
                cached = ", ".join(map(str, self._manifest.layers))
                raise UserError(f"cached targets must include layer {layer}, got layers {cached} in {folder}")
        self._file = os.open(folder / STATES_FILE, os.O_RDONLY)
        resources.callback(os.close, self._file)
        self._layer_indices = [self._manifest.layers.index(layer) for layer in self._entered]
        self._heads = load_heads(folder / HEADS_FOLDER, layers, relations).to(device)
        # Caches of earlier versions do not have it.
        self.dimension_order = load_dimension_order(folder / HEADS_FOLDER) if self._compares_hidden_states else None
        multiply_with_onednn(self._heads)
        self._device = device
        self._precision = precision
        self.num_heads = self._manifest.num_heads
        self.hidden_size = self._manifest.hidden_size

    def check_corpus(self, corpus: PackedCorpus) -> None:
        """Checks that the states were computed from a corpus.

        Raises:
            UserError: if they were not, with both fingerprints.
        """
        if corpus.fingerprint != self._manifest.corpus_fingerprint:
            raise UserError(
                f"cached targets must be those of the corpus that they are used with, {corpus.fingerprint[:12]}, "
                f"got those of {self._manifest.corpus_fingerprint[:12]}"
            )

    def prefetch(self, rows: RowNumbers) -> None:
        """Makes the system read the rows of a later batch into its page cache."""
        # Each row is requested alone: rows between them, which the batch does not need, would waste the disk.
        if hasattr(os, "posix_fadvise"):
            for offset in self._offsets(rows).flat:
                os.posix_fadvise(self._file, int(offset), self._manifest.layer_bytes, os.POSIX_FADV_WILLNEED)

    def states(self, rows: RowNumbers) -> list[Float[Tensor, "batch seq hidden"]]:
        """Returns the hidden states that enter each layer, in bf16: the distilled ones and, if hidden states are
        compared, those after them."""
        # All rows are requested before the first is waited for.
        self.prefetch(rows)
        return [self._read(offsets).to(self._device, non_blocking=True) for offsets in self._offsets(rows)]

    @torch.no_grad()
    def relations(self, rows: RowNumbers, input_ids: Int[Tensor, "batch seq"]) -> list[LayerRelations]:
        """Returns the teacher's operands, computed from the cached states of the rows; the tokens are not used."""
        entering = dict(zip(self._entered, self.states(rows), strict=True))
        of_layers = []
        for layer, head in zip(self._layers, self._heads.values(), strict=True):
            states = entering[layer]
            with autocast(self._precision, self._device):
                relations: LayerRelations = head(states if self._precision is Precision.BF16 else states.float())
            if self._compares_hidden_states:
                relations[Relation.HIDDEN_STATES] = RelationOperands(entering[layer + 1], entering[layer + 1])
            of_layers.append(relations)
        return of_layers

    def _offsets(self, rows: RowNumbers) -> Int[np.ndarray, "layers batch"]:
        """Returns the offset in the file of the states of each layer and row, in bytes."""
        of_layers = np.array(self._layer_indices, dtype=np.int64)[:, None] * self._manifest.layer_bytes
        offsets: np.ndarray = of_layers + rows.astype(np.int64) * self._manifest.row_bytes
        return offsets

    def _read(self, offsets: Int[np.ndarray, " batch"]) -> Float[Tensor, "batch seq hidden"]:
        shape = (len(offsets), self._manifest.sequence_length, self._manifest.hidden_size)
        # A GPU copies from page-locked memory while the host goes on.
        states = torch.empty(shape, dtype=torch.bfloat16, pin_memory=self._device.type == "cuda")
        for offset, row in zip(offsets, states.view(torch.uint8).numpy(), strict=True):
            if os.preadv(self._file, [row], int(offset)) != self._manifest.layer_bytes:
                raise OSError(
                    f"cached targets must not change while they are read, the row at byte {offset} is truncated"
                )
        return states
