"""The settings of a corpus source: a local file or folder, or a data set on the Hub."""

import math
from dataclasses import dataclass
from pathlib import Path

from minilm_core.corpus.text_files import find_text_files
from minilm_core.errors import UserError
from minilm_core.paths import located


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSource:
    """A source of text: a local file or folder, a data set on the Hub, or the texts of a task.

    In .txt files a document is a paragraph: the lines between two blank lines.

    Raises:
        UserError: unless exactly one of `path`, `dataset` and `task` is given.
    """

    path: str | None = None
    """A .txt, .jsonl, .json (also JSON lines) or .parquet file, or a folder of such files. Text may be compressed."""
    dataset: str | None = None
    """A Hub id."""
    task: str | None = None
    """The name of a task of the search, whose train split and unlabelled texts are read, without labels. Its columns
    and files are the task's own. `minilm_core.tasks.corpus_sources` finds them, because a task is not known here."""
    subset: str | None = None
    """The data set's configuration."""
    split: str = "train"
    """The data set's split."""
    revision: str | None = None
    """The data set's branch, tag or commit."""
    column: str = "text"
    """The column of a record that has the text; .txt files have only `text`."""
    weight: float = 1.0
    """The number of tokens taken from this source per token of a source of weight 1, while both have text left.

    With `max_tokens` weights decide which text is taken; without it all text is taken, and weights change its order.
    """

    def __post_init__(self) -> None:
        given = [value for value in (self.path, self.dataset, self.task) if value is not None]
        if len(given) != 1:
            raise UserError(
                f"a corpus source must have one of path, dataset and task, got {' and '.join(given) or 'none'}"
            )
        if self.dataset is None and (self.subset is not None or self.revision is not None):
            raise UserError(
                f"subset and revision must be left out without a dataset, got {self.subset} and {self.revision}"
            )
        if self.task is not None and (self.split, self.column) != ("train", "text"):
            raise UserError(f"split and column must be left out with a task, got {self.split} and {self.column}")
        if not 0 < self.weight < math.inf:
            raise UserError(f"a corpus source's weight must be positive and finite, got {self.weight}")

    def find_files(self, base: Path) -> tuple[Path, ...]:
        """Returns the local files in order of name; empty for a data set on the Hub.

        Raises:
            UserError: if the path is missing, has no file of a known format, or has a broken link. Also for the source
                of a task, which `corpus_sources` must have replaced.
        """
        if self.task is not None:
            raise UserError(f"the texts of a task are found by minilm_core.tasks.corpus_sources, got task {self.task}")
        if self.path is None:
            return ()
        path = located(self.path, base)
        if not path.exists():
            raise UserError(f"a corpus path must exist, got {path}")
        return find_text_files(path)
