"""The choice of answers from the scores of their first and last tokens. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.spans.windows import ContextTokens

WindowScores = Float[np.ndarray, "seq 2"]
"""The logits of each token of a window as the first and as the last of the answer; padding may follow."""
MARGIN_WITHOUT_CANDIDATES = 1e6
"""The margin of "no answer" where no answer is valid: a finite number, because margins are written as such."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A possible answer."""

    text: str
    score: float
    """The sum of the logits of its first and last token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answering:
    """What a model says to one question."""

    candidates: tuple[Candidate, ...]
    """The answers, best first, each text once; empty if no window has a valid one."""
    null_score: float
    """The score of "no answer": the smallest over the windows, because each of them must say so."""

    @property
    def best(self) -> str:
        """The best answer's text; empty if there is none."""
        return self.candidates[0].text if self.candidates else ""

    @property
    def margin(self) -> float:
        """How much the score of "no answer" exceeds that of the best answer."""
        return self.null_score - self.candidates[0].score if self.candidates else MARGIN_WITHOUT_CANDIDATES


def choose_answers(
    contexts: Sequence[str],
    tokens: ContextTokens,
    question_of: Int[np.ndarray, " windows"],
    scores: Sequence[WindowScores],
    span: SpanSettings,
) -> list[Answering]:
    """Returns the answers to each question.

    Args:
        contexts: The context of each question.
        tokens: The tokens of all windows, in any order.
        question_of: The index of each window's question.
        scores: The scores of each window.
        span: The limits of answers.
    """
    of_example: list[list[Candidate]] = [[] for _ in contexts]
    null_scores = np.full(len(contexts), np.inf)
    for window, (question, of_window) in enumerate(zip(question_of, scores, strict=True)):
        null_scores[question] = min(null_scores[question], float(of_window[0].sum()))
        of_example[question] += _candidates(contexts[question], tokens, window, of_window, span)
    return [
        Answering(candidates=_best(candidates, span.num_best), null_score=float(null_score))
        for candidates, null_score in zip(of_example, null_scores, strict=True)
    ]


def _candidates(
    context: str, tokens: ContextTokens, window: int, scores: WindowScores, span: SpanSettings
) -> list[Candidate]:
    """Returns the best answers within one window, given by its index."""
    start, offsets = tokens.firsts[window], tokens.offsets[window]
    in_context = scores[start : start + len(offsets)].astype(np.float64)
    is_blank = offsets[:, 0] == offsets[:, 1]
    as_first = np.where(tokens.is_widest[window] & ~is_blank, in_context[:, 0], -np.inf)
    as_last = np.where(is_blank, -np.inf, in_context[:, 1])
    firsts, lasts = (_largest(logits, span.num_best) for logits in (as_first, as_last))
    lengths = lasts[np.newaxis, :] - firsts[:, np.newaxis] + 1
    sums = as_first[firsts][:, np.newaxis] + as_last[lasts][np.newaxis, :]
    sums = np.where((lengths >= 1) & (lengths <= span.max_answer_tokens), sums, -np.inf)
    found = []
    for cell in _largest(sums.ravel(), span.num_best):
        if np.isfinite(sums.ravel()[cell]):
            first, last = firsts[cell // len(lasts)], lasts[cell % len(lasts)]
            text = context[offsets[first, 0] : offsets[last, 1]]
            found.append(Candidate(text=text, score=float(sums.ravel()[cell])))
    return found


def _best(candidates: Sequence[Candidate], num_best: int) -> tuple[Candidate, ...]:
    by_text: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.score, reverse=True):
        by_text.setdefault(candidate.text, candidate)
    return tuple(by_text.values())[:num_best]


def _largest(values: Float[np.ndarray, " values"], count: int) -> np.ndarray:
    """Returns the indices of the largest values, the largest first; of equal values, the first ones."""
    return np.argsort(-values, kind="stable")[:count]
