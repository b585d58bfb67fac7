"""The interface of a kind of task. No torch at import: reading and checking data must open at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from jaxtyping import Bool, Float, Int

from minilm_core.results.outcomes import Outcomes
from minilm_core.tasks.features import Features
from minilm_core.tasks.labels import Classes
from minilm_core.tasks.ragged import Column, joined, subset_of
from minilm_core.tasks.tables import Table
from minilm_core.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import ModelOutput

IGNORED = -100
"""The target of a token that has none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """The examples of one split in memory."""

    texts: tuple[Sequence[Any], ...]
    """One sequence for each text column: strings, or lists of words for tagging. A text may be empty, as in GLUE."""
    labels: Sequence[Any] | np.ndarray
    """The label of each example. Classification: class numbers, int64; regression: values, float64; multi-label: rows
    of 0 and 1; span: `Answers`; tagging: arrays of tag numbers; embedding: values, float64,
    or of a retrieval arrays of passages' indices and grades. Of unlabelled texts, what
    nothing is learnt from."""
    num_labels: int
    """The number of classes, labels or tags of the task; 1 for a regression, 2 for spans (start and end), 0 for
    embeddings, which have no head."""
    label_names: tuple[str, ...] | None = None
    """Their names in order of their numbers; None where they have no names."""
    passages: Sequence[str] = ()
    """The texts that a retrieval searches in, which are those of all examples."""

    @property
    def num_examples(self) -> int:
        """The number of examples."""
        return len(self.labels)

    def followed_by(self, others: Self) -> Self:
        """Returns these examples and then others of the same task."""
        if isinstance(self.labels, np.ndarray):
            labels: Any = np.concatenate([self.labels, others.labels])
        else:
            labels = [*self.labels, *others.labels]
        texts = tuple([*these, *more] for these, more in zip(self.texts, others.texts, strict=True))
        return replace(self, texts=texts, labels=labels)

    def subset(self, examples: Int[np.ndarray, " some"]) -> Self:
        """Returns some examples, given by their indices."""
        return replace(
            self,
            texts=tuple([texts[i] for i in examples] for texts in self.texts),
            labels=self.labels[examples]
            if isinstance(self.labels, np.ndarray)
            else [self.labels[example] for example in examples],
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedSplit:
    """The model's inputs for a split, without padding. An example has one feature, or several windows."""

    split: Split
    features: Features
    targets: Column
    """What each feature is trained to answer: a label, the first and last token of the answer, or a tag a token."""
    example_of: Int[np.ndarray, " features"]
    """The index of each feature's example."""
    loss_weights: Float[np.ndarray, " classes"] | None = None
    """The factor of each class or label in the loss; None if all have 1."""
    alignments: Mapping[str, Any] = field(default_factory=dict)
    """Columns that lead from the tokens of a feature back to its text, by name; none for kinds that need nothing."""
    teacher_outputs: Column | None = None
    """The soft labels: the fine-tuned teacher's logits for each feature, [outputs], or for each of its tokens,
    [tokens, outputs]; for a regression its value, for an embedding the embedding. None: there are none."""
    reduction: Float[np.ndarray, "outputs width"] | None = None
    """The matrix that takes a teacher's embeddings to the width of the student; None: they have it."""
    is_labelled: Bool[np.ndarray, " features"] | None = None
    """Whether each feature has a label to learn from; None: all have."""

    @property
    def lengths(self) -> Int[np.ndarray, " features"]:
        """The number of tokens of each feature."""
        return self.features.lengths

    def with_unlabelled(self, others: Self) -> Self:
        """Returns the examples of this split, which have labels, and then others of the same task, which have none."""
        outputs = (self.teacher_outputs, others.teacher_outputs)
        return replace(
            self,
            split=self.split.followed_by(others.split),
            features=self.features.followed_by(others.features),
            targets=joined(self.targets, others.targets),
            example_of=np.concatenate([self.example_of, self.split.num_examples + others.example_of]),
            alignments={name: joined(column, others.alignments[name]) for name, column in self.alignments.items()},
            teacher_outputs=None if outputs[0] is None or outputs[1] is None else joined(outputs[0], outputs[1]),
            is_labelled=np.arange(len(self.features) + len(others.features)) < len(self.features),
        )

    def subset(self, examples: Int[np.ndarray, " some"]) -> Self:
        """Returns some examples, given by their indices in rising order, with all of their features."""
        rows = np.flatnonzero(np.isin(self.example_of, examples))
        return replace(
            self,
            split=self.split.subset(examples),
            features=self.features.subset(rows),
            targets=subset_of(self.targets, rows),
            example_of=np.searchsorted(examples, self.example_of[rows]),
            alignments={name: subset_of(column, rows) for name, column in self.alignments.items()},
            teacher_outputs=None if self.teacher_outputs is None else subset_of(self.teacher_outputs, rows),
            is_labelled=None if self.is_labelled is None else self.is_labelled[rows],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """The outcome of every example of a split."""

    outcomes: Outcomes
    further: Mapping[str, float] = field(default_factory=dict)
    """Scores beside the main metric, by name."""
    null_threshold: float | None = None
    """The threshold of "no answer" that was chosen on these examples, or applied to them."""


class Kind(Protocol):
    """What differs between kinds of task."""

    has_classes: bool
    """Whether the train split determines the classes of the other splits."""
    learns_without_labels: bool
    """Whether nothing but the outputs of a teacher is learnt, which is not fine-tuned. The train split is then read by
    `read_unlabelled`, and needs the teacher's outputs whether or not there are soft labels."""

    def classes(self, task: Task, train: Table) -> Classes | None:
        """Returns the classes, labels or tags of a task, which the train split determines; None if it has none.

        Raises:
            UserError: if a label of the train split breaks a rule; it names the first such example.
        """

    def read(self, task: Task, table: Table, classes: Classes | None) -> Split:
        """Returns the examples of a split.

        Raises:
            UserError: if a text or label breaks a rule; it names the first such example.
        """

    def read_unlabelled(self, task: Task, table: Table, train: Split | None) -> Split:
        """Returns texts without labels, as further examples for the train split; what stands for a label is empty.

        The train split is None where it is itself read so.

        Raises:
            UserError: if a text breaks a rule; it names the first such example.
        """

    def has_labels(self, task: Task, table: Table) -> bool:
        """Returns whether a test split has labels, which are secret in some benchmarks."""

    def encode(self, task: Task, split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> EncodedSplit:
        """Returns the model's inputs of each example, of at most `max_length` tokens each."""

    def model_class(self) -> Any:
        """Returns the class of transformers that loads a model with the head of this kind."""

    def head_settings(self, task: Task, split: Split) -> dict[str, Any]:
        """Returns the settings of the head in a model's configuration."""

    def loss(
        self, task: Task, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"]
    ) -> "torch.Tensor":
        """Returns the mean loss of features, the same whatever micro-batches a batch is split into."""

    def logits(self, outputs: "ModelOutput") -> "torch.Tensor":
        """Returns the outputs for each feature in fp32, [batch, outputs], or for its tokens, [batch, seq, outputs]."""

    def soft_loss(
        self, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"], temperature: float
    ) -> "torch.Tensor":
        """Returns the mean distance of features from the teacher's outputs, zero where they are the student's.

        Like `loss` it is the same whatever micro-batches a batch is split into. Weights of classes are left out: the
        teacher has learnt with them.
        """

    def scores(self, outputs: "ModelOutput") -> list[Float[np.ndarray, "..."]]:
        """Returns what is kept of a forward pass for each of its features, padding included."""

    def predict(
        self,
        task: Task,
        encoded: EncodedSplit,
        scores: Sequence[Float[np.ndarray, "..."]],
        null_threshold: float | None,
    ) -> Predictions:
        """Returns the outcome of each example from the scores of all features.

        Args:
            task: The task.
            encoded: The split, whose features' scores are given in their order.
            scores: What `scores` kept of each feature.
            null_threshold: The threshold of "no answer" to apply; None: the best one for these examples is chosen.
        """
