"""The two kinds of failure: one a user can mend before anything runs, one a running trial dies of."""

from enum import StrEnum


class UserError(ValueError):
    """Something the user can mend. Its one line gives the rule, then the value; the command line exits with 2."""


class FailureKind(StrEnum):
    """Why a trial failed: what the failure table of the report counts."""

    OUT_OF_MEMORY = "out of memory"
    NON_FINITE_LOSS = "non-finite loss"
    TIME_OUT = "time-out"
    NODE_LOST = "node lost"
    INFEASIBLE = "infeasible"
    USER_ERROR = "user error"
    CRASH = "crash"


class NonFiniteLossError(ArithmeticError):
    """The training loss, its gradient or a prediction became infinite or NaN."""


def failure_reason(kind: FailureKind, message: str) -> str:
    """Returns a failure's message with its kind before it, unless it begins with it."""
    return message if message.startswith(kind) else f"{kind}: {message}"


def classify_failure(error: BaseException) -> FailureKind:
    """Names the kind of failure an exception stands for, following its causes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NonFiniteLossError):
            return FailureKind.NON_FINITE_LOSS
        if isinstance(seen, UserError):
            return FailureKind.USER_ERROR
        # torch.OutOfMemoryError is a RuntimeError; the CPU allocator raises a bare one. Neither needs torch to be told.
        if isinstance(seen, MemoryError) or "out of memory" in str(seen) or "t allocate memory" in str(seen):
            return FailureKind.OUT_OF_MEMORY
        if isinstance(seen, TimeoutError):
            return FailureKind.TIME_OUT
        seen = seen.__cause__
    return FailureKind.CRASH


def first_line(error: BaseException) -> str:
    """Returns the first line of what an exception says, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
