"""Times the parts of a search in fresh processes, as many at once as trials share a device. The caller needs no torch.

Run as a module, this file is one of those processes. It reads a request as JSON from stdin and prints lines of JSON on
stdout: one when it has started, one for each part, and a last one with the timings or with the message of a UserError.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from minilm_core.errors import UserError, first_line
from minilm_core.fresh_process import Message, answer_on_stdout, answering, write_message
from minilm_core.models.architecture import FamilyShape, StudentArchitecture
from minilm_core.results.layout import StudyPaths
from search.config.loading import load_config, resolved_yaml
from search.config.teacher_assignment import TeacherRole
from search.study.resolved import ResolvedStudy, resolve_study
from search.study.timings import Timings, mean_of

Progress = Callable[[str, float], None]
"""Receives what is being measured and the fraction done, in [0, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimingRequest:
    """What is to be timed, in a form that another process can read."""

    search_yaml: str
    """The settings, with absolute paths."""
    teacher_json: Mapping[str, Any]
    root: str
    """The folder of the study, which need not exist."""
    students: tuple[StudentArchitecture, ...]
    cached: tuple[TeacherRole, ...]
    """The models whose targets the study would cache."""
    scratch: str
    """An empty folder."""

    @classmethod
    def of(
        cls, study: ResolvedStudy, students: tuple[StudentArchitecture, ...], cached: tuple[TeacherRole, ...]
    ) -> "TimingRequest":
        """Returns the request for a study."""
        return cls(
            search_yaml=resolved_yaml(study.config),
            teacher_json=dict(study.teacher_json),
            root=str(study.paths.root),
            students=students,
            cached=cached,
            scratch="",
        )

    def to_json(self) -> str:
        """Returns the request as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "TimingRequest":
        """Reads what `to_json` wrote."""
        content = json.loads(text)
        students = tuple(StudentArchitecture(**sizes) for sizes in content["students"])
        return cls(**{**content, "students": students, "cached": tuple(map(TeacherRole, content["cached"]))})

    def study(self) -> ResolvedStudy:
        """Returns the study as the request's settings describe it."""
        file = Path(self.scratch) / "search.yaml"
        file.write_text(self.search_yaml, encoding="utf-8")
        return resolve_study(load_config(file).config, StudyPaths(root=Path(self.root)), self.teacher_json)


def time_in_fresh_processes(
    request: TimingRequest, cache: Path, num_processes: int, device: str, progress: Progress
) -> Timings:
    """Measures what a request asks for in several processes at once, and returns the mean of what they found.

    Args:
        request: What is to be timed.
        cache: The folder in which files are written while it is measured.
        num_processes: The processes that measure at once.
        device: The name of this machine's device.
        progress: Is told what the first of them does.

    Raises:
        UserError: if the machine lacks the device, a task or the teacher cannot be read, or a process fails.
    """
    cache.mkdir(parents=True, exist_ok=True)
    began, starts, found = time.monotonic(), list[float](), list[Mapping[str, Any]]()
    with ExitStack() as processes:
        running = []
        for _ in range(num_processes):
            scratch = processes.enter_context(tempfile.TemporaryDirectory(prefix="timing-", dir=cache))
            text = replace(request, scratch=scratch).to_json()
            running.append(processes.enter_context(answering(__name__, text, "timing the parts of a search")))
        for number, messages in enumerate(running):
            for message in messages:
                if "timings" in message:
                    found.append(message["timings"])
                elif number == 0:
                    if not starts:
                        starts.append(time.monotonic() - began)
                    progress(message["stage"], message["fraction"])
    measured = {
        **mean_of(found),
        "start_seconds": starts[0],
        "seconds": time.monotonic() - began,
        "num_processes": num_processes,
        "device": device,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Timings.from_dict(measured)


def answer(request_json: str, out: TextIO) -> None:
    """Measures, and writes the progress and the timings, or the message of a UserError, as lines of JSON."""

    def write(message: Message) -> None:
        write_message(message, out)

    try:
        for stage, fraction, timings in _measured(TimingRequest.from_json(request_json)):
            write({"stage": stage, "fraction": fraction} if timings is None else {"timings": timings})
    except UserError as error:
        write({"error": str(error)})
    # Whatever a trial could fail with: too little memory, data that a loss cannot be computed on.
    except Exception as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        write({"error": f"a few steps of every part of the search must run on this machine, got {cause}"})


def _measured(request: TimingRequest) -> Iterator[tuple[str, float, dict[str, Any] | None]]:
    """Yields what is measured next with the fraction done, and at last what one process knows of the timings."""
    import torch
    from transformers.utils import logging as transformers_logging

    from minilm_core.models.encoders import save_encoder
    from minilm_core.training.devices import keep_freed_memory
    from search.worker.node import NodeContext
    from search.worker.task_timing import SampledTask, time_tasks, with_metrics
    from search.worker.timing import TimedTeachers, new_student, time_assistant, time_student, timed

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    keep_freed_memory()
    num_parts = 3 + 2 * len(request.students)
    yield "starting", 0.0, None
    study, scratch = request.study(), Path(request.scratch)
    node = NodeContext.open(study)
    if node.device.type == "cpu":
        torch.set_num_threads(max(1, int(study.config.resources.cpus_per_worker)))
    yield "reading the tasks", 0.0, None
    tasks = [SampledTask.read(node, task) for task in study.config.tasks]
    yield "the teacher's targets", 1 / num_parts, None
    teachers = TimedTeachers.prepare(node, frozenset(request.cached), scratch)
    assistant = time_assistant(teachers)
    students = []
    for number, architecture in enumerate(request.students):
        yield f"distilling {architecture.label}", (2 + 2 * number) / num_parts, None
        distillation = time_student(teachers, architecture)
        folder = scratch / f"student-{number}"
        with timed() as saving:
            save_encoder(new_student(node, architecture, None), node.teacher_folder, folder)
        yield f"fine-tuning {architecture.label}", (3 + 2 * number) / num_parts, None
        if number == 0:
            tasks = [with_metrics(node, task, folder) for task in tasks]
        of_tasks = time_tasks(node, folder, tasks, scratch / "model", is_teacher=False)
        fixed_seconds = distillation.fixed_seconds + saving()
        times = replace(distillation, fixed_seconds=fixed_seconds)
        students.append({**_entry(study, architecture, study.student_family, of_tasks), "distillation": asdict(times)})
    yield "fine-tuning the teacher", (num_parts - 1) / num_parts, None
    of_teacher = time_tasks(node, node.teacher_folder, tasks, scratch / "model", is_teacher=True)
    yield (
        "",
        1.0,
        {
            "students": students,
            "teacher": {**_entry(study, study.teacher, study.teacher_family, of_teacher), "distillation": None},
            "assistant": None if assistant is None else asdict(assistant),
            "caching_seconds": teachers.caching_seconds,
        },
    )


def _entry(
    study: ResolvedStudy, architecture: StudentArchitecture, family: FamilyShape, tasks: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "architecture": asdict(architecture),
        "flops": architecture.flops(study.config.corpus.sequence_length, family),
        "tasks": {name: asdict(times) for name, times in tasks.items()},
    }


if __name__ == "__main__":
    answer_on_stdout(answer)
