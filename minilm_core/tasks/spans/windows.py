"""Windows of a question and a part of its context, with the place of every token in the context. No torch.

The windows of a long context begin `doc_stride` tokens after one another, as in BERT's run_squad. The overlap of the
tokenizers library is another quantity, and its truncation fails on questions as long as a window; so pairs are
tokenised whole and cut here.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Int

from minilm_core.errors import UserError
from minilm_core.tasks.features import INPUT_DTYPES, TOKENISED_AT_ONCE, Features
from minilm_core.tasks.ragged import Ragged, RaggedBuilder
from minilm_core.tasks.spans.examples import Answers
from minilm_core.tasks.spans.rules import AnswerRules
from minilm_core.tasks.spans.settings import SpanSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One window as the tokenizer gives it: the model's inputs, and the place of its context tokens in the context."""

    example: int
    """The index of the question in its split."""
    inputs: dict[str, list[int]]
    first: int
    """The index in the window of its first token of the context."""
    offsets: tuple[tuple[int, int], ...]
    """The beginning and end in the context, in characters, of each of its context tokens, without outer blanks."""
    is_widest: tuple[bool, ...]
    """Whether no other window shows more context around the token, on the side where it shows less; an answer begins
    only at such a token, so that no two windows propose the same answer."""
    answer: tuple[int, int]
    """The indices in the window of the answer's first and last token; both that of the first token, which stands for
    "no answer", where the window does not contain the whole answer."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ContextTokens:
    """The context tokens of many windows as arrays; `Window` says what its fields of these names are."""

    firsts: Int[np.ndarray, " windows"]
    offsets: Ragged
    """One row of pairs for each window."""
    is_widest: Ragged


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """Many windows as arrays, a fraction of the memory of as many `Window`s."""

    inputs: Features
    examples: Int[np.ndarray, " windows"]
    answers: Int[np.ndarray, "windows 2"]
    tokens: ContextTokens

    @classmethod
    def of(cls, found: Iterable[Window]) -> Self:
        """Collects windows, of which no more than one is in memory if they are found one by one."""
        inputs = RaggedBuilder(INPUT_DTYPES)
        tokens = RaggedBuilder({"offsets": (np.int32, 2), "is_widest": np.bool_})
        numbers = []
        for window in found:
            inputs.append(window.inputs)
            tokens.append({"offsets": window.offsets, "is_widest": window.is_widest})
            numbers.append((window.example, window.first, *window.answer))
        examples, firsts, *answers = np.array(numbers).T
        return cls(
            inputs=Features(inputs.finish()),
            examples=examples,
            answers=np.column_stack(answers),
            tokens=ContextTokens(firsts=firsts, **tokens.finish()),
        )


def windows(
    questions: Sequence[str],
    contexts: Sequence[str],
    answers: Sequence[Answers],
    tokenizer: "PreTrainedTokenizerBase",
    span: SpanSettings,
    max_length: int,
) -> Iterator[Window]:
    """Yields the windows of each question, in order.

    Raises:
        UserError: if a window has no room for context, or a context has no token.
    """
    for start in range(0, len(questions), TOKENISED_AT_ONCE):
        part = slice(start, start + TOKENISED_AT_ONCE)
        cut = cut_questions(questions[part], tokenizer, span.max_question_tokens)
        pairs = tokenizer(cut, list(contexts[part]), return_offsets_mapping=True, truncation=False, verbose=False)
        for index in range(len(cut)):
            yield from _windows_of(start + index, pairs, index, contexts, answers, span, max_length)


def reachable_share(
    contexts: Sequence[str], answers: Sequence[Answers], found: Iterable[Window], rules: AnswerRules
) -> float:
    """Returns the share of answers, in [0, 1], that tokens give exactly; no model with this tokenizer can do better.

    A piece may cross the edge of an answer, as in Korean, whose particles end words. Only the first answer of each
    question counts, and only answers that lie within a window.

    Args:
        contexts: The context of each question.
        answers: The answers of each question.
        found: The windows of all questions.
        rules: The rules by which answers are compared.
    """
    reached = set()
    for window in found:
        index, of_question = window.example, answers[window.example].texts[:1]
        if of_question and window.answer != (0, 0):
            first, last = (window.offsets[token - window.first] for token in window.answer)
            if rules.exact_match(contexts[index][first[0] : last[1]], of_question):
                reached.add(index)
    num_answerable = sum(bool(of_question.texts) for of_question in answers)
    return len(reached) / num_answerable if num_answerable else 1.0


def cut_questions(questions: Sequence[str], tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> list[str]:
    """Returns each question without its leading blanks and what follows its first `max_tokens` tokens."""
    stripped = [question.lstrip() for question in questions]
    encoded = tokenizer(stripped, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [offsets[max_tokens - 1][1] if len(offsets) > max_tokens else None for offsets in encoded["offset_mapping"]]
    return [question[:end] for question, end in zip(stripped, ends, strict=True)]


def text_offsets(offsets: Sequence[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Returns the beginning and end in a text of each token, without blanks and with the marks of its last character.

    Tokenizers without accents drop marks, as those of Hindi vowels, so that no token's own offsets contain them.
    """
    found = [trimmed(offset, text) for offset in offsets]
    for index, (start, end) in enumerate(found):
        limit = found[index + 1][0] if index + 1 < len(found) else len(text)
        while start < end < limit and unicodedata.category(text[end]).startswith("M"):
            end += 1
        found[index] = (start, end)
    return found


