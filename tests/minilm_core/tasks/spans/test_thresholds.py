"""Tests of the best threshold of "no answer" against a search of all thresholds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.tasks.spans.thresholds import best_threshold


def scored(scores: np.ndarray, margins: np.ndarray, is_answerable: np.ndarray, threshold: float) -> float:
    """The mean score if questions with a larger margin than the threshold are answered with nothing."""
    given_scores = np.where(is_answerable, scores, 0.0)
    return float(np.where(margins > threshold, ~is_answerable, given_scores).mean())


def test_the_worked_case() -> None:
    f1, exact_match = np.array([1, 0, 0.5, 0, 0]), np.array([1, 0, 0, 0, 0])
    margins = np.array([0.1, 0.2, 0.3, 0.6, 0.9])
    is_answerable = np.array([True, False, True, False, True])
    is_empty = np.array([False, False, False, True, False])
    for scores in (f1, exact_match):
        found = best_threshold(scores, margins, is_answerable, is_empty)
        assert (found.score, found.threshold) == (0.6, 0.1)


def test_equal_margins_are_not_cut_through() -> None:
    """Where all margins are equal, answering all or none are the only choices."""
    is_answerable = np.array([True, False, True, False, True])
    scores, is_empty = np.array([1, 0, 0.5, 0, 0]), np.zeros(5, dtype=bool)
    found = best_threshold(scores, np.zeros(5), is_answerable, is_empty)
    assert found.score == pytest.approx(0.4)
    assert found.score == scored(scores, np.zeros(5), is_answerable, found.threshold)


def test_where_every_answer_is_wrong_all_questions_are_left_unanswered() -> None:
    is_answerable = np.array([True, False, False])
    found = best_threshold(np.zeros(3), np.array([-3.0, 1.0, 2.0]), is_answerable, np.zeros(3, dtype=bool))
    assert found.score == pytest.approx(2 / 3)
    assert found.threshold < -3.0


@settings(deadline=None, derandomize=True, max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), num_questions=st.integers(1, 30))
def test_no_threshold_is_better_and_the_score_is_reached(seed: int, num_questions: int) -> None:
    random = np.random.default_rng(seed)
    is_answerable = random.uniform(size=num_questions) < 0.5
    scores = np.where(is_answerable, random.choice([0, 0.25, 0.5, 1], size=num_questions), 0.0)
    # Rounded, so that some are equal.
    margins = random.normal(size=num_questions).round(1)
    found = best_threshold(scores, margins, is_answerable, np.zeros(num_questions, dtype=bool))
    thresholds = [margins.min() - 1, *margins]
    best = max(scored(scores, margins, is_answerable, threshold) for threshold in thresholds)
    assert found.score == pytest.approx(best)
    assert scored(scores, margins, is_answerable, found.threshold) == pytest.approx(best)
