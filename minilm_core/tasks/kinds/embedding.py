"""The kind of task that embeds texts, so that those of like meaning are near: similarity and search.

Nothing is learnt from labels: a student learns the embeddings that its teacher, which is not fine-tuned, has for
unlabelled texts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from minilm_core.models.sentence_files import SentenceSettings
from minilm_core.tasks.embeddings.retrieval import GRADES, QUERY, ndcg
from minilm_core.tasks.features import Features
from minilm_core.tasks.kinds.kind import EncodedSplit, Predictions, Split
from minilm_core.tasks.kinds.texts import inputs_of, label_column, labels_in, read_text_column, read_texts
from minilm_core.tasks.labels import Classes, regression_values
from minilm_core.tasks.metrics import label_outcomes
from minilm_core.tasks.tables import Table
from minilm_core.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

NO_EXAMPLE = -1
"""The example of a passage, which is searched for by all queries."""
COSINE_DECIMALS = 6
"""More would be rounding errors of fp32, which batches of other lengths change."""


class EmbeddingKind:
    """A vector of a text, whose cosines with others say how alike texts are."""

    has_classes = False
    learns_without_labels = True

    def classes(self, task: Task, train: Table) -> Classes | None:
        """Returns None: an embedding has no classes."""
        return None

    def read(self, task: Task, table: Table, classes: Classes | None) -> Split:
        """Returns pairs of texts with the number that says how alike they are, or queries with graded passages."""
        if task.is_retrieval:
            return _read_queries(task, table)
        first, second = read_texts(task, table)
        prefix = task.embedding_settings.prefix
        texts = (_prefixed(prefix, first), _prefixed(prefix, second))
        return Split(texts=texts, labels=regression_values(labels_in(task, table)), num_labels=0)

    def read_unlabelled(self, task: Task, table: Table, train: Split | None) -> Split:
        """Returns the texts of all text columns that a table has, each once and as an example of its own."""
        columns = [column for column in task.text_columns if table.has_column(column)] or task.text_columns[:1]
        texts = dict.fromkeys(
            text
            for column in columns
            for text in _prefixed(_prefix_of(task, column), read_text_column(task, table, column))
        )
        return Split(texts=(list(texts),), labels=np.zeros(len(texts)), num_labels=0)

    def has_labels(self, task: Task, table: Table) -> bool:
        """Returns whether a test split has scores; the queries of a retrieval always have."""
        return task.is_retrieval or (table.has_column(label_column(task)) and not labels_in(task, table).are_absent)

    def encode(self, task: Task, split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> EncodedSplit:
        """Returns one feature for each text: those of the first column of all examples, then of the second.

        Those of passages come last; they belong to no example.
        """
        every = [text for column in (*split.texts, split.passages) for text in column]
        features = Features.of(inputs_of((every,), tokenizer, max_length))
        return EncodedSplit(
            split=split,
            features=features,
            targets=np.zeros(len(features), dtype=np.int8),
            example_of=np.append(
                np.tile(np.arange(split.num_examples), len(split.texts)), np.full(len(split.passages), NO_EXAMPLE)
            ),
        )

    def model_class(self) -> Any:
        """Returns the class that loads an encoder with its pooling."""
        from minilm_core.models.embedding_model import EmbeddingModel

        return EmbeddingModel

    def head_settings(self, task: Task, split: Split) -> dict[str, Any]:
        """Returns how the model embeds a text, which its folder then says."""
        embedding = task.embedding_settings
        assert embedding.pooling is not None, "a task that is loaded has the pooling of its teacher"
        assert task.max_length is not None, "a task that is loaded has the length of its texts"
        settings = SentenceSettings(
            pooling=embedding.pooling,
            max_length=task.max_length,
            prefix=embedding.prefix,
            passage_prefix=embedding.of_passages,
        )
        return {"settings": settings}

    def loss(
        self, task: Task, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"]
    ) -> "torch.Tensor":
        """Returns the same as `soft_loss`: there are no labels."""
        return self.soft_loss(outputs, train, rows, temperature=1.0)

    def soft_loss(
        self, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"], temperature: float
    ) -> "torch.Tensor":
        """Returns the mean over texts of 1 minus the cosine of the student's embedding and its teacher's.

        A cosine has no temperature.
        """
        import torch
        from torch.nn import functional

        from minilm_core.tasks.kinds.divergence import teacher_logits

        embeddings = self.logits(outputs)
        of_teacher = teacher_logits(train, rows, embeddings)
        if train.reduction is not None:
            of_teacher = of_teacher @ torch.from_numpy(train.reduction).to(of_teacher)
        return (1 - functional.cosine_similarity(embeddings, of_teacher, dim=-1)).mean()

    def logits(self, outputs: "ModelOutput") -> "torch.Tensor":
        """Returns the embedding of each text."""
        embeddings: torch.Tensor = outputs.sentence_embedding
        return embeddings.float()

    def scores(self, outputs: "ModelOutput") -> list[Float[np.ndarray, "..."]]:
        """Returns the embedding of each text."""
        return list(self.logits(outputs).cpu().numpy())

    def predict(
        self,
        task: Task,
        encoded: EncodedSplit,
        scores: Sequence[Float[np.ndarray, "..."]],
        null_threshold: float | None,
    ) -> Predictions:
        """Returns the score of each pair and the cosine of its embeddings, or the nDCG of each query."""
        embeddings = np.stack(scores)
        if task.is_retrieval:
            queries, passages = np.split(embeddings, [encoded.split.num_examples])
            return Predictions(outcomes=ndcg(queries, passages, list(encoded.split.labels))[:, np.newaxis])
        first, second = np.split(embeddings.astype(np.float64), 2)
        cosines = (first * second).sum(axis=1).round(COSINE_DECIMALS)
        return Predictions(outcomes=label_outcomes(np.asarray(encoded.split.labels), cosines))


def _read_queries(task: Task, table: Table) -> Split:
    embedding = task.embedding_settings
    return Split(
        texts=(_prefixed(embedding.prefix, table.column(QUERY)),),
        labels=[np.array(graded) for graded in table.column(GRADES)],
        num_labels=0,
        passages=_prefixed(embedding.of_passages, table.passages),
    )


def _prefix_of(task: Task, column: str) -> str:
    """Returns what precedes the texts of a column from which nothing but embeddings is learnt."""
    embedding = task.embedding_settings
    return embedding.prefix if column == task.text_columns[0] else embedding.of_passages


def _prefixed(prefix: str, texts: Sequence[str]) -> list[str]:
    return [prefix + text for text in texts]
