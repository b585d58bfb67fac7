"""Makes the paths of search.yaml absolute, so that its resolved copy names the same files from any folder."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.settings.yaml_source import YamlSource
from minilm_core.tasks.task import Task
from search.config.latency import Latency
from search.config.settings import SearchConfig

AnyLatency = TypeVar("AnyLatency", bound=Latency)


def rooted(config: SearchConfig, base: Path, source: YamlSource) -> SearchConfig:
    """Returns a configuration with every relative path made absolute.

    Args:
        config: The configuration, as built from the source.
        base: The folder that relative paths start from.
        source: The settings as they were written, whose line numbers errors name.

    Raises:
        UserError: naming the key, if a path has no absolute form.
    """

    def absolute(path: str, *key_path: str | int) -> str:
        if "://" in path:
            return path
        try:
            return str(located(path, base).resolve())
        except UserError as error:
            problem = str(error)
        except RuntimeError:
            problem = f"a path must not lead into a loop of symbolic links, got {path}"
        raise source.error(key_path, f"{'.'.join(map(str, key_path))}: {problem}")

    storage, teacher = config.storage, config.teacher
    # The folder may be missing: a study is also read on machines that do not have its teacher.
    is_folder = teacher.model.startswith(("./", "../", "/", "~")) or (base / teacher.model).exists()
    if is_folder and not teacher.is_in_package:
        teacher = replace(teacher, model=absolute(teacher.model, "teacher", "model"))
    sources = tuple(
        text if text.path is None else replace(text, path=absolute(text.path, "corpus", "sources", number, "path"))
        for number, text in enumerate(config.corpus.sources)
    )

    def absolute_task(task: Task, number: int) -> Task:
        sets = tuple(
            other
            if other.path is None
            else replace(other, path=absolute(other.path, "tasks", number, "evaluation_sets", index, "path"))
            for index, other in enumerate(task.evaluation_sets)
        )
        path = None if task.path is None else absolute(task.path, "tasks", number, "path")
        unlabelled = tuple(
            absolute(file, "tasks", number, "unlabelled", index) for index, file in enumerate(task.unlabelled)
        )
        return replace(task, path=path, evaluation_sets=sets, unlabelled=unlabelled)

    storage = replace(
        storage,
        path=absolute(storage.path, "storage", "path"),
        cache=absolute(storage.cache, "storage", "cache"),
        mirror=None if storage.mirror is None else absolute(storage.mirror, "storage", "mirror"),
    )

    def absolute_latency(latency: AnyLatency, *key_path: str | int) -> AnyLatency:
        table = None if latency.table is None else absolute(latency.table, *key_path, "table")
        return replace(latency, table=table)

    earlier = tuple(
        absolute(folder, "sampler", "warm_start", number) for number, folder in enumerate(config.sampler.warm_start)
    )
    return replace(
        config,
        teacher=teacher,
        latency=(
            tuple(absolute_latency(target, "latency", number) for number, target in enumerate(config.latency))
            if isinstance(config.latency, tuple)
            else absolute_latency(config.latency, "latency")
        ),
        corpus=replace(config.corpus, sources=sources),
        tasks=tuple(absolute_task(task, number) for number, task in enumerate(config.tasks)),
        storage=storage,
        sampler=replace(config.sampler, warm_start=earlier),
    )
