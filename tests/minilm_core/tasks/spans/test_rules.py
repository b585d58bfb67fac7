"""Tests of the comparison of answers with worked cases, whose figures agree with the official scripts."""

import pytest

from minilm_core.tasks.spans.rules import MLQA_LANGUAGES, AnswerRules

SQUAD_2 = AnswerRules(has_unanswerable=True)

WORKED_CASES = [
    ("en", "The U.S. Congress", "US Congress", 1, 1, 1),
    ("en", "in 1999", "1999", 0, 2 / 3, 2 / 3),
    ("en", "the", "the", 1, 0, 1),
    ("en", "€5 million", "5 million", 0, 1 / 2, 1 / 2),
    ("es", "los años 90", "años 90 del siglo XX", 0, 4 / 7, 1 / 2),
    ("es", "la «Casa Blanca»", "Casa Blanca", 1, 1, 0),
    ("de", "im Jahr 1871", "1871", 0, 1 / 2, 1 / 2),
    ("vi", "của Hà Nội", "Hà Nội", 1, 1, 4 / 5),
    ("ar", "الولايات المتحدة", "ولايات متحدة", 1, 1, 0),
    ("ar", "مالطا", "طا", 0, 2 / 3, 0),
    ("hi", "१९४७ में।", "१९४७ में", 1, 1, 1 / 2),
    ("zh", "北京市", "北京", 0, 4 / 5, 0),
    ("zh", "2008年8月8日", "2008年", 0, 1 / 2, 0),
    ("zh", "《红楼梦》", "红楼梦", 1, 1, 0),
]


@pytest.mark.parametrize(("language", "prediction", "answer", "exact_match", "mlqa_f1", "squad_f1"), WORKED_CASES)
def test_worked_cases(
    language: str, prediction: str, answer: str, exact_match: float, mlqa_f1: float, squad_f1: float
) -> None:
    mlqa = AnswerRules(mlqa_language=language)
    assert mlqa.exact_match(prediction, [answer]) == exact_match
    assert mlqa.f1(prediction, [answer]) == pytest.approx(mlqa_f1)
    assert SQUAD_2.f1(prediction, [answer]) == pytest.approx(squad_f1)


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        (None, "1,000", ["1000"]),
        (None, "10-20", ["1020"]),
        (None, "U.S.", ["us"]),
        (None, "$5", ["5"]),
        (None, "A  Mouse\tand an   Owl", ["mouse", "and", "owl"]),
        (None, "theatre of the other", ["theatre", "of", "other"]),
        (None, "Straße", ["straße"]),
        ("de", "die Straße der Stadt", ["straße", "stadt"]),
        ("de", "kein Haus", ["kein", "haus"]),
        ("es", "lo al del unos", ["lo", "al", "del"]),
        ("vi", "những chiếc thuyền", ["thuyền"]),
        # The article in NFD is not the one in the rule.
        ("vi", "la\u0300 đây", ["la\u0300", "đây"]),
        ("zh", "iPhone手机", ["iphone", "手", "机"]),
        # A character beyond the range that is split.
        ("zh", "\u9fa6\u9fa6", ["\u9fa6\u9fa6"]),
        ("hi", "दिल्ली।", ["दिल्ली"]),
    ],
)
def test_the_words_that_are_compared(language: str | None, text: str, words: list[str]) -> None:
    assert AnswerRules(mlqa_language=language).words(text) == words


def test_the_best_of_several_answers_counts() -> None:
    rules = AnswerRules()
    assert rules.f1("blue car", ["red", "the blue sky"]) == pytest.approx(0.5)
    assert rules.exact_match("blue car", ["red", "Blue car!"]) == 1.0


def test_words_that_occur_twice_are_shared_twice_only_if_both_have_them() -> None:
    assert AnswerRules().f1("go go", ["go"]) == pytest.approx(2 / 3)
    assert AnswerRules().f1("go go", ["go stop go"]) == pytest.approx(4 / 5)


def test_an_unanswerable_question_is_right_only_without_an_answer() -> None:
    for score in (SQUAD_2.exact_match, SQUAD_2.f1):
        assert (score("", []), score("something", [])) == (1.0, 0.0)


def test_a_gold_answer_without_words_does_not_make_a_question_of_squad_2_answerable() -> None:
    assert SQUAD_2.f1("", ["the", "!"]) == 1.0
    assert SQUAD_2.f1("", ["the", "cat"]) == 0.0


def test_an_unanswered_question_of_squad_1_scores_nothing() -> None:
    assert (AnswerRules().exact_match("", ["cat"]), AnswerRules().f1("", ["cat"])) == (0.0, 0.0)


def test_mlqa_has_rules_for_its_seven_languages() -> None:
    assert sorted(MLQA_LANGUAGES) == ["ar", "de", "en", "es", "hi", "vi", "zh"]
