"""Two processes that meet as the workers of one training."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

PRELOADED = ["minilm_core.distillation", "minilm_core.finetuning", "transformers.models.bert.modeling_bert"]


def in_two_processes(work: Callable[..., None], *arguments: object) -> None:
    """Calls `work(rank, *arguments)` once in each of two processes."""
    # One server imports torch and transformers for both, and for all tests that start workers.
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call,attr-defined]  # torch leaves it unannotated
        work, args=arguments, nprocs=2, start_method="forkserver"
    )


@contextmanager
def as_one_of_two(rank: int, folder: Path) -> Iterator[None]:
    """Makes this process one of two workers, who meet through a file in `folder`; warnings are errors here too."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    yield
    torch.distributed.destroy_process_group()
