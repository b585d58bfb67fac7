"""Tests of reading real answers and tags, in the column layout of the Hub."""

from minilm_core.tasks.benchmarks import named_evaluation_set, named_task
from minilm_core.tasks.kinds.span import SpanKind, reachable_answers
from minilm_core.tasks.kinds.tagging import TaggingKind
from minilm_core.tasks.splits import load_splits
from minilm_core.tasks.task import SplitRole
from tests.minilm_core.tasks.tokenizers import word_piece
from tests.paths import SHARED_DATA, needs_shared_data

pytestmark = needs_shared_data


def test_real_sentences_have_the_tags_of_wikiann() -> None:
    files = {role: f"en_{role}.parquet" for role in SplitRole}
    german = named_evaluation_set("wikiann-de", path="wikiann", file="de_test.parquet")
    task = named_task("wikiann-en", path="wikiann", files=files, max_train_examples=500, evaluation_sets=(german,))
    splits = load_splits(task, SHARED_DATA)
    assert splits.test is not None
    sizes = [split.num_examples for split in (splits.train, splits.validation, splits.test)]
    assert sizes == [500, 10_000, 10_000]
    of_german = splits.evaluation_sets["wikiann-de"]
    assert splits.train.label_names == of_german.label_names
    assert splits.train.label_names == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
    encoded = TaggingKind().encode(task, splits.train, word_piece(), 256)
    tagged = [int((targets >= 0).sum()) for targets in encoded.targets]
    assert tagged == [len(words) for words in splits.train.texts[0]]


def test_real_answers_stand_in_their_contexts_and_most_can_be_given_by_tokens() -> None:
    files = {SplitRole.TRAIN: "train.parquet", SplitRole.VALIDATION: "validation.parquet"}
    german = named_evaluation_set("mlqa-de", path="mlqa", file="de.parquet")
    task = named_task(
        "squad_v2", path="squad_v2_split", files=files, max_validation_examples=300, evaluation_sets=(german,)
    )
    splits = load_splits(task, SHARED_DATA)
    assert (splits.train.num_examples, splits.validation.num_examples, splits.test) == (12_449, 300, None)
    assert sum(not answers.texts for answers in splits.train.labels) == 4019
    of_german = splits.evaluation_sets["mlqa-de"]
    assert all(len(answers.texts) == 1 for answers in of_german.labels)
    for split, scored in ((splits.validation, task), (of_german, task.scored_on(german))):
        encoded = SpanKind().encode(task, split, word_piece(), 384)
        assert {int(example) for example in encoded.example_of} == set(range(split.num_examples))
        assert 0.95 < reachable_answers(scored, split, word_piece(), 384) <= 1.0
