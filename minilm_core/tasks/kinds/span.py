"""The kind of task that finds the answer to a question in a context, as in SQuAD and MLQA."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from minilm_core.errors import UserError
from minilm_core.tasks.kinds.kind import EncodedSplit, Predictions, Split
from minilm_core.tasks.kinds.texts import label_column, read_texts
from minilm_core.tasks.labels import Classes
from minilm_core.tasks.spans.answers import choose_answers
from minilm_core.tasks.spans.examples import Answers, read_answers
from minilm_core.tasks.spans.rules import AnswerRules
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.spans.thresholds import best_threshold
from minilm_core.tasks.spans.windows import ContextTokens, Windows, reachable_share, windows
from minilm_core.tasks.tables import Table
from minilm_core.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import ModelOutput


class SpanKind:
    """The part of a context that answers a question."""

    has_classes = False
    learns_without_labels = False

    def classes(self, task: Task, train: Table) -> Classes | None:
        """Returns None: a span has no classes."""
        return None

    def read(self, task: Task, table: Table, classes: Classes | None) -> Split:
        """Returns questions and contexts with their answers."""
        questions, contexts = _read_pairs(task, table)
        return Split(texts=(questions, contexts), labels=read_answers(task, table, contexts), num_labels=2)

    def read_unlabelled(self, task: Task, table: Table, train: Split | None) -> Split:
        """Returns questions and contexts without answers."""
        assert train is not None, "a task with labels has a train split"
        return replace(train, texts=_read_pairs(task, table), labels=[Answers((), ())] * table.num_rows)

    def has_labels(self, task: Task, table: Table) -> bool:
        """Returns whether a test split has answers, which are secret in SQuAD."""
        return table.has_column(label_column(task)) and any(
            value is not None for value in table.column(label_column(task))
        )

    def encode(self, task: Task, split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> EncodedSplit:
        """Returns one feature for each window of each context."""
        questions, contexts = split.texts
        answers, span = list(split.labels), span_settings(task)
        found = Windows.of(windows(questions, contexts, answers, tokenizer, span, max_length))
        tokens = found.tokens
        return EncodedSplit(
            split=split,
            features=found.inputs,
            targets=found.answers,
            example_of=found.examples,
            alignments={"firsts": tokens.firsts, "offsets": tokens.offsets, "is_widest": tokens.is_widest},
        )

    def model_class(self) -> Any:
        """Returns the class of transformers that loads a model with this head."""
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering

    def head_settings(self, task: Task, split: Split) -> dict[str, Any]:
        """Returns the settings of the head in a model's configuration: it has two outputs, start and end."""
        return {"num_labels": 2}

    def loss(
        self, task: Task, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"]
    ) -> "torch.Tensor":
        """Returns the mean of the cross-entropies of the first and the last token, as in BERT, but without padding."""
        import torch
        from torch.nn import functional

        is_padding = _is_padding(train, rows, like=outputs.start_logits)
        starts, ends = torch.from_numpy(np.asarray(train.targets)[rows]).unbind(dim=1)
        each = [
            functional.cross_entropy(logits.float().masked_fill(is_padding, -torch.inf), targets.to(logits.device))
            for logits, targets in ((outputs.start_logits, starts), (outputs.end_logits, ends))
        ]
        return (each[0] + each[1]) / 2

    def soft_loss(
        self, outputs: "ModelOutput", train: EncodedSplit, rows: Int[np.ndarray, " batch"], temperature: float
    ) -> "torch.Tensor":
        """Returns the mean of the divergences of the first and the last token over a window's tokens."""
        from minilm_core.tasks.kinds.divergence import softened_kl, teacher_logits

        logits = self.logits(outputs)
        is_padding = _is_padding(train, rows, like=outputs.start_logits).unsqueeze(1)
        student, teacher = (both.transpose(1, 2) for both in (logits, teacher_logits(train, rows, logits)))
        return softened_kl(student, teacher, temperature, is_padding).mean()

    def logits(self, outputs: "ModelOutput") -> "torch.Tensor":
        """Returns the start and end logits of each window's tokens."""
        import torch

        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1).float()

    def scores(self, outputs: "ModelOutput") -> list[Float[np.ndarray, "..."]]:
        """Returns the start and end logits of each window's tokens, [tokens, 2]."""
        return list(self.logits(outputs).cpu().numpy())

    def predict(
        self,
        task: Task,
        encoded: EncodedSplit,
        scores: Sequence[Float[np.ndarray, "..."]],
        null_threshold: float | None,
    ) -> Predictions:
        """Returns exact match, F1, and the margin of "no answer", of each question.

        In a task with unanswerable questions those whose margin exceeds the threshold are answered with nothing.
        """
        span, (_, contexts), answers = span_settings(task), encoded.split.texts, encoded.split.labels
        rules = answer_rules(task)
        tokens = ContextTokens(**encoded.alignments)
        answerings = choose_answers(contexts, tokens, encoded.example_of, scores, span)
        given = [answering.best for answering in answerings]
        answered = _scored(rules, given, [answer.texts for answer in answers])
        margins = np.array([answering.margin for answering in answerings])
        if not span.has_unanswerable:
            outcomes = np.column_stack([answered, margins])
            return Predictions(outcomes=outcomes, further=_means(answered))
        is_answerable = np.array([any(map(rules.words, answer.texts)) for answer in answers])
        is_empty = np.array([not text for text in given])
        best = {
            name: best_threshold(column, margins, is_answerable, is_empty)
            for name, column in zip(("exact_match", "span_f1"), answered.T, strict=True)
        }
        threshold = best["span_f1"].threshold if null_threshold is None else null_threshold
        unanswered = np.repeat((~is_answerable)[:, np.newaxis], 2, axis=1).astype(np.float64)
        applied = np.where((margins > threshold)[:, np.newaxis], unanswered, answered)
        at_zero = np.where((margins > 0)[:, np.newaxis], unanswered, answered)
        return Predictions(
            outcomes=np.column_stack([applied, margins]),
            further={
                **_means(applied),
                **{f"{name}_at_0": value for name, value in _means(at_zero).items()},
                **{f"best_{name}": found.score for name, found in best.items()},
            },
            null_threshold=threshold,
        )


