"""What the papers of MiniLM published for the tasks of a study: quoted, and never measured here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from minilm_core.results.records import TaskResult, TrialRecord
from minilm_core.tasks.benchmarks import NAMED_EVALUATION_SETS
from reports import wording

NUM_LANGUAGES = {"xnli": 15, "mlqa": 7}
"""The benchmarks for which the papers report the mean over all languages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """The score of one model on one task, as a paper prints it."""

    task: str
    """The name of a known task, or of a benchmark whose languages are averaged."""
    metric: str
    model: str
    shape: str
    """Layers and hidden size."""
    teacher: str | None
    """None for a model that was not distilled."""
    num_parameters: int | None
    """All parameters, embeddings included; None where no total is quoted."""
    value: float
    """In percent."""
    split: str
    note: str
    """How the score was taken, where it matters; may be empty."""
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedResults:
    """What was published for the tasks of a study, with what must be known to read it."""

    remarks: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    """By task, and within a task in the order of the papers."""


def _metric(task: str) -> str:
    """Returns the metric of the papers for a task."""
    return {"cola": "matthews", "squad_v2": "span_f1", "mlqa": "span_f1"}.get(task, "accuracy")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """A table of a paper: what its scores have in common."""

    source: str
    teacher: str | None
    tasks: tuple[str, ...]
    """The columns."""
    split: str = "development"
    note: str = ""

    def rows(self, model: str, shape: str, millions: int | None, *values: float) -> Iterator[PublishedRow]:
        """Yields the scores of one model, which are given in the order of the columns."""
        for task, value in zip(self.tasks, values, strict=True):
            yield PublishedRow(
                task=task,
                metric=_metric(task),
                model=model,
                shape=shape,
                teacher=self.teacher,
                num_parameters=None if millions is None else millions * 1_000_000,
                value=value,
                split=self.split,
                note=", ".join(note for note in (_NOTES.get(task), self.note) if note),
                source=self.source,
            )


_NOTES = {
    "mnli": "matched",
    "squad_v2": "best threshold on this split",
    **{name: f"mean over {number} languages" for name, number in NUM_LANGUAGES.items()},
}
_V1 = "arXiv:2002.10957"
_V2 = "arXiv:2012.15828"
_EIGHT = ("squad_v2", "mnli", "sst2", "qnli", "cola", "rte", "mrpc", "qqp")
_THREE = ("squad_v2", "mnli", "sst2")
_TWO = ("mnli", "squad_v2")
_LANGUAGES = ("xnli", "mlqa")

_BASE = _Table(source=_V1, teacher=None, tasks=_EIGHT, note="mean of 4 runs")
_OF_BASE = _Table(source=_V1, teacher="BERT-base", tasks=_EIGHT, note="mean of 4 runs")
_SMALL_OF_BASE = _Table(source=_V1, teacher="BERT-base", tasks=_THREE)
_OF_UNILM = _Table(source=_V1, teacher="UniLMv2, in-house", tasks=_THREE)
_V2_OF_BASE = _Table(source=_V2, teacher="BERT-base", tasks=_TWO)
_V2_OF_LARGE = _Table(source=_V2, teacher="BERT-large", tasks=_TWO)
_V2_OF_ROBERTA = _Table(source=_V2, teacher="RoBERTa-large", tasks=_TWO)
_XLMR = _Table(source=_V1, teacher=None, tasks=_LANGUAGES, split="test", note="fine-tuned anew")
_OF_XLMR = _Table(source=_V1, teacher="XLM-R base", tasks=_LANGUAGES, split="test")
_V2_OF_XLMR = _Table(source=_V2, teacher="XLM-R large", tasks=_LANGUAGES, split="test")

