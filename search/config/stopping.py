"""When students are stopped early: the key `stopping` of search.yaml. No torch, no Ray."""

from dataclasses import dataclass

from minilm_core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """The steps at which students are compared, and how many of them go on.

    Raises:
        UserError: if the steps do not rise from 1 on, or fewer than every student would go on from the first one.
    """

    rungs: tuple[int, ...]
    """The steps of distillation after which a student is compared with all that have come so far."""
    reduction: float = 3.0
    """Of the students that have reached a rung, one in so many goes on."""

    def __post_init__(self) -> None:
        if not self.rungs:
            raise UserError("rungs must have at least 1 step, got none")
        if self.rungs[0] < 1 or any(
            step >= following for step, following in zip(self.rungs, self.rungs[1:], strict=False)
        ):
            raise UserError(f"rungs must be rising numbers of steps from 1 on, got {', '.join(map(str, self.rungs))}")
        if not self.reduction > 1:
            raise UserError(f"reduction must be more than 1, got {self.reduction:g}")
