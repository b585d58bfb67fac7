"""The inputs of a search other than its corpus: they are read once before anything is trained."""

from pathlib import Path

from minilm_core.corpus.tokenisation import CorpusTokenizer
from minilm_core.models.vocabulary.tokenizers import check_can_be_cut
from minilm_core.tasks.embeddings.teacher import as_teacher_embeds
from minilm_core.tasks.splits import load_splits
from search.config.settings import SearchConfig


def check_inputs(config: SearchConfig, teacher_folder: Path, base: Path) -> None:
    """Refuses a tokenizer, a teacher of embeddings, or a task's data on which a trial of the search would fail.

    Args:
        config: The settings that name the inputs.
        teacher_folder: The folder of the teacher and its tokenizer.
        base: The folder that relative paths start from.

    Raises:
        UserError: naming the file and its line or row, or what is wrong with the tokenizer.
    """
    CorpusTokenizer.load(teacher_folder)
    if config.cuts_vocabulary:
        check_can_be_cut(teacher_folder)
    for task in config.tasks:
        as_teacher_embeds(task, teacher_folder, config.finetuning.max_length)
        load_splits(task, base)
