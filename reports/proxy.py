"""Whether what a search goes by ranks students as what it stands for: low held-out loss as high accuracy, and the
accuracy after the search's fine-tuning as that after a full one.

Larger students have a lower loss and a higher accuracy, so that the two agree whether or not the loss says anything of
a student of a given size. Kendall's partial tau takes out what both owe to size.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from minilm_core.results.records import TrialRecord
from minilm_core.tasks.metrics import CONFIDENCE, Interval, percentile_interval
from reports.trial_rows import accuracy_of

MIN_STUDENTS = 8
"""With fewer students a bootstrap interval of the partial tau says nothing."""
MAX_STUDENTS = 150
"""Of more students, as many that are drawn at random are ranked: pairs grow with the square of their number."""
NUM_RESAMPLES = 1000
LARGEST = 1 - 1e-9
MAX_SIMULATED = 50
"""Of so many students and fewer, the interval of tau is simulated: its formula is for many."""
NUM_HALVINGS = 10
"""The ends of an interval of tau are found to 2 / 2**10."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyQuality:
    """How well the held-out loss ranks students."""

    partial_tau: Interval
    """Kendall's tau of low loss with high accuracy, given size; in [-1, 1], 1 where both rank alike."""
    num_students: int
    num_drawn_from: int
    """Those that were ranked are all of these, or were drawn from them at random."""

    @property
    def sentence(self) -> str:
        """The result in words."""
        drawn = "" if self.num_students == self.num_drawn_from else f", drawn at random from {self.num_drawn_from:,},"
        return (
            f"Among {self.num_students} students{drawn} that were trained to the end, a lower held-out loss goes with "
            f"a higher accuracy at equal size: Kendall's tau {shown_tau(self.partial_tau)} "
            f"(1: both rank alike, 0: the loss says nothing; 95% interval over students)."
        )


class Ranked(NamedTuple):
    """The figures of a student that two rankings are compared by."""

    proxy: float
    """What ranks the student; higher is better."""
    accuracy: float
    """What it should be ranked by."""
    size: float


def shown_tau(tau: Interval) -> str:
    """Writes Kendall's tau with its interval."""
    return f"{tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}]"


def proxy_quality(students: Sequence[TrialRecord]) -> ProxyQuality | None:
    """Returns how well the held-out loss of complete students ranks them; None with too few or equal ones.

    Students of other numbers of steps are left out: more steps lower the loss and raise the accuracy at every size, so
    that the two would agree whether or not the loss says anything.
    """
    known = [
        Ranked(-student.held_out_loss, accuracy, student.num_layer_parameters)
        for student in of_one_budget(students)
        if student.held_out_loss is not None
        and student.num_layer_parameters is not None
        and (accuracy := accuracy_of(student)) is not None
    ]
    ranked = drawn_at_random(known)
    tau = partial_tau(ranked)
    return None if tau is None else ProxyQuality(partial_tau=tau, num_students=len(ranked), num_drawn_from=len(known))


