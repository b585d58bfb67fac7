"""Tests of the command that times trained students."""

import json
import shutil
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.latency import LatencyTarget, Runtime, read_benches
from minilm_core.results.layout import StudyPaths
from reports import load_study
from search.cli.terminal import ExitCode
from search.commands.bench import bench_students
from tests.paths import EARLIER_STUDY
from tests.search.fuzzing import check_ends_well


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with a trained student, of which the tables and the settings name this folder."""
    shutil.copytree(EARLIER_STUDY, tmp_path / "material")
    search_yaml = tmp_path / "material" / "studies" / "tiny" / "search.yaml"
    text = search_yaml.read_text(encoding="utf-8").replace("ROOT", str(tmp_path / "material"))
    search_yaml.write_text(text, encoding="utf-8")
    return search_yaml.parent


@pytest.mark.slow
def test_students_are_timed_in_each_runtime_and_the_timings_are_kept(study: Path) -> None:
    pytest.importorskip("onnxruntime", reason="timing with ONNX Runtime needs the onnx extra")
    options = ("--trial", "0", "--sequence-length", "16", "--runtime", "torch,onnxruntime-int8")
    ended = check_ends_well(study.parent, "bench", str(study), *options, "--json")
    assert ended.code == ExitCode.DONE
    kept = read_benches(StudyPaths(root=study).benches)
    targets = [
        LatencyTarget(sequence_length=16, runtime=runtime) for runtime in (Runtime.TORCH, Runtime.ONNXRUNTIME_INT8)
    ]
    assert {(key.trial, key.target) for key in kept} == {(0, target) for target in targets}
    for timing in kept.values():
        assert 0 < timing.p50_ms <= timing.percentiles_ms[90] <= timing.percentiles_ms[95]
        assert timing.num_samples >= 5 * 13
        assert timing.load_seconds > 0
        assert timing.memory_bytes is not None
        assert timing.memory_bytes > 1e7
    sizes = [timing.file_bytes for timing in kept.values()]
    assert sizes[0] == (study / "trials/0000/student/model.safetensors").stat().st_size
    assert sizes[1] is not None
    printed = json.loads(ended.stdout)["timings"]
    assert [line["p50_ms"] for line in printed] == [timing.p50_ms for timing in kept.values()]


@pytest.mark.slow
def test_folders_of_students_are_timed_without_a_study(study: Path, tmp_path: Path) -> None:
    first, second = study / "trials/0000/student", tmp_path / "a copy"
    shutil.copytree(first, second)
    ended = check_ends_well(tmp_path, "bench", str(first), str(second), "--sequence-length", "16", "--json")
    assert ended.code == ExitCode.DONE
    timings = json.loads(ended.stdout)["timings"]
    assert [timing["folder"] for timing in timings] == [str(first), str(second)]
    assert timings[0]["file_bytes"] == timings[1]["file_bytes"] > 0
    assert all(timing["p50_ms"] > 0 for timing in timings)
    assert not StudyPaths(root=study).benches.exists()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["nowhere"], "bench needs a study, or folders of students with config.json, got nowhere"),
        (["nowhere", "--front"], "a study must be a folder that launch made, with search.yaml in it, got nowhere"),
        (["STUDY", "STUDY", "--front"], "bench times the students of one study, got 2 folders"),
    ],
)
def test_folders_that_hold_nothing_to_time_are_refused(study: Path, folders: list[str], message: str) -> None:
    words = [str(study) if word == "STUDY" else word for word in folders]
    ended = check_ends_well(study.parent, "bench", *words)
    assert (ended.code, ended.stderr) == (ExitCode.USAGE, f"minilm-search: {message}\n")


@pytest.mark.slow
def test_sequences_that_are_too_long_are_refused_in_one_line(study: Path) -> None:
    ended = check_ends_well(study.parent, "bench", str(study), "--trial", "0", "--sequence-length", "9999")
    assert ended.code == ExitCode.USAGE
    assert "sequence_length must be at most" in ended.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "bench needs one of --front, --picked and --trial"),
        (["--trial", "99"], "--trial must be that of a complete student, got 99"),
        (
            ["--front", "--runtime", "tflite"],
            "--runtime must be one of torch, onnxruntime, onnxruntime-int8, torch-compile, openvino, got tflite",
        ),
        (["--front", "--threads", "0"], "num_threads must be at least 1, got 0"),
    ],
)
def test_bench_refuses_what_it_cannot_time(study: Path, options: list[str], message: str) -> None:
    ended = check_ends_well(study.parent, "bench", str(study), *options)
    assert (ended.code, ended.stderr) == (ExitCode.USAGE, f"minilm-search: {message}\n")


def test_a_student_whose_folder_is_gone_is_named(study: Path) -> None:
    paths = StudyPaths(root=study)
    students = load_study(study).students
    shutil.rmtree(study / "trials")
    with pytest.raises(UserError, match="bench needs the student of trial"):
        bench_students(paths, students, [LatencyTarget()], lambda _stage, _done: None)
