"""Tests of the kinds of failure of exceptions."""

import numpy as np
import pytest
import torch

from minilm_core.errors import FailureKind, NonFiniteLossError, UserError, classify_failure

FAR_TOO_MUCH = 2**50
"""A number of elements that fits the memory of no machine."""


def wrapped(cause: BaseException) -> RuntimeError:
    """Returns an exception whose cause has `cause` as its own cause."""
    middle = KeyError("middle")
    middle.__cause__ = cause
    outer = RuntimeError("a worker failed")
    outer.__cause__ = middle
    return outer


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NonFiniteLossError("nan"), FailureKind.NON_FINITE_LOSS),
        (UserError("num_steps must be at least 1, got 0"), FailureKind.USER_ERROR),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), FailureKind.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory."), FailureKind.OUT_OF_MEMORY),
        (OSError(12, "Cannot allocate memory"), FailureKind.OUT_OF_MEMORY),
        (TimeoutError("took too long"), FailureKind.TIME_OUT),
        (ValueError("anything else"), FailureKind.CRASH),
        (ArithmeticError("no loss of ours"), FailureKind.CRASH),
    ],
)
def test_an_exception_stands_for_its_kind_of_failure(error: BaseException, kind: FailureKind) -> None:
    assert classify_failure(error) is kind
    assert classify_failure(wrapped(error)) is kind


def test_what_torch_raises_without_memory_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(FAR_TOO_MUCH)
    assert classify_failure(raised.value) is FailureKind.OUT_OF_MEMORY


def test_what_numpy_raises_without_memory_is_out_of_memory() -> None:
    with pytest.raises(MemoryError) as raised:
        np.empty(FAR_TOO_MUCH)
    assert classify_failure(raised.value) is FailureKind.OUT_OF_MEMORY


def test_the_outermost_known_exception_counts() -> None:
    error = TimeoutError("the trial took too long")
    error.__cause__ = MemoryError()
    assert classify_failure(error) is FailureKind.TIME_OUT


def test_an_exception_that_was_merely_being_handled_is_no_cause() -> None:
    error = ValueError("raised while another was handled")
    error.__context__ = MemoryError()
    assert classify_failure(error) is FailureKind.CRASH


def test_a_user_error_may_mention_memory() -> None:
    assert classify_failure(UserError("max must be below out of memory, got 1")) is FailureKind.USER_ERROR
