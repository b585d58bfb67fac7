"""Times a study's trained students on this machine, and keeps the timings beside its records."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.latency.bench import bench_in_fresh_process
from minilm_core.latency.bench_timings import BenchTiming, append_bench
from minilm_core.latency.target import LatencyTarget, fingerprint
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.records import TrialRecord
from minilm_core.runtimes.onnx_extra import require_onnx

Shown = Callable[[str, float], None]


def _show_stage(show: Shown, label: str, stage: str, done: float) -> None:
    show(f"{label}, {stage}", done)


def check_targets(targets: Sequence[LatencyTarget]) -> None:
    """Checks that this machine has every target, before minutes go into the first ones.

    Raises:
        UserError: if it lacks a device or a runtime.
    """
    for target in targets:
        fingerprint(target.device, target.runtime)
        if not target.runtime.is_torch:
            require_onnx()


def bench_folders(folders: Sequence[Path], target: LatencyTarget, show: Shown) -> list[BenchTiming]:
    """Times the students of some folders on a target, in a process of its own.

    Raises:
        UserError: if a student cannot be loaded, or the target cannot be timed here.
    """
    return bench_in_fresh_process(folders, target, partial(_show_stage, show, target.label))


def bench_students(
    paths: StudyPaths, students: Sequence[TrialRecord], targets: Sequence[LatencyTarget], show: Shown
) -> list[tuple[TrialRecord, BenchTiming]]:
    """Times students on each target in turn, each in a process of its own, and appends the timings to the study.

    Raises:
        UserError: if a student's folder is gone, or a target cannot be timed here; targets before it are kept.
    """
    folders = []
    for student in students:
        model = paths.model_folder(student.role, student.number, student.extended_to)
        folder = TrialPaths(root=model).student
        if not folder.is_dir():
            raise UserError(f"bench needs the student of {student.label}, got none in {folder}")
        folders.append(folder)
    found: list[tuple[TrialRecord, BenchTiming]] = []
    for target in targets:
        for student, timing in zip(students, bench_folders(folders, target, show), strict=True):
            append_bench(paths.benches, student.number, timing)
            found.append((student, timing))
    return found