def trimmed(offset: tuple[int, int], text: str) -> tuple[int, int]:
    """Returns a token's beginning and end without blanks, which some tokenizers count as part of a token."""
    start, end = offset
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def tokens_of_answer(offsets: Sequence[tuple[int, int]], context: str, answers: Answers) -> tuple[int, int] | None:
    """Returns the indices of the first answer's first and last token among a context's tokens; None without one."""
    if not answers.texts:
        return None
    # Blanks at the ends of an answer belong to no token.
    start, end = trimmed((answers.starts[0], answers.starts[0] + len(answers.texts[0])), context)
    inside = [i for i, (begins, ends) in enumerate(offsets) if begins < end and ends > start and begins < ends]
    return (inside[0], inside[-1]) if inside else None


def _windows_of(
    example: int,
    pairs: Any,
    index: int,
    contexts: Sequence[str],
    answers: Sequence[Answers],
    span: SpanSettings,
    max_length: int,
) -> Iterator[Window]:
    context = contexts[example]
    of_context = [i for i, sequence in enumerate(pairs.sequence_ids(index)) if sequence == 1]
    if not of_context:
        raise UserError(f"a context must have at least one token, got {context[:40]!r} for question {example + 1}")
    first, after = of_context[0], of_context[-1] + 1
    inputs = {name: values[index] for name, values in pairs.items() if name != "offset_mapping"}
    num_others = len(inputs["input_ids"]) - (after - first)
    room = max_length - num_others
    if room < 1:
        raise UserError(
            f"a window must have room for context, got max_length {max_length} and {num_others} tokens of question "
            f"{example + 1} and of separators"
        )
    offsets = text_offsets(pairs["offset_mapping"][index][first:after], context)
    answer = tokens_of_answer(offsets, context, answers[example])
    parts = list(_parts(len(offsets), room, span.doc_stride))
    widest = _widest(parts, len(offsets))
    for number, (start, end) in enumerate(parts):
        has_answer = answer is not None and start <= answer[0] and answer[1] < end
        yield Window(
            example=example,
            inputs={
                name: values[:first] + values[first + start : first + end] + values[after:]
                for name, values in inputs.items()
            },
            first=first,
            offsets=tuple(offsets[start:end]),
            is_widest=tuple((widest[start:end] == number).tolist()),
            answer=(first + answer[0] - start, first + answer[1] - start) if answer and has_answer else (0, 0),
        )


def _parts(num_tokens: int, room: int, doc_stride: int) -> Iterator[tuple[int, int]]:
    """Yields the beginning and end of each window's part of the context, in tokens."""
    start = 0
    while start + room < num_tokens:
        yield start, start + room
        start += min(room, doc_stride)
    yield start, num_tokens


def _widest(parts: Sequence[tuple[int, int]], num_tokens: int) -> Int[np.ndarray, " tokens"]:
    """Returns the number of the part that shows most context around each token; the first of several.

    It is the side with less context that counts and, as in BERT, a longer part counts as a little wider.
    """
    tokens = np.arange(num_tokens)
    context = [
        np.where(
            (start <= tokens) & (tokens < end),
            np.minimum(tokens - start, end - 1 - tokens) + 0.01 * (end - start),
            -np.inf,
        )
        for start, end in parts
    ]
    return np.asarray(np.argmax(context, axis=0))
