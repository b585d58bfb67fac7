"""Scores a model on every example of a task, whatever runs the model: PyTorch in training, or an export."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minilm_core.errors import NonFiniteLossError
from minilm_core.results.outcomes import Outcomes
from minilm_core.results.records import Evaluation, TaskResult
from minilm_core.settings.schedules import FinetuningSchedule
from minilm_core.tasks.kinds.kind import EncodedSplit, Kind, Predictions
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.metrics import bootstrap_interval, metric_named, percentile_interval, resampled_scores
from minilm_core.tasks.task import Task
from minilm_core.training.devices import autocast, resolve_precision
from minilm_core.training.optimisation import unwrapped

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """A task's splits, tokenised without padding."""

    task: Task
    train: EncodedSplit
    validation: EncodedSplit
    test: EncodedSplit | None
    evaluation_sets: Mapping[str, EncodedSplit] = field(default_factory=dict)
    """The task's further sets, by name."""
    unlabelled: EncodedSplit | None = None
    """Texts that only a teacher's outputs are learnt for, with soft labels; None: there are none."""
    pad_token_id: int

    @property
    def kind(self) -> Kind:
        """What the task's kind does with its data."""
        return kind_of(self.task)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEvaluation:
    """A model's scores on a task, and the outcome of every example that they are computed from."""

    result: TaskResult
    outcomes: Mapping[str, Outcomes]
    """By the name of the split, validation or test, or of the evaluation set."""


def evaluate(model: nn.Module, data: TaskData, schedule: FinetuningSchedule) -> TaskEvaluation:
    """Returns the model's scores and outcomes on the validation split, the test split and the evaluation sets.

    The threshold of "no answer" is chosen on the validation split and applied to the others.

    Raises:
        NonFiniteLossError: if the model's output for an example is infinite or NaN.
    """

    def predictions(task: Task, split: EncodedSplit, null_threshold: float | None = None) -> Predictions:
        return predict_with(model, task, split, schedule, pad_token_id=data.pad_token_id, null_threshold=null_threshold)

    validation = predictions(data.task, data.validation)
    found = {"validation": validation}
    if data.test is not None:
        found["test"] = predictions(data.task, data.test, validation.null_threshold)
    for other in data.task.evaluation_sets:
        scored = data.task.scored_on(other)
        found[other.name] = predictions(scored, data.evaluation_sets[other.name], validation.null_threshold)
    evaluations = {name: _evaluation(data.task, of_split) for name, of_split in found.items()}
    result = TaskResult(
        metric=data.task.metric,
        validation=evaluations["validation"],
        test=evaluations.get("test"),
        evaluation_sets={other.name: evaluations[other.name] for other in data.task.evaluation_sets},
        null_threshold=validation.null_threshold,
    )
    return TaskEvaluation(result=result, outcomes={name: of_split.outcomes for name, of_split in found.items()})


def mean_over_seeds(evaluations: Sequence[TaskEvaluation]) -> TaskResult:
    """Returns the mean result of a model that several seeds fine-tuned on a task, with the result of each.

    Its intervals are those of the means over examples, which all seeds answer. What differs between seeds is left out
    of them.
    """
    results = tuple(evaluation.result for evaluation in evaluations)
    if len(results) == 1:
        return results[0]

    def mean(split: str, of_seeds: Sequence[Evaluation]) -> Evaluation:
        metric, outcomes = metric_named(results[0].metric), [evaluation.outcomes[split] for evaluation in evaluations]
        value = float(np.mean([one.value for one in of_seeds]))
        interval = percentile_interval(value, resampled_scores(metric, outcomes).mean(axis=0))
        further = {name: float(np.mean([one.further[name] for one in of_seeds])) for name in of_seeds[0].further}
        return replace(of_seeds[0], value=value, low=interval.low, high=interval.high, further=further)

    tests = [result.test for result in results if result.test is not None]
    return TaskResult(
        metric=results[0].metric,
        validation=mean("validation", [result.validation for result in results]),
        test=mean("test", tests) if tests else None,
        evaluation_sets={
            name: mean(name, [result.evaluation_sets[name] for result in results])
            for name in results[0].evaluation_sets
        },
        seeds=results,
    )


