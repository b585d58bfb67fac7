"""The rules for launching a study again: what may change, and what is removed then. No torch, no Ray."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import read_records
from minilm_core.settings.schema import plain
from search.config.loading import load_config
from search.config.settings import SearchConfig
from search.study.ledger import num_counted

CHANGEABLE = ("budget", "limits", "resources", "stopping")
"""The settings that may change while a study runs: no student that has ended would be another one."""


def validate_relaunch(paths: StudyPaths, config: SearchConfig) -> bool:
    """Checks that a study may go on with these settings: only those of `CHANGEABLE` may differ from its own.

    All settings may change before the first trial has run, since the settings themselves may have kept it from running.
    What was made for other settings is removed then; the assistant is removed only if the new settings change it.

    Returns:
        Whether an assistant was removed.

    Raises:
        UserError: if trials ran with other settings, or with a search.yaml that cannot be read.
    """
    is_bound = paths.records.exists() or paths.journal.exists()
    earlier = None
    try:
        earlier = load_config(paths.search_yaml).config
    except UserError:
        if is_bound:
            raise
    else:
        changed = list(changed_keys(plain(earlier), plain(config)))
        if not changed:
            if (earlier.resources, earlier.limits) != (config.resources, config.limits):
                # It was chosen for the earlier ones, by the largest student within them, and is chosen anew.
                paths.students_per_worker.unlink(missing_ok=True)
            return False
        if is_bound:
            raise UserError(
                f"{', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]} of a study's settings may change once a trial has "
                f"run, got another {', '.join(changed)} for {paths.root}; go on with `minilm-search resume "
                f"{paths.root}`, or choose another name"
            )
    keeps_assistant = earlier is not None and _settings_of_the_assistant(earlier) == _settings_of_the_assistant(config)
    had_assistant = paths.assistant.root.exists()
    _remove_preparation(paths, keeps_assistant=keeps_assistant)
    return had_assistant and not keeps_assistant


def extended(paths: StudyPaths, config: SearchConfig, num_more: int) -> SearchConfig:
    """Returns a study's settings with more trials, or unchanged while trials of its budget have not ended.

    Until they have ended, a second request cannot be distinguished from a repetition of the first.
    """
    budget = config.budget
    if num_counted(read_records(paths.records)) < budget.num_trials:
        return config
    return replace(config, budget=replace(budget, num_trials=budget.num_trials + num_more))


def changed_keys(earlier: dict[str, Any], config: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yields the keys, with dots, whose values differ, without those that may."""
    for name in dict.fromkeys((*earlier, *config)):
        before, after = earlier.get(name), config.get(name)
        if before == after or (not above and name in CHANGEABLE):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from changed_keys(before, after, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _settings_of_the_assistant(config: SearchConfig) -> tuple[object, ...]:
    rates = config.space.distillation_learning_rate
    in_corpus = {source.task for source in config.corpus.sources}
    texts = tuple(task for task in config.tasks if task.name in in_corpus)
    return config.teacher, config.corpus, texts, config.distillation, config.assistant, config.seed, rates


def _remove_preparation(paths: StudyPaths, *, keeps_assistant: bool) -> None:
    """Removes what is made before the first trial. The account of seconds is removed together with the assistant."""
    files = [paths.preparation_log, paths.evaluation, *paths.latency_tables()]
    files += [paths.students_per_worker, paths.warm_start]
    folders = [paths.teacher_folder, paths.vocabulary]
    if not keeps_assistant:
        files.append(paths.preparation)
        folders.append(paths.assistant.root)
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Renames a folder before it is removed, so that a partly removed folder is never found under its own name."""
    gone = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)
