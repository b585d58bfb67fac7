"""How two answers are compared: the normalisation of SQuAD's and MLQA's official scripts, exact match and F1.

Source: evaluate-v2.0.py of SQuAD 2.0 and mlqa_evaluation_v1.py of MLQA, whose rules are written anew here.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ARTICLES = {
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    # In MLQA's pattern only the bare letters can match, so that the article goes wherever they stand, also in a word.
    "ar": "ال",
    "hi": None,
    "zh": None,
}
MLQA_LANGUAGES = tuple(_ARTICLES)
"""The languages that MLQA has rules for; the language is that of the context."""
_CHINESE_CHARACTER = re.compile(r"([一-龥])")
_ASCII_PUNCTUATION = frozenset(string.punctuation)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRules:
    """The rules by which answers are compared."""

    mlqa_language: str | None = None
    """The language of MLQA's rules; None: SQuAD's rules, for any language."""
    has_unanswerable: bool = False
    """Whether an empty answer can be right, as in SQuAD 2.0, so that two empty answers have an F1 of 1."""

    def words(self, answer: str) -> list[str]:
        """Returns the words of an answer that are compared."""
        text = "".join(character for character in answer.lower() if not self._is_punctuation(character))
        articles = _ARTICLES[self.mlqa_language or "en"]
        if articles is not None:
            text = re.sub(articles, " ", text)
        if self.mlqa_language == "zh":
            text = _CHINESE_CHARACTER.sub(r" \1 ", text)
        return text.split()

    def exact_match(self, prediction: str, answers: Sequence[str]) -> float:
        """Returns 1 if the prediction equals one of the answers, else 0."""
        predicted = self.words(prediction)
        return float(any(predicted == self.words(answer) for answer in self._gold(answers)))

    def f1(self, prediction: str, answers: Sequence[str]) -> float:
        """Returns the largest F1 over the answers, in [0, 1]: that of the words that the prediction shares with it."""
        predicted = self.words(prediction)
        return max(self._f1(predicted, self.words(answer)) for answer in self._gold(answers))

    def _gold(self, answers: Sequence[str]) -> Sequence[str]:
        """Returns the answers that count; the empty answer if there is none."""
        if self.has_unanswerable:
            answers = [answer for answer in answers if self.words(answer)]
        return answers or [""]

    def _f1(self, predicted: list[str], gold: list[str]) -> float:
        if not predicted or not gold:
            return float(self.has_unanswerable and predicted == gold)
        num_shared = (Counter(predicted) & Counter(gold)).total()
        return 2 * num_shared / (len(predicted) + len(gold))

    def _is_punctuation(self, character: str) -> bool:
        if character in _ASCII_PUNCTUATION:
            return True
        return self.mlqa_language is not None and unicodedata.category(character).startswith("P")