def of_one_budget(students: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Returns the students with the number of steps that most have; of numbers that as many have, the largest."""
    counts = Counter(student.num_steps for student in students)
    most_common = max(counts, key=lambda num_steps: (counts[num_steps], num_steps), default=0)
    return [student for student in students if student.num_steps == most_common]


def drawn_at_random(students: Sequence[Ranked]) -> Sequence[Ranked]:
    """Returns the students or, of more than `MAX_STUDENTS`, as many that are drawn from them."""
    if len(students) <= MAX_STUDENTS:
        return students
    drawn = np.random.default_rng(0).choice(len(students), MAX_STUDENTS, replace=False)
    return [students[index] for index in drawn]


def partial_tau(students: Sequence[Ranked]) -> Interval | None:
    """Returns Kendall's partial tau-b of proxy and accuracy given size, with a 95 % bootstrap interval over students.

    It is None with fewer than MIN_STUDENTS, or where one of the figures never differs.
    """
    if len(students) < MIN_STUDENTS:
        return None
    signs = _signs(np.array(students))
    (value,) = _partial_taus(signs, np.ones((1, len(students))))
    if np.isnan(value):
        return None
    draws = np.random.default_rng(0).integers(0, len(students), (NUM_RESAMPLES, len(students)))
    counts = np.stack([np.bincount(draw, minlength=len(students)) for draw in draws]).astype(np.float64)
    resampled = _partial_taus(signs, counts)
    return percentile_interval(float(value), resampled[~np.isnan(resampled)])


def tau_b(students: Sequence[Ranked]) -> Interval | None:
    """Returns Kendall's tau-b of proxy and accuracy with its 95 % interval over students that are drawn at random.

    It is None where the proxy or the accuracy is equal for all. The interval has every tau under which the one found is
    not improbable, if both figures are normal after some monotone transformation. Unlike a bootstrap interval, it does
    not shrink to a point where a few students are ranked alike.

    Source: Kruskal, 1958, the tau of normal variables: 2 / pi * arcsin(correlation); for more than `MAX_SIMULATED`
    students Fieller, Hartley & Pearson, 1957: atanh(tau) has the variance 0.437 / (students - 4).
    """
    proxy, accuracy, _ = _signs(np.array(students))
    value = float(_taus(proxy, accuracy, np.ones((1, len(students))))[0])
    if np.isnan(value):
        return None
    return Interval(value=value, low=_lowest_tau(value, len(students)), high=-_lowest_tau(-value, len(students)))


def half_ties(students: Sequence[Ranked]) -> int:
    """Returns the number of pairs of students that are equal in one of proxy and accuracy; they lower tau-b."""
    proxy, accuracy, _ = _signs(np.array(students))
    return int(((proxy == 0) != (accuracy == 0)).sum()) // 2


def _lowest_tau(value: float, num_students: int) -> float:
    """Returns the lowest tau under which a tau-b of at least `value` is not improbable."""
    if num_students > MAX_SIMULATED:
        margin = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * np.sqrt(0.437 / (num_students - 4))
        # Of equal rankings atanh is infinite.
        return float(np.tanh(np.arctanh(np.clip(value, -LARGEST, LARGEST)) - margin))
    random = np.random.default_rng(0)
    proxies, noise = random.normal(size=(2, NUM_RESAMPLES, num_students))
    above = _is_above(proxies)
    low, high = -1.0, 1.0
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        correlation = np.sin(np.pi / 2 * middle)
        accuracies = correlation * proxies + np.sqrt(1 - correlation**2) * noise
        taus = 2 * (above == _is_above(accuracies)).mean(axis=1) - 1
        # Sums of as many pairs differ in their last digits.
        is_probable = (taus >= value - 1e-9).mean() > (1 - CONFIDENCE) / 2
        low, high = (low, middle) if is_probable else (middle, high)
    return low


def _is_above(values: Float[np.ndarray, "draws students"]) -> Bool[np.ndarray, "draws pairs"]:
    """Returns whether the first student of each pair is above the second."""
    first, second = np.triu_indices(values.shape[1], k=1)
    return np.asarray(values[:, first] > values[:, second])


def _signs(values: Float[np.ndarray, "students 3"]) -> Float[np.ndarray, "3 students students"]:
    """Returns whether each student has more or less than each other one: 1, -1, or 0 where they are equal."""
    return np.asarray(np.sign(values.T[:, :, np.newaxis] - values.T[:, np.newaxis, :]))


def _partial_taus(
    signs: Float[np.ndarray, "3 students students"], counts: Float[np.ndarray, "draws students"]
) -> Float[np.ndarray, " draws"]:
    """Returns Kendall's partial tau-b of proxy and accuracy given size, of students that each count so many times.

    It is NaN where one of proxy and accuracy never differs. Source: Kendall, 1942, partial rank correlation.
    """
    proxy, accuracy, size = signs
    of_pair = _taus(proxy, accuracy, counts)
    # Students of one size have nothing to take out.
    first, second = (np.nan_to_num(_taus(one, size, counts)) for one in (proxy, accuracy))
    spread = (1 - first**2) * (1 - second**2)
    is_defined = spread > 1e-12
    return np.where(is_defined, (of_pair - first * second) / np.sqrt(np.where(is_defined, spread, 1.0)), np.nan)


def _taus(
    one: Float[np.ndarray, "students students"],
    other: Float[np.ndarray, "students students"],
    counts: Float[np.ndarray, "draws students"],
) -> Float[np.ndarray, " draws"]:
    """Returns Kendall's tau-b of two figures by their signs; NaN where one of them never differs."""
    spread = _over_pairs(one**2, counts) * _over_pairs(other**2, counts)
    of_pairs = _over_pairs(one * other, counts)
    return np.asarray(np.divide(of_pairs, np.sqrt(spread), out=np.full(len(counts), np.nan), where=spread > 0))


def _over_pairs(
    values: Float[np.ndarray, "students students"], counts: Float[np.ndarray, "draws students"]
) -> Float[np.ndarray, " draws"]:
    """Returns the sum over all pairs of students, as often as each draw has them."""
    return np.asarray((counts @ values * counts).sum(axis=1))
