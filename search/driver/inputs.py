"""What a search reads besides its text, read once before anything is trained."""

from pathlib import Path

from minilm_core.corpus.tokenisation import CorpusTokenizer
from minilm_core.tasks.splits import load_splits
from search.config.settings import SearchConfig


def check_inputs(config: SearchConfig, teacher_folder: Path, base: Path) -> None:
    """Refuses a tokenizer or a task's data that some trial of a search would fail on.

    Args:
        config: What is read.
        teacher_folder: Where the teacher and its tokenizer are.
        base: What a relative path is relative to.

    Raises:
        UserError: naming the file, and the line or row of it, or what is wrong with the tokenizer.
    """
    CorpusTokenizer.load(teacher_folder)
    for task in config.tasks:
        load_splits(task, base)
