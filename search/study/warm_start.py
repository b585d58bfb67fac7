"""What earlier studies tell a search before its first trial: students that teach its sampler, and first guesses."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.results.frontier import is_on_frontier
from minilm_core.results.layout import StudyPaths
from minilm_core.results.objectives import as_costs
from minilm_core.results.record_lines import from_json, read_first_records, to_json
from minilm_core.results.records import Role, TrialRecord, most_accurate_first
from minilm_core.settings.schema import plain
from search.config.loading import load_config
from search.config.settings import SamplerName, SearchConfig
from search.study.relaunch import changed_keys
from spaces.space import StudentChoice, StudentSpace

_WITHOUT_EFFECT = frozenset(
    {"micro_batch_size", "checkpoint_activations", "checkpoint_every_seconds", "keep_stable_state", "num_evaluations"}
)
"""Keys of a schedule that do not change the accuracy of a student."""
_DECIDING = (
    *("teacher", "student_family", "embedding_size", "vocabulary", "assistant", "corpus", "tasks"),
    *("distillation", "finetuning"),
)
"""The settings that two studies must share for their accuracies to be comparable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStart:
    """What a search knows before its first trial."""

    students: tuple[TrialRecord, ...] = ()
    """Complete students of earlier studies whose accuracies are comparable, for a sampler that learns from them."""
    first: tuple[StudentChoice, ...] = ()
    """Students to begin with, the most promising first; some may be over a limit."""
    notes: tuple[str, ...] = ()
    """A sentence on each earlier study."""

    def save(self, file: Path) -> None:
        """Writes what is known, so that a search that is resumed knows the same, whatever became of the studies."""
        content = {
            "students": [json.loads(to_json(record)) for record in self.students],
            "first": [choice.to_dict() for choice in self.first],
            "notes": self.notes,
        }
        write_text_atomically(file, json.dumps(content, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, file: Path) -> "WarmStart":
        """Reads what `save` wrote.

        Raises:
            UserError: if the file is damaged.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return cls(
                students=tuple(from_json(json.dumps(record)) for record in content["students"]),
                first=tuple(map(StudentChoice.from_dict, content["first"])),
                notes=tuple(content["notes"]),
            )
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"the file of a warm start must be as launch wrote it, got a damaged one: {file}"
            ) from error


def find_warm_start(config: SearchConfig, space: StudentSpace, paths: StudyPaths) -> WarmStart:
    """Returns what the earlier studies that the settings name tell a search, read once before its first trial.

    Args:
        config: The settings.
        space: The space as the method restricts it.
        paths: The study's folder, in which the answer is kept.

    Raises:
        UserError: if a folder holds no study.
    """
    if paths.warm_start.exists():
        return WarmStart.load(paths.warm_start)
    if not config.sampler.warm_start:
        return WarmStart()
    told = [_told_by(Path(folder), config, space, paths) for folder in config.sampler.warm_start]
    found = WarmStart(
        students=tuple(record for one in told for record in one.students),
        first=tuple(dict.fromkeys(choice for one in told for choice in one.first)),
        notes=tuple(note for one in told for note in one.notes),
    )
    found.save(paths.warm_start)
    return found


def _told_by(folder: Path, config: SearchConfig, space: StudentSpace, paths: StudyPaths) -> WarmStart:
    """Returns what one earlier study tells."""
    earlier = StudyPaths(root=folder)
    if not earlier.search_yaml.is_file() or folder.resolve() == paths.root.resolve():
        raise UserError(f"sampler.warm_start must name folders of other studies, got {folder}")
    other = load_config(earlier.search_yaml).config
    students = [r for r in read_first_records(earlier.records) if r.role is Role.STUDENT and r.is_complete_student]
    differing = tuple(changed_keys(_deciding(other), _deciding(config)))
    if config.sampler.name is SamplerName.KNOWN_COST and not differing:
        inside = tuple(record for record in students if _is_inside(StudentChoice.from_record(record), space))
        note = f"{len(inside)} of {len(students)} students of {folder} are in the space and teach the sampler"
        return WarmStart(students=inside, notes=(note,))
    first = tuple(dict.fromkeys(_guesses(students, other, space)))
    reason = f"it has another {', '.join(differing)}" if differing else f"sampler {config.sampler.name} cannot learn"
    note = f"{len(first)} students that were on the front of {folder} may be tried first ({reason})"
    return WarmStart(first=first, notes=(note,))


def _deciding(config: SearchConfig) -> dict[str, Any]:
    content: Mapping[str, Any] = plain(config)
    sections = {name: content[name] for name in _DECIDING}
    for name in ("distillation", "finetuning"):
        sections[name] = {key: value for key, value in sections[name].items() if key not in _WITHOUT_EFFECT}
    return sections


def _guesses(students: Sequence[TrialRecord], other: SearchConfig, space: StudentSpace) -> Iterator[StudentChoice]:
    """Yields the students of a study's front, the most accurate first, as far as the space has their sizes.

    Of what is not in the space, a student has the space's middle choice.
    """
    objectives = other.declared_objectives
    if not students:
        return
    values = np.array([[record.objectives[each.name] for each in objectives] for record in students])
    on_front, shapes = is_on_frontier(as_costs(values, objectives)), set(space.architectures())
    front = [record for record, is_on in zip(students, on_front, strict=True) if is_on]
    for record in most_accurate_first(front, objectives):
        found = StudentChoice.from_record(record)
        shape = found.architecture
        if shape.num_layers not in space.num_layers or shape.hidden_size not in space.hidden_sizes:
            continue
        typical = space.typical(shape.num_layers, shape.hidden_size)
        own = {
            "architecture": shape in shapes,
            "distillation_learning_rate": found.distillation_learning_rate in space.distillation_learning_rate,
            "finetuning_learning_rate": found.finetuning_learning_rate in space.finetuning_learning_rate,
            "initialisation": found.initialisation in space.initialisations,
        }
        yield replace(typical, **{name: getattr(found, name) for name, is_inside in own.items() if is_inside})


def _is_inside(choice: StudentChoice, space: StudentSpace) -> bool:
    try:
        return space.decode(space.encode(choice)) == choice
    except UserError:
        return False
