"""The kind of task that tags every word, as in the recognition of named entities. Extra: tagging."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from minilm_core.errors import UserError
from minilm_core.tasks.features import INPUT_DTYPES, Features
from minilm_core.tasks.kinds.kind import IGNORED, EncodedSplit, Predictions, Split
from minilm_core.tasks.kinds.texts import label_column, labels_in, named_outputs, output_names
from minilm_core.tasks.labels import Classes, classes_in_lists, numbers_in_lists
from minilm_core.tasks.ragged import Ragged, RaggedBuilder
from minilm_core.tasks.tables import Table
from minilm_core.tasks.tagging.alignment import NO_TOKEN, encode_words
from minilm_core.tasks.tagging.entities import OUTSIDE, check_tags, entity_counts, require_seqeval
from minilm_core.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import ModelOutput


class TaggingKind:
    """A tag of every word."""

    has_classes = True
    learns_without_labels = False

    def classes(self, task: Task, train: Table) -> Classes | None:
        """Returns the tags that the task or its data set names, or those in its train split."""
        require_seqeval()
        classes = classes_in_lists(labels_in(task, train), num_labels=task.num_labels)
        if classes.names is None:
            raise UserError(f"tags of task {task.name} must have names, got numbers; give label_names")
        check_tags(classes.names, task.name)
        return classes

    def read(self, task: Task, table: Table, classes: Classes | None) -> Split:
        """Returns words with the numbers of their tags."""
        assert classes is not None, "a tagging task has tags"
        sentences = _read_sentences(task, table)
        tags = numbers_in_lists(labels_in(task, table), classes)
        for index, (words, of_words) in enumerate(zip(sentences, tags, strict=True)):
            if len(words) != len(of_words):
                raise UserError(
                    f"every word of task {task.name} must have a tag, "
                    f"got {len(words)} words and {len(of_words)} tags in {table.location(index)}"
                )
        return Split(texts=(sentences,), labels=tags, num_labels=classes.count, label_names=classes.names)

    def read_unlabelled(self, task: Task, table: Table, train: Split | None) -> Split:
        """Returns words with the first tag for each."""
        assert train is not None, "a task with labels has a train split"
        sentences = _read_sentences(task, table)
        tags = [np.zeros(len(words), dtype=np.int64) for words in sentences]
        return replace(train, texts=(sentences,), labels=tags)

    def has_labels(self, task: Task, table: Table) -> bool:
        """Returns whether a test split has tags."""
        return table.has_column(label_column(task)) and not labels_in(task, table).are_absent

    def encode(self, task: Task, split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> EncodedSplit:
        """Returns one feature for each sentence; the tag of a word is that of its first token."""
        (sentences,) = split.texts
        inputs, words = RaggedBuilder(INPUT_DTYPES), RaggedBuilder({})
        encoded = encode_words(sentences, tokenizer, max_length)
        for (of_sentence, firsts), tags in zip(encoded, split.labels, strict=True):
            targets = [IGNORED] * len(of_sentence["input_ids"])
            for token, tag in zip(firsts, tags, strict=True):
                if token != NO_TOKEN:
                    targets[token] = tag
            inputs.append(of_sentence)
            words.append({"targets": targets, "first_tokens": firsts})
        columns = words.finish()
        return EncodedSplit(
            split=split,
            features=Features(inputs.finish()),
            targets=columns["targets"],
            example_of=np.arange(split.num_examples),
            alignments={"first_tokens": columns["first_tokens"]},
        )

    def model_class(self) -> Any:
        """Returns the class of transformers that loads a model with this head."""
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def head_settings(self, task: Task, split: Split) -> dict[str, Any]:
        """Returns the settings of the head in a model's configuration."""
        return named_outputs(split)

    def loss(
        self, task: Task, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"]
    ) -> "torch.Tensor":
        """Returns the mean over sentences of the mean cross-entropy of a sentence's words."""
        import torch
        from torch.nn import functional

        logits = self.logits(outputs)
        targets = torch.from_numpy(_targets(train, rows, logits.shape[1])).to(logits.device)
        each = functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
        return _mean_over_words(each, targets)

    def soft_loss(
        self, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"], temperature: float
    ) -> "torch.Tensor":
        """Returns the mean over sentences of the mean divergence of the softened tags of a sentence's words."""
        import torch

        from minilm_core.tasks.kinds.divergence import softened_kl, teacher_logits

        logits = self.logits(outputs)
        targets = torch.from_numpy(_targets(train, rows, logits.shape[1])).to(logits.device)
        each = softened_kl(logits, teacher_logits(train, rows, logits), temperature)
        return _mean_over_words(each.masked_fill(targets == IGNORED, 0), targets)

    def logits(self, outputs: "ModelOutput") -> "torch.Tensor":
        """Returns the logits of each token's tags."""
        logits: torch.Tensor = outputs.logits
        return logits.float()

    def scores(self, outputs: "ModelOutput") -> list[Float[np.ndarray, "..."]]:
        """Returns the number of each token's tag, [tokens]; NaN where a logit is not finite."""
        logits = self.logits(outputs)
        # The tag alone is kept, because logits of long splits would take gigabytes.
        tags = logits.argmax(dim=-1).float().masked_fill(~logits.isfinite().all(dim=-1), float("nan"))
        return list(tags.cpu().numpy())

    def predict(
        self,
        task: Task,
        encoded: EncodedSplit,
        scores: Sequence[Float[np.ndarray, "..."]],
        null_threshold: float | None,
    ) -> Predictions:
        """Returns how many entities of each sentence are found, predicted, and there. Words without a token have O."""
        names, first_tokens = output_names(encoded.split), encoded.alignments["first_tokens"]
        counts = []
        for tags, firsts, of_tokens in zip(encoded.split.labels, first_tokens, scores, strict=True):
            predicted = [OUTSIDE if token == NO_TOKEN else names[int(of_tokens[token])] for token in firsts]
            counts.append(entity_counts(predicted, [names[tag] for tag in tags]))
        return Predictions(outcomes=np.array(counts, dtype=np.float64))


def _targets(train: EncodedSplit, rows: Int[np.ndarray, " batch"], length: int) -> Int[np.ndarray, "batch seq"]:
    """Returns the tag of each token that begins a word, and `IGNORED` for the others."""
    assert isinstance(train.targets, Ragged), "a tagging task has a target for each token"
    return train.targets.padded(rows, IGNORED, length)


def _mean_over_words(each: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Returns the mean over sentences of the mean over their words of what is zero for all other tokens.

    It is not the mean over all words of a micro-batch, which would depend on how a batch is split.
    """
    num_words = (targets != IGNORED).sum(dim=1).clamp(min=1)
    return (each.sum(dim=1) / num_words).mean()


def _read_sentences(task: Task, table: Table) -> list[list[str]]:
    (column,) = task.text_columns
    sentences = table.column(column)
    for index, words in enumerate(sentences):
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise UserError(
                f"every text of task {task.name} must be a list of words, got {str(words)[:60]} for {column} "
                f"in {table.location(index)}"
            )
    return sentences
