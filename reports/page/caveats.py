"""What the figures of a report do not show, in sentences."""

from collections.abc import Iterator, Mapping

from reports import wording
from reports.seeds import SeedVariance
from reports.study import Study


def _seeds_in_words(study: Study, seeds: SeedVariance) -> str:
    if study.num_seeds == 1:
        return "Intervals are 95% bootstrap intervals over examples; another training seed may change a figure by more."
    known = "was not measured"
    if seeds.num_freedom:
        known = f"is {wording.unsigned_points(seeds.deviation)}, pooled over all models"
    return (
        f"Accuracies are means over {study.num_seeds} seeds of fine-tuning, with 95% intervals over seeds and "
        f"examples; the standard deviation of one seed from the mean of its model {known}. Another seed of "
        "distillation may change a figure by more."
    )


def caveats_of(study: Study, seeds: SeedVariance) -> Iterator[str]:
    """Yields the sentences on what the figures of a study's report do not show."""
    metrics = sorted({result.metric for record in study.records for result in record.tasks.values()})
    yield f"Accuracy is the unweighted mean of the tasks' main metrics ({', '.join(metrics) or 'none measured'})."
    yield _seeds_in_words(study, seeds)
    yield (
        "On the validation split, which chose the students, intervals hold for all students and all their differences "
        "at once, so that they also hold for the best one. On the test split each holds by itself."
    )
    yield from _set_aside(study)
    yield (
        "P(on frontier) is the probability that no other student is better in every objective, from a posterior that "
        "shrinks accuracies towards their trend over size; size and latency count as exact."
    )
    yield "A student is tied with the frontier if it cannot be told apart, in accuracy, from the student that beats it."
    yield "GFLOP counts one forward pass over one sequence; held-out loss is the relation loss in nats."
    yield "Size counts the encoder's weights in fp32, without tokenizer and task head."
    yield from _cut_vocabulary(study)
    yield (
        "Latency is predicted from a calibrated table, not timed on the trained student, except where it is said to be "
        "measured; limits hold a student to its measured latency."
        if study.benches
        else "Latency is predicted from a calibrated table, not timed on the trained student."
    )
    yield "The hypervolume depends on its reference point: compare it only within this study."


def _cut_vocabulary(study: Study) -> Iterator[str]:
    """Yields a sentence on the students' vocabulary, if the study has cut it."""
    if study.vocabulary is not None:
        yield (
            f"The students' vocabulary has {study.vocabulary.size:,} of the teacher's {study.vocabulary.num_full:,} "
            f"tokens, which make up {wording.percentage(study.vocabulary.coverage)} of the corpus and of the tasks' "
            "train splits. Text of another kind is split into more pieces, and may have unknown ones."
        )


def _set_aside(study: Study) -> Iterator[str]:
    """Yields a sentence for each task whose test split is a part of its validation split."""
    tasks = study.config.get("tasks")
    for task in tasks if isinstance(tasks, list) else ():
        share = task.get("set_aside_fraction") if isinstance(task, Mapping) else None
        if isinstance(share, float):
            yield (
                f"The test split of {task.get('name')} is no official one: {wording.percentage(share)} of the "
                "validation split was set aside for it, and the search never used that part."
            )
