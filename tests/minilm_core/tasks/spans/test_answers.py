"""Tests of the choice of answers against a search of every span."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.tasks.spans.answers import MARGIN_WITHOUT_CANDIDATES, Answering, choose_answers
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.spans.windows import Window, Windows

CONTEXT = "zero one two three four five six seven eight nine"
WORDS = CONTEXT.split()
STARTS = [CONTEXT.index(word) for word in WORDS]
OFFSETS = [(start, start + len(word)) for start, word in zip(STARTS, WORDS, strict=True)]
FIRST = 3


def window_of(start: int = 0, end: int = 10, *, example: int = 0, widest: range | None = None) -> Window:
    tokens = list(range(FIRST + end - start + 1))
    return Window(
        example=example,
        inputs={"input_ids": tokens},
        first=FIRST,
        offsets=tuple(OFFSETS[start:end]),
        is_widest=tuple(widest is None or token in widest for token in range(start, end)),
        answer=(0, 0),
    )


def logits(window: Window, firsts: dict[int, float], lasts: dict[int, float], null: float = 0.0) -> np.ndarray:
    """Logits of -9 but for the given tokens of the context, counted in the window; half of `null` on either side."""
    scores = np.full((len(window.inputs["input_ids"]), 2), -9.0)
    scores[0] = null / 2
    for column, values in enumerate((firsts, lasts)):
        for token, value in values.items():
            scores[FIRST + token, column] = value
    return scores


def answers_of(
    contexts: list[str], parts: list[Window], scores: list[np.ndarray], span: SpanSettings
) -> list[Answering]:
    found = Windows.of(parts)
    return choose_answers(contexts, found.tokens, found.examples, scores, span)


def test_the_span_with_the_highest_sum_is_the_answer() -> None:
    window = window_of()
    (answering,) = answers_of([CONTEXT], [window], [logits(window, {2: 5, 4: 4}, {3: 3, 1: 9})], SpanSettings())
    assert answering.best == "two three"
    assert answering.candidates[0].score == 8.0


def test_an_answer_does_not_end_before_it_begins_nor_last_too_long() -> None:
    window = window_of()
    scores = logits(window, {0: 9, 6: 5}, {9: 9, 3: 8})
    (answering,) = answers_of([CONTEXT], [window], [scores], SpanSettings(max_answer_tokens=4))
    assert answering.best == "zero one two three"
    (short,) = answers_of([CONTEXT], [window], [scores], SpanSettings(max_answer_tokens=2))
    assert short.best != "zero one two three"


def test_neither_question_nor_padding_is_an_answer() -> None:
    window = window_of(0, 3)
    scores = np.zeros((len(window.inputs["input_ids"]) + 4, 2))
    scores[1:FIRST] = scores[FIRST + 3 :] = 50.0
    scores[FIRST + 1] = 1.0
    (answering,) = answers_of([CONTEXT], [window], [scores], SpanSettings())
    assert answering.best == "one"


def test_no_answer_must_be_said_by_every_window() -> None:
    parts = [window_of(0, 5), window_of(5, 10)]
    scores = [logits(parts[0], {1: 2}, {1: 2}, null=10.0), logits(parts[1], {1: 1}, {1: 1}, null=-3.0)]
    (answering,) = answers_of([CONTEXT], parts, scores, SpanSettings())
    assert answering.null_score == -3.0
    assert (answering.best, answering.margin) == ("one", -3.0 - 4.0)


def test_an_answer_begins_only_where_its_window_shows_most_context() -> None:
    parts = [window_of(0, 6, widest=range(4)), window_of(2, 10, widest=range(4, 10))]
    scores = [logits(parts[0], {5: 9}, {5: 9}), logits(parts[1], {3: 1}, {3: 1})]
    (answering,) = answers_of([CONTEXT], parts, scores, SpanSettings())
    assert answering.best == "five"
    assert answering.candidates[0].score == 2.0


def test_windows_belong_to_their_question_in_any_order() -> None:
    parts = [window_of(5, 10, example=1), window_of(example=0), window_of(0, 5, example=1)]
    scores = [logits(parts[0], {0: 3}, {0: 3}), logits(parts[1], {7: 1}, {7: 1}), logits(parts[2], {0: 2}, {0: 2})]
    found = answers_of([CONTEXT, CONTEXT], parts, scores, SpanSettings())
    assert [answering.best for answering in found] == ["seven", "five"]


def test_equal_texts_are_listed_once() -> None:
    parts = [window_of(), window_of()]
    scores = [logits(part, {3: 1 + number}, {3: 1}) for number, part in enumerate(parts)]
    (answering,) = answers_of([CONTEXT], parts, scores, SpanSettings())
    texts = [candidate.text for candidate in answering.candidates]
    assert len(texts) == len(set(texts))
    assert answering.candidates[0].score == 3.0


def test_a_question_without_a_valid_answer_is_answered_with_nothing() -> None:
    blank = Window(
        example=0, inputs={"input_ids": [0, 1, 2, 3]}, first=2, offsets=((3, 3),), is_widest=(True,), answer=(0, 0)
    )
    (answering,) = answers_of([CONTEXT], [blank], [np.zeros((4, 2))], SpanSettings())
    assert (answering.best, answering.margin) == ("", MARGIN_WITHOUT_CANDIDATES)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), max_answer_tokens=st.integers(1, 10))
def test_the_list_has_the_best_of_all_spans(seed: int, max_answer_tokens: int) -> None:
    window = window_of()
    scores = np.random.default_rng(seed).normal(size=(len(window.inputs["input_ids"]), 2))
    (answering,) = answers_of(
        [CONTEXT], [window], [scores], SpanSettings(max_answer_tokens=max_answer_tokens, num_best=10)
    )
    spans = {
        CONTEXT[OFFSETS[first][0] : OFFSETS[last][1]]: scores[FIRST + first, 0] + scores[FIRST + last, 1]
        for first in range(10)
        for last in range(first, min(10, first + max_answer_tokens))
    }
    expected = sorted(spans, key=lambda text: -spans[text])[:10]
    assert [candidate.text for candidate in answering.candidates] == expected
    assert answering.candidates[0].score == pytest.approx(spans[expected[0]])
