"""What a study that is launched again goes on from, and what it makes anew. No torch, no Ray."""

import shutil
from dataclasses import replace
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.results.records import read_records
from search.config.settings import SearchConfig, load_config
from search.study.layout import StudyPaths


def validate_relaunch(study: StudyPaths, config: SearchConfig) -> bool:
    """Goes on with a study that has a search.yaml; only its budget may have changed since.

    A study in which no trial ran binds nobody, for its settings may have been what kept it from running: what was made
    for other settings is then removed, the assistant only where it would be another.

    Returns:
        Whether an assistant was removed.

    Raises:
        UserError: if trials ran with other settings, or with a search.yaml that cannot be read.
    """
    is_bound = study.records.exists() or study.journal.exists()
    earlier = None
    try:
        earlier = load_config(study.search_yaml).config
    except UserError:
        if is_bound:
            raise
    else:
        if replace(config, budget=earlier.budget) == earlier:
            return False
    if is_bound:
        raise UserError(
            f"a study's settings must not change but for its budget, and {study.root} was launched with others; "
            f"go on with `minilm-search resume {study.root}`, or choose another name"
        )
    keeps_assistant = earlier is not None and _what_makes_the_assistant(earlier) == _what_makes_the_assistant(config)
    had_assistant = study.assistant.root.exists()
    _forget(study, keeps_assistant=keeps_assistant)
    return had_assistant and not keeps_assistant


def extended(study: StudyPaths, config: SearchConfig, num_more: int) -> SearchConfig:
    """Returns a study's configuration that asks for more trials, or for no more while some asked for have not ended.

    Until then nobody can tell a second request from the first one, interrupted and made again.
    """
    budget = config.budget
    num_ended = sum(record.counts_for_budget for record in read_records(study.records))
    if num_ended < budget.num_trials:
        return config
    return replace(config, budget=replace(budget, num_trials=budget.num_trials + num_more))


def _what_makes_the_assistant(config: SearchConfig) -> tuple[object, ...]:
    rates = config.space.distillation_learning_rate
    return config.teacher, config.corpus, config.distillation, config.assistant, config.seed, rates


def _forget(study: StudyPaths, *, keeps_assistant: bool) -> None:
    """Removes what is made before the first trial; with the assistant the account of what it took goes or stays."""
    files = [study.preparation_log, study.evaluation, study.latency, study.teacher_latency, study.students_per_worker]
    folders = [study.teacher_folder]
    if not keeps_assistant:
        files.append(study.preparation)
        folders.append(study.assistant.root)
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a folder; a half removed one is never seen under its name."""
    gone = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)
