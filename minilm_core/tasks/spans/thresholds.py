"""The threshold above which a question counts as unanswerable, as SQuAD 2.0's script searches for it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True, slots=True)
class BestThreshold:
    """The best score that a threshold reaches on the examples that it is chosen on."""

    score: float
    """The mean score in [0, 1]. It is an oracle: other examples need not reach it with the same threshold."""
    threshold: float
    """Questions whose margin of "no answer" exceeds this are answered with nothing."""


def best_threshold(
    scores: Float[np.ndarray, " questions"],
    margins: Float[np.ndarray, " questions"],
    is_answerable: Bool[np.ndarray, " questions"],
    is_empty: Bool[np.ndarray, " questions"],
) -> BestThreshold:
    """Returns the threshold with the highest mean score; of equally good ones, the lowest.

    Questions with equal margins are answered together or not at all, so that the score is one that the threshold
    reaches; SQuAD's script cuts through them.

    Args:
        scores: The score of each question's answer, if it is given.
        margins: How much the score of "no answer" exceeds that of the answer.
        is_answerable: Whether the question has an answer.
        is_empty: Whether the answer, if it is given, is empty.
    """
    # The gain of giving an answer over giving none.
    gains = np.where(is_answerable, scores, np.where(is_empty, 0.0, -1.0))
    order = np.argsort(margins, kind="stable")
    totals = np.cumsum(gains[order])
    is_last_of_equals = np.append(margins[order][1:] != margins[order][:-1], True)
    totals = np.where(is_last_of_equals, totals, -np.inf)
    num_unanswerable = float((~is_answerable).sum())
    best = int(np.argmax(totals))
    if totals[best] <= 0:
        return BestThreshold(score=num_unanswerable / len(scores), threshold=float(margins.min()) - 1)
    return BestThreshold(
        score=float(num_unanswerable + totals[best]) / len(scores), threshold=float(margins[order][best])
    )
