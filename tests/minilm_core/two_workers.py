"""Two processes as the workers of one training."""

import gc
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

PRELOADED = ["minilm_core.distillation.loop", "minilm_core.tasks.finetuning", "transformers.models.bert.modeling_bert"]


def in_two_processes(work: Callable[..., None], folder: Path, *arguments: object) -> None:
    """Calls `work(rank, folder, *arguments)` once in each of two processes, which are the workers of one training."""
    # One server imports torch and transformers for both, and for all tests that start workers.
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call,attr-defined]  # torch leaves it unannotated
        _as_one_of_two, args=(work, folder, *arguments), nprocs=2, start_method="forkserver"
    )


def _as_one_of_two(rank: int, work: Callable[..., None], folder: Path, *arguments: object) -> None:
    """Joins the process group through a file in `folder`; warnings are errors here, too."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    work(rank, folder, *arguments)
    # A data-parallel module that outlives the group holds Python's lock while it waits for threads that need the lock.
    gc.collect()
    torch.distributed.destroy_process_group()