def predict_with(
    model: nn.Module,
    task: Task,
    split: EncodedSplit,
    schedule: FinetuningSchedule,
    *,
    pad_token_id: int,
    null_threshold: float | None = None,
) -> Predictions:
    """`predict_split` with a model in training, on its device and in the precision of its schedule."""
    return predict_split(
        evaluation_pass(model, schedule),
        task,
        split,
        pad_token_id=pad_token_id,
        batch_size=schedule.batch_size,
        device=next(model.parameters()).device,
        null_threshold=null_threshold,
    )


def evaluation_pass(model: nn.Module, schedule: FinetuningSchedule) -> Callable[[Mapping[str, Tensor]], Any]:
    """Puts a model into evaluation mode, and returns its forward pass in the precision of its schedule."""
    plain_model = unwrapped(model)
    device = next(plain_model.parameters()).device
    precision = resolve_precision(schedule.precision, device)
    plain_model.eval()

    def run(inputs: Mapping[str, Tensor]) -> Any:
        with autocast(precision, device):
            return plain_model(**inputs)

    return run


@torch.no_grad()
def predict_split(
    run: Callable[[Mapping[str, Tensor]], Any],
    task: Task,
    split: EncodedSplit,
    *,
    pad_token_id: int,
    batch_size: int,
    device: torch.device = CPU,
    null_threshold: float | None = None,
) -> Predictions:
    """Returns the outcome of every example.

    Args:
        run: Returns the outputs of the model for a padded batch, named as transformers names them.
        task: The task.
        split: The tokenised examples.
        pad_token_id: The token that fills up shorter features of a batch.
        batch_size: Features per forward pass.
        device: The device that the batches are put on.
        null_threshold: The threshold of "no answer" to apply; None: the best one for these examples is chosen.

    Raises:
        NonFiniteLossError: if the output for an example is infinite or NaN.
    """
    kind = kind_of(task)
    scores = of_each_feature(
        run,
        task,
        split,
        lambda outputs, _: kind.scores(outputs),
        pad_token_id=pad_token_id,
        batch_size=batch_size,
        device=device,
    )
    return kind.predict(task, split, scores, null_threshold)


def of_each_feature(
    run: Callable[[Mapping[str, Tensor]], Any],
    task: Task,
    split: EncodedSplit,
    kept: Callable[[Any, Int[np.ndarray, " batch"]], list[Float[np.ndarray, "..."]]],
    *,
    pad_token_id: int,
    batch_size: int,
    device: torch.device,
) -> list[Float[np.ndarray, "..."]]:
    """Returns what is kept of the outputs for each feature, which go through the model in batches of similar length.

    Raises:
        NonFiniteLossError: if anything that is kept is infinite or NaN.
    """
    of_features: list[np.ndarray] = [np.empty(0)] * len(split.features)
    for rows in batches_by_length(split, batch_size):
        outputs = run(padded_batch(split, rows, pad_token_id, device))
        for row, of_feature in zip(rows, kept(outputs, rows), strict=True):
            # NaN has an argmax and a rank, which would be scored like predictions.
            if not np.isfinite(of_feature).all():
                found = of_feature[~np.isfinite(of_feature)][0]
                raise NonFiniteLossError(f"predictions on task {task.name} must be finite, got {found}")
            of_features[row] = of_feature
    return of_features


def batches_by_length(split: EncodedSplit, batch_size: int) -> Iterator[Int[np.ndarray, " batch"]]:
    """Yields the features of a split in batches of similar length, which have little padding."""
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), batch_size):
        yield by_length[start : start + batch_size]


def padded_batch(
    split: EncodedSplit, rows: Int[np.ndarray, " batch"], pad_token_id: int, device: torch.device
) -> dict[str, Tensor]:
    """Returns features as one batch of the model's inputs, [batch, seq] each."""
    # Padding is masked, so that only input_ids need a padding value; every other input is padded with 0.
    batch = {
        name: values.padded(rows, pad_token_id if name == "input_ids" else 0)
        for name, values in split.features.inputs.items()
    }
    return {name: torch.from_numpy(values).to(device) for name, values in batch.items()}


def _evaluation(task: Task, predictions: Predictions) -> Evaluation:
    interval = bootstrap_interval(metric_named(task.metric), predictions.outcomes)
    return Evaluation(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        num_examples=len(predictions.outcomes),
        further=dict(predictions.further),
    )
