"""The cut of a study's vocabulary, once a study: its tokens are counted, and its tokenizer is cut and checked."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from minilm_core.atomic import atomic_folder
from minilm_core.corpus.packed import PackedCorpus
from minilm_core.models.encoders import base_config, load_encoder_config
from minilm_core.models.tokenizers import load_tokenizer
from minilm_core.models.vocabulary.comparison import compare_tokenizers
from minilm_core.models.vocabulary.tokenizers import Counts, choose_tokens, save_cut_tokenizer
from search.study.progress import Progress
from search.worker.node import NodeContext

STAGE = "cutting the vocabulary"
ROWS_AT_ONCE = 16384
"""Rows of the corpus that are counted at once."""
TEXTS_COMPARED = 1000
"""Rows of the corpus, and texts of each column of each task, that the two tokenizers are compared on."""
CHARACTERS_COMPARED = 1000
"""The characters of a task's text that are compared."""


def cut_vocabulary(node: NodeContext, corpus_folder: Path) -> Iterator[Progress]:
    """Writes the students' tokenizer and the map of its ids into the study's folder, unless they are there.

    Args:
        node: The study.
        corpus_folder: The folder of the packed corpus.

    Raises:
        UserError: if the tokenizer cannot be cut, the vocabulary is too small for the characters that occur, or the cut
            tokenizer does not give the kept tokens that the teacher's gives.
    """
    folder = node.paths.vocabulary
    if folder.is_dir():
        return
    yield Progress(stage=STAGE, step=0, num_steps=1)
    of_teacher = load_encoder_config(node.teacher_folder)
    base = base_config(of_teacher, node.config.student_family, embedding_size=node.config.embedding_size)
    configs = [of_teacher.to_dict(), base.to_dict()]
    corpus = PackedCorpus.load(corpus_folder)
    counts = _counts(node, corpus, of_teacher.vocab_size)
    vocabulary = choose_tokens(node.teacher_folder, configs, counts, node.config.max_vocabulary_size)
    with atomic_folder(folder) as scratch:
        save_cut_tokenizer(node.teacher_folder, vocabulary, scratch)
        compare_tokenizers(node.teacher_folder, scratch, vocabulary, list(_sample(node, corpus)))
    yield Progress(stage=STAGE, step=1, num_steps=1)


def _counts(node: NodeContext, corpus: PackedCorpus, num_full: int) -> Counts:
    """Returns how often each token occurs in the corpus, and in the texts that models are fine-tuned on."""
    counts = np.zeros(num_full, dtype=np.int64)
    for start in range(0, corpus.num_rows, ROWS_AT_ONCE):
        rows = corpus.rows(np.arange(start, min(start + ROWS_AT_ONCE, corpus.num_rows)))
        counts += np.bincount(rows.ravel(), minlength=num_full)
    for task in node.config.tasks:
        data = node.task_data(task, node.teacher_folder)
        for split in (data.train, data.unlabelled):
            if split is not None:
                ids = np.concatenate(list(split.features.inputs["input_ids"]))
                counts += np.bincount(ids, minlength=num_full)
    return counts


def _sample(node: NodeContext, corpus: PackedCorpus) -> Iterator[str]:
    """Yields texts from all over the corpus, as the packed tokens spell them, and from all over each task."""
    tokenizer = load_tokenizer(node.teacher_folder)
    rows = corpus.rows(_evenly_spaced(corpus.num_rows))
    yield from tokenizer.batch_decode(rows, skip_special_tokens=True)
    for task in node.config.tasks:
        for column in node.task_data(task, node.teacher_folder).train.split.texts:
            for number in _evenly_spaced(len(column)):
                # The texts of tagging are lists of words.
                text = column[number] if isinstance(column[number], str) else " ".join(column[number])
                yield text[:CHARACTERS_COMPARED]


def _evenly_spaced(count: int) -> Int[np.ndarray, " some"]:
    num_compared = min(count, TEXTS_COMPARED)
    return np.arange(num_compared) * count // num_compared
