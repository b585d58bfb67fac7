"""The accuracy of a student over several tasks. No torch, no Ray."""

from collections.abc import Mapping

from minilm_core.results.records import TaskResult


def mean_accuracy(tasks: Mapping[str, TaskResult]) -> float:
    """Returns the unweighted mean of the tasks' main metrics on validation, in [0, 1].

    A correlation below zero is worth no more than none and counts as 0; the record keeps it as it is.
    """
    values = [max(0.0, task.validation.value) for task in tasks.values()]
    return sum(values) / len(values)
