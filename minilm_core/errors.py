"""Exceptions: those for mistakes that a user can correct, and the kinds of failure of a running trial."""

from enum import StrEnum


class UserError(ValueError):
    """A mistake that the user can correct. Its one line gives the rule, then the value; the exit code is 2."""


class FailureKind(StrEnum):
    """Why a trial failed; the failure table of the report counts these kinds."""

    OUT_OF_MEMORY = "out of memory"
    NON_FINITE_LOSS = "non-finite loss"
    TIME_OUT = "time-out"
    NODE_LOST = "node lost"
    INFEASIBLE = "infeasible"
    USER_ERROR = "user error"
    CRASH = "crash"


class NonFiniteLossError(ArithmeticError):
    """The training loss, its gradient or a prediction is infinite or NaN."""


def failure_reason(kind: FailureKind, message: str) -> str:
    """Returns a failure's message, prefixed with its kind unless it already begins with that."""
    return message if message.startswith(kind) else f"{kind}: {message}"


def classify_failure(error: BaseException) -> FailureKind:
    """Returns the kind of failure of an exception or, if it has none, of its causes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NonFiniteLossError):
            return FailureKind.NON_FINITE_LOSS
        if isinstance(seen, UserError):
            return FailureKind.USER_ERROR
        # torch.OutOfMemoryError is a RuntimeError, as is the CPU allocator's; their messages need no torch import.
        if isinstance(seen, MemoryError) or "out of memory" in str(seen) or "t allocate memory" in str(seen):
            return FailureKind.OUT_OF_MEMORY
        if isinstance(seen, TimeoutError):
            return FailureKind.TIME_OUT
        seen = seen.__cause__
    return FailureKind.CRASH


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
