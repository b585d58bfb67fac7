"""Tests of windows: where they begin, what they contain, and that their tokens lead back to the context."""

import math
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from minilm_core.errors import UserError
from minilm_core.tasks.spans.examples import Answers
from minilm_core.tasks.spans.rules import AnswerRules
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.spans.windows import Window, cut_questions, reachable_share, tokens_of_answer, windows
from tests.minilm_core.tasks.tokenizers import TOKENIZERS, word_piece

QUESTION = "Who finds it?"


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def bert() -> PreTrainedTokenizerFast:
    return word_piece()


def windows_of(
    tokenizer: PreTrainedTokenizerFast,
    context: str,
    answer: str | None = None,
    question: str = QUESTION,
    max_length: int = 384,
    **settings: int,
) -> list[Window]:
    answers = Answers((), ()) if answer is None else Answers((answer,), (context.index(answer),))
    return list(windows([question], [context], [answers], tokenizer, SpanSettings(**settings), max_length))


def num_special(tokenizer: PreTrainedTokenizerFast) -> int:
    return tokenizer.num_special_tokens_to_add(pair=True)


# Windows


def test_a_short_context_has_one_window_that_is_the_tokenizers_own_pair(tokenizer: PreTrainedTokenizerFast) -> None:
    (window,) = windows_of(tokenizer, "The search finds a student.")
    assert window.inputs == dict(tokenizer(QUESTION, "The search finds a student."))


@pytest.mark.parametrize(("num_tokens", "doc_stride"), [(800, 128), (367, 128), (368, 128), (369, 128), (900, 50)])
def test_windows_begin_doc_stride_tokens_after_one_another(
    bert: PreTrainedTokenizerFast, num_tokens: int, doc_stride: int
) -> None:
    context = " ".join(["student"] * num_tokens)
    per_word = len(bert("student", add_special_tokens=False)["input_ids"])
    found = windows_of(bert, context, doc_stride=doc_stride)
    room = 384 - num_special(bert) - len(bert(QUESTION, add_special_tokens=False)["input_ids"])
    length = num_tokens * per_word
    assert len(found) == 1 + max(0, math.ceil((length - room) / doc_stride))
    for number, window in enumerate(found):
        first_token = number * doc_stride
        assert len(window.offsets) == min(room, length - first_token)
        assert window.offsets[0][0] // len("student ") == first_token // per_word
    assert max(len(window.inputs["input_ids"]) for window in found) == min(384, length + 384 - room)


def test_five_windows_where_the_tokenizers_library_would_make_three(bert: PreTrainedTokenizerFast) -> None:
    """800 tokens with room for 367: 1 + ceil((800 - 367) / 128), not 1 + ceil((800 - 367) / (367 - 128))."""
    context = ". " * 800
    question_tokens = 384 - 367 - num_special(bert)
    assert len(windows_of(bert, context, question="? " * question_tokens)) == 5


def test_every_window_has_the_whole_question_and_its_part_of_the_context(tokenizer: PreTrainedTokenizerFast) -> None:
    context = "The search finds a student. " * 20
    whole = tokenizer(QUESTION, context)["input_ids"]
    found = windows_of(tokenizer, context, max_length=40, doc_stride=10)
    assert len(found) > 5
    for window in found:
        tokens = window.inputs["input_ids"]
        assert tokens[: window.first] == whole[: window.first]
        assert tokens[-1] == whole[-1]
        assert {len(values) for values in window.inputs.values()} == {len(tokens)}
        assert len(tokens) == window.first + len(window.offsets) + 1


def test_an_answer_begins_in_one_window_only(tokenizer: PreTrainedTokenizerFast) -> None:
    context = "The search finds a student of the teacher in 1999. " * 10
    found = windows_of(tokenizer, context, max_length=40, doc_stride=7)
    places = [
        offset
        for window in found
        for offset, is_widest in zip(window.offsets, window.is_widest, strict=True)
        if is_widest
    ]
    (whole,) = windows_of(tokenizer, context, max_length=10_000)
    assert sorted(places) == sorted(whole.offsets)


def test_a_token_begins_an_answer_where_it_has_most_context(bert: PreTrainedTokenizerFast) -> None:
    found = windows_of(bert, ". " * 60, max_length=40, doc_stride=10, question="?")
    num_tokens = len({offset for window in found for offset in window.offsets})
    assert num_tokens == 60
    shown: dict[tuple[int, int], list[tuple[int, bool]]] = {}
    for window in found:
        for place, (offset, is_widest) in enumerate(zip(window.offsets, window.is_widest, strict=True)):
            shown.setdefault(offset, []).append((min(place, len(window.offsets) - 1 - place), is_widest))
    # The side with less context counts; the last window, which is shorter, loses where that is equal.
    for in_windows in shown.values():
        most = max(context for context, _ in in_windows)
        assert [context for context, is_widest in in_windows if is_widest] == [most]
    assert max(map(len, shown.values())) > 1