def answer_rules(task: Task) -> AnswerRules:
    """Returns the rules by which the answers of a span task are compared."""
    span = span_settings(task)
    return AnswerRules(mlqa_language=span.mlqa_language, has_unanswerable=span.has_unanswerable)


def _read_pairs(task: Task, table: Table) -> tuple[list[str], ...]:
    texts = read_texts(task, table)
    for name, column in zip(task.text_columns, texts, strict=True):
        for index, text in enumerate(column):
            if not text.strip():
                raise UserError(
                    f"every {name} of task {task.name} must have text, got {text!r} in {table.location(index)}"
                )
    return texts


def reachable_answers(task: Task, split: Split, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> float:
    """Returns the share of a split's answers, in [0, 1], that token boundaries can give exactly."""
    questions, contexts = split.texts
    answers = list(split.labels)
    found = windows(questions, contexts, answers, tokenizer, span_settings(task), max_length)
    return reachable_share(contexts, answers, found, answer_rules(task))


def _is_padding(train: EncodedSplit, rows: Int[np.ndarray, " batch"], like: "torch.Tensor") -> "torch.Tensor":
    """Returns which tokens of windows are padding, [batch, seq], on the device of their logits.

    It depends on how a batch is split: it is no candidate, unlike in BERT, which pads every window alike.
    """
    import torch

    lengths = torch.from_numpy(train.lengths[rows])
    return (torch.arange(like.shape[1]) >= lengths.unsqueeze(1)).to(like.device)


def span_settings(task: Task) -> SpanSettings:
    """Returns the settings of a span task, which it fills in."""
    assert task.span is not None, "a span task fills in its settings"
    return task.span


def _scored(
    rules: AnswerRules, given: Sequence[str], answers: Sequence[Sequence[str]]
) -> Float[np.ndarray, "questions 2"]:
    """Returns the exact match and the F1 of each given answer."""
    pairs = list(zip(given, answers, strict=True))
    return np.array([(rules.exact_match(text, gold), rules.f1(text, gold)) for text, gold in pairs])


def _means(scores: Float[np.ndarray, "questions 2"]) -> dict[str, float]:
    return dict(zip(("exact_match", "span_f1"), scores.mean(axis=0).tolist(), strict=True))
