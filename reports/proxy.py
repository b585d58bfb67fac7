"""Whether the held-out loss of a distillation ranks students as their accuracy does, among students of like size.

Larger students have a lower loss and a higher accuracy, so that the two agree whether or not the loss says anything of
a student of a given size. Kendall's partial tau takes out what both owe to size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from minilm_core.results.records import TrialRecord
from minilm_core.tasks.metrics import Interval, percentile_interval
from reports.trial_rows import accuracy_of

MIN_STUDENTS = 8
"""With fewer students an interval of tau says nothing."""
NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyQuality:
    """How well the held-out loss ranks students."""

    partial_tau: Interval
    """Kendall's tau of low loss with high accuracy, given size; in [-1, 1], 1 where both rank alike."""
    num_students: int

    @property
    def sentence(self) -> str:
        """The result in words."""
        found = self.partial_tau
        return (
            f"Among {self.num_students} students that were trained to the end, a lower held-out loss goes with a "
            f"higher accuracy at equal size: Kendall's tau {found.value:.2f} [{found.low:.2f}, {found.high:.2f}] "
            f"(1: both rank alike, 0: the loss says nothing; 95% interval over students)."
        )


def proxy_quality(students: Sequence[TrialRecord]) -> ProxyQuality | None:
    """Returns how well the held-out loss of complete students ranks them; None with too few or equal ones."""
    known = [
        (-student.held_out_loss, accuracy, float(student.num_layer_parameters))
        for student in students
        if student.held_out_loss is not None
        and student.num_layer_parameters is not None
        and (accuracy := accuracy_of(student)) is not None
    ]
    if len(known) < MIN_STUDENTS:
        return None
    signs = _signs(np.array(known))
    random = np.random.default_rng(0)
    draws = random.integers(0, len(known), (NUM_RESAMPLES, len(known)))
    value = _partial_tau(signs, np.arange(len(known)))
    if value is None:
        return None
    resampled = [tau for draw in draws if (tau := _partial_tau(signs, draw)) is not None]
    return ProxyQuality(partial_tau=percentile_interval(value, np.array(resampled)), num_students=len(known))


def _signs(values: Float[np.ndarray, "students 3"]) -> Float[np.ndarray, "3 students students"]:
    """Returns whether each student has more or less than each other one: 1, -1, or 0 where they are equal."""
    return np.asarray(np.sign(values.T[:, :, np.newaxis] - values.T[:, np.newaxis, :]))


def _partial_tau(signs: Float[np.ndarray, "3 students students"], drawn: np.ndarray) -> float | None:
    """Returns Kendall's partial tau-b of loss and accuracy given size; None where one of them never differs.

    Source: Kendall, 1942, partial rank correlation.
    """
    loss, accuracy, size = (of_one[np.ix_(drawn, drawn)] for of_one in signs)
    of_pair, with_loss, with_accuracy = _tau(loss, accuracy), _tau(loss, size), _tau(accuracy, size)
    if of_pair is None:
        return None
    # Students of one size have nothing to take out.
    first, second = with_loss or 0.0, with_accuracy or 0.0
    spread = (1 - first**2) * (1 - second**2)
    return None if spread <= 1e-12 else (of_pair - first * second) / float(np.sqrt(spread))


def _tau(one: np.ndarray, other: np.ndarray) -> float | None:
    spread = float((one**2).sum() * (other**2).sum())
    return None if spread == 0 else float((one * other).sum()) / float(np.sqrt(spread))
