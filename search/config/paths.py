"""The paths of search.yaml made absolute, so that its resolved copy means the same files wherever it lies."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from minilm_core.errors import UserError
from minilm_core.paths import located
from minilm_core.settings.yaml_source import YamlSource

if TYPE_CHECKING:
    from search.config.settings import SearchConfig


def rooted(config: "SearchConfig", base: Path, source: YamlSource) -> "SearchConfig":
    """Makes every relative path of a configuration absolute.

    Args:
        config: As it was built from the source.
        base: The folder that relative paths start from.
        source: Knows where each path was written.

    Raises:
        UserError: naming the key of a path that leads nowhere.
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
    # Whether it really is there is asked when it is needed: a study is read on machines that lack its teacher.
    is_folder = teacher.model.startswith(("./", "../", "/", "~")) or (base / teacher.model).exists()
    if is_folder and not teacher.is_in_package:
        teacher = replace(teacher, model=absolute(teacher.model, "teacher", "model"))
    sources = tuple(
        text if text.path is None else replace(text, path=absolute(text.path, "corpus", "sources", number, "path"))
        for number, text in enumerate(config.corpus.sources)
    )
    tasks = tuple(
        task if task.path is None else replace(task, path=absolute(task.path, "tasks", number, "path"))
        for number, task in enumerate(config.tasks)
    )
    storage = replace(
        storage,
        path=absolute(storage.path, "storage", "path"),
        cache=absolute(storage.cache, "storage", "cache"),
        mirror=None if storage.mirror is None else absolute(storage.mirror, "storage", "mirror"),
    )
    return replace(
        config, teacher=teacher, corpus=replace(config.corpus, sources=sources), tasks=tasks, storage=storage
    )
