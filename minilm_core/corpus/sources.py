"""Where the text of a corpus comes from: a local file or folder, or a data set on the Hub."""

import math
from dataclasses import dataclass
from pathlib import Path

from minilm_core.corpus.text_files import find_text_files
from minilm_core.errors import UserError
from minilm_core.paths import located


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSource:
    """Where text comes from: a file or folder here, or a data set on the Hub.

    In .txt files a document is a paragraph: the lines between two blank ones.

    Raises:
        UserError: unless exactly one of `path` and `dataset` is given.
    """

    path: str | None = None
    """A .txt, .jsonl, .json (JSON lines, too) or .parquet file, text compressed or not, or a folder of such."""
    dataset: str | None = None
    """A Hub id."""
    subset: str | None = None
    """The data set's configuration."""
    split: str = "train"
    """The data set's split."""
    revision: str | None = None
    """The data set's branch, tag or commit."""
    column: str = "text"
    """Where a record has its text; .txt files have no other."""
    weight: float = 1.0
    """How many tokens are taken from it for each token of a source of weight 1, as long as both have text left.

    Weights choose the text that `max_tokens` has room for; without it all text is taken, in another order.
    """

    def __post_init__(self) -> None:
        if (self.path is None) == (self.dataset is None):
            raise UserError(f"a corpus source must have one of path and dataset, got {self.path} and {self.dataset}")
        if self.path is not None and (self.subset is not None or self.revision is not None):
            raise UserError(f"subset and revision must be left out with a path, got {self.subset} and {self.revision}")
        if not 0 < self.weight < math.inf:
            raise UserError(f"a corpus source's weight must be positive and finite, got {self.weight}")

    def find_files(self, base: Path) -> tuple[Path, ...]:
        """Returns the local files in order of name; none for a data set of the Hub.

        Raises:
            UserError: if the path is missing or holds no file of a known format, or a link in it leads nowhere.
        """
        if self.path is None:
            return ()
        path = located(self.path, base)
        if not path.exists():
            raise UserError(f"a corpus path must exist, got {path}")
        return find_text_files(path)