# DistilBERT is left out: its authors have corrected the scores that the first paper prints for it.
PUBLISHED: tuple[PublishedRow, ...] = (
    *_BASE.rows("BERT-base", "12x768", 109, 76.8, 84.5, 93.2, 91.7, 58.9, 68.6, 87.3, 91.3),
    *_OF_BASE.rows("TinyBERT", "6x768", 66, 73.1, 83.5, 91.6, 90.5, 42.8, 72.2, 88.4, 90.6),
    *_OF_BASE.rows("MiniLM", "6x768", 66, 76.4, 84.0, 92.0, 91.0, 49.2, 71.5, 88.4, 91.0),
    *_SMALL_OF_BASE.rows("MiniLM", "6x384", 22, 72.4, 82.2, 91.0),
    *_SMALL_OF_BASE.rows("MiniLM with assistant", "6x384", 22, 72.7, 82.4, 91.2),
    *_SMALL_OF_BASE.rows("MiniLM", "4x384", 19, 69.4, 80.3, 90.2),
    *_SMALL_OF_BASE.rows("MiniLM with assistant", "4x384", 19, 69.7, 80.6, 90.6),
    *_SMALL_OF_BASE.rows("MiniLM", "3x384", 17, 66.2, 78.8, 89.3),
    *_SMALL_OF_BASE.rows("MiniLM with assistant", "3x384", 17, 66.9, 79.1, 89.7),
    *_OF_UNILM.rows("MiniLM", "12x384", 33, 81.7, 85.7, 93.0),
    *_V2_OF_BASE.rows("MiniLMv2", "6x768", 66, 84.2, 76.3),
    *_V2_OF_BASE.rows("MiniLMv2", "6x384", 22, 82.8, 72.9),
    *_V2_OF_LARGE.rows("MiniLMv2", "6x768", 66, 85.0, 77.7),
    *_V2_OF_LARGE.rows("MiniLMv2", "6x384", 22, 83.0, 74.3),
    *_V2_OF_ROBERTA.rows("MiniLMv2", "6x768", 81, 87.0, 81.6),
    *_V2_OF_ROBERTA.rows("MiniLMv2", "12x384", 41, 86.9, 82.3),
    *_V2_OF_ROBERTA.rows("MiniLMv2", "6x384", 30, 84.4, 76.4),
    *_XLMR.rows("XLM-R base", "12x768", None, 74.5, 64.9),
    *_OF_XLMR.rows("MiniLM", "12x384", None, 71.1, 63.2),
    *_OF_XLMR.rows("MiniLM", "6x384", None, 68.0, 53.7),
    *_V2_OF_XLMR.rows("MiniLMv2", "12x384", None, 72.9, 64.9),
    *_V2_OF_XLMR.rows("MiniLMv2", "6x384", None, 69.3, 59.0),
)
"""Every score that is quoted. Sources: MiniLM (Wang et al., 2020) and MiniLMv2 (Wang et al., 2021)."""


def published_results(records: Sequence[TrialRecord]) -> PublishedResults | None:
    """Returns what was published for the tasks of records, by name and metric; None where nothing was."""
    tasks = {name: result for record in records for name, result in record.tasks.items()}
    averaged = {name: benchmark for name, result in tasks.items() if (benchmark := _averaged(result)) is not None}
    # A mean over languages belongs beside the mean of a task's evaluation sets, whatever the task is called.
    named = {name for name, result in tasks.items() if result.metric == _metric(name) and name not in NUM_LANGUAGES}
    wanted = named | set(averaged.values())
    rows = sorted((row for row in PUBLISHED if row.task in wanted), key=lambda row: row.task)
    if not rows:
        return None
    return PublishedResults(remarks=tuple(_remarks(rows, tasks, averaged)), rows=tuple(rows))


def _averaged(result: TaskResult) -> str | None:
    """Returns the benchmark whose languages are all of a task's evaluation sets, two at least, by its own metric.

    None where there is no such one, since only a mean over languages compares with those of the papers.
    """
    for benchmark in NUM_LANGUAGES:
        languages = {name for name in NAMED_EVALUATION_SETS if name.startswith(f"{benchmark}-")}
        is_mean = len(result.evaluation_sets) > 1 and result.evaluation_sets.keys() <= languages
        if is_mean and result.metric == _metric(benchmark):
            return benchmark
    return None


def _remarks(
    rows: Sequence[PublishedRow], tasks: Mapping[str, TaskResult], averaged: Mapping[str, str]
) -> Iterator[str]:
    yield (
        "Quoted from the papers of MiniLM (Wang et al., 2020) and MiniLMv2 (Wang et al., 2021), and not measured here: "
        "these models were trained on other text, with other budgets and in part with other teachers than this study's."
    )
    yield (
        "Development means the benchmark's development set; this study's splits may be other examples, or fewer. "
        "Compare a task at a time: an average over tasks means something else in each paper."
    )
    if any(row.task == "squad_v2" for row in rows):
        yield (
            'On SQuAD 2.0 the papers choose the threshold of "no answer" on the very split that they report: what '
            "compares with their F1 is best_span_f1 in the records."
        )
    for name, benchmark in averaged.items():
        sets = wording.listed(tuple(tasks[name].evaluation_sets))
        yield (
            f"{benchmark} is the papers' mean over {NUM_LANGUAGES[benchmark]} languages, English among them, of models "
            f"that were fine-tuned on English alone; it belongs beside the mean of the evaluation sets of {name}, "
            f"which is over {sets}."
        )