def test_a_question_is_cut_to_its_first_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    (question,) = cut_questions(["  the search " * 50], tokenizer, 9)
    assert len(tokenizer(question, add_special_tokens=False)["input_ids"]) == 9
    assert ("the search " * 50).replace("  ", " ").startswith(question[:10])
    assert cut_questions([" \tWho?"], tokenizer, 9) == ["Who?"]


@pytest.mark.parametrize("num_words", [250, 253, 400])
def test_a_question_longer_than_a_window_leaves_room_for_context(
    tokenizer: PreTrainedTokenizerFast, num_words: int
) -> None:
    found = windows_of(tokenizer, "the student " * 300, question="the " * num_words)
    room = 384 - 64 - num_special(tokenizer)
    assert max(len(window.offsets) for window in found) == room


def test_a_window_without_room_for_context_is_refused(bert: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"a window must have room for context, got max_length 5 and \d+ tokens"):
        windows_of(bert, "The student.", max_length=5)


def test_a_context_without_tokens_is_refused(bert: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="a context must have at least one token, got '\\\\x00' for question 1"):
        windows_of(bert, "\x00")


# Answers

CONTEXTS = {
    "leading blanks": ("  \n The search finds a student in 1999.", "1999"),
    "accents": ("Die Suche findet einen Schüler in Köln, der klein ist.", "Schüler"),
    "Chinese": ("北京市在2008年8月8日举办了奥运会。", "2008年8月8日"),
    "Hindi": ("अध्यापक १९४७ में दिल्ली में पढ़ाता था।", "१९४७ में"),
    "Arabic": ("المعلم يجد الطالب في الولايات المتحدة.", "الولايات المتحدة"),
    "Vietnamese": ("Người thầy tìm thấy học trò ở Hà Nội.", "Hà Nội"),
    "first character": ("Köln is a city.", "Köln"),
    "last character": ("The city is Köln", "Köln"),
    "symbols": ("It ships for €5 million (net).", "€5 million"),
    "ligature": ("The ﬁnal student … wins", "student"),
}


@pytest.mark.parametrize(("context", "answer"), CONTEXTS.values(), ids=CONTEXTS)
def test_the_tokens_of_an_answer_lead_back_to_its_text(
    tokenizer: PreTrainedTokenizerFast, context: str, answer: str
) -> None:
    (window,) = windows_of(tokenizer, context, answer)
    first, last = (token - window.first for token in window.answer)
    found = context[window.offsets[first][0] : window.offsets[last][1]]
    # A piece may cross the edge of an answer, so that the smallest span of tokens is larger.
    assert answer in found
    assert len(found) <= len(answer) + 6
    assert found == found.strip()


@pytest.mark.parametrize(("context", "answer"), CONTEXTS.values(), ids=CONTEXTS)
def test_word_pieces_give_every_answer_exactly(bert: PreTrainedTokenizerFast, context: str, answer: str) -> None:
    (window,) = windows_of(bert, context, answer)
    first, last = (token - window.first for token in window.answer)
    assert context[window.offsets[first][0] : window.offsets[last][1]] == answer


def test_a_window_without_the_whole_answer_is_taught_that_there_is_none(bert: PreTrainedTokenizerFast) -> None:
    context = ". " * 30 + "the student wins " + ". " * 30
    found = windows_of(bert, context, "the student wins", max_length=30, doc_stride=5, question="?")
    whole = [window for window in found if window.answer != (0, 0)]
    assert 0 < len(whole) < len(found)
    for window in whole:
        first, last = (token - window.first for token in window.answer)
        assert context[window.offsets[first][0] : window.offsets[last][1]] == "the student wins"
    for window in found:
        text = context[window.offsets[0][0] : window.offsets[-1][1]]
        assert ("the student wins" in text) == (window.answer != (0, 0))


def test_an_unanswerable_question_is_taught_that_there_is_no_answer(bert: PreTrainedTokenizerFast) -> None:
    (window,) = windows_of(bert, "The student wins.")
    assert window.answer == (0, 0)


def test_the_first_of_several_answers_is_taught() -> None:
    answers = Answers(("student", "the student"), (4, 0))
    offsets = [(0, 3), (4, 11), (12, 16)]
    assert tokens_of_answer(offsets, "the student wins", answers) == (1, 1)


def test_the_share_of_answers_that_tokens_give_exactly() -> None:
    window = Window(
        example=0,
        inputs={"input_ids": [0, 1, 2, 3]},
        first=1,
        offsets=((0, 3), (4, 12)),
        is_widest=(True, True),
        answer=(2, 2),
    )
    contexts = ["The students win"] * 3
    exact, inside, beyond = Answers(("students",), (4,)), Answers(("student",), (4,)), Answers(("win",), (13,))
    of_two = [window, replace(window, example=1)]
    assert reachable_share(contexts[:2], [exact, inside], of_two, AnswerRules()) == 0.5
    # An answer in no window cannot be given, and an unanswerable question does not count.
    assert reachable_share(contexts, [exact, beyond, Answers((), ())], [window], AnswerRules()) == 0.5


def test_blanks_around_an_answer_belong_to_no_token() -> None:
    assert tokens_of_answer([(0, 3), (4, 11), (12, 16)], "the student wins", Answers((" student ",), (3,))) == (1, 1)
