"""Whole studies, from the command line, with Ray: one of everything, then what goes wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from minilm_core.errors import FailureKind
from minilm_core.records import Role, Status, TrialRecord, read_records
from reports import load_study
from search.job import ProgressLog
from search.searcher import STUDY_NAME
from search.storage import StudyPaths, TrialPaths

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NO_BASELINES = ("baselines.teacher=false", "baselines.twin=false")


# As the installed script: the current folder is not among those that are imported from.
COMMAND = f"import sys; sys.path[:] = [{str(ROOT)!r}, *filter(None, sys.path)]; from search.cli import main; main()"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", COMMAND, *map(str, arguments)]


def run(*arguments: object, timeout: float = 300, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False)


def launch_words(material: Path, studies: Path, overrides: Sequence[str]) -> list[object]:
    settings = [f"storage.path={studies}", *overrides]
    return ["launch", material / "search.yaml", *(word for setting in settings for word in ("--set", setting))]


def launch(material: Path, studies: Path, *overrides: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run(*launch_words(material, studies, overrides), cwd=cwd)


def students(study: StudyPaths) -> list[TrialRecord]:
    return [record for record in read_records(study.records) if record.role is Role.STUDENT]


def optuna_states(study: StudyPaths) -> Counter[TrialState]:
    storage = JournalStorage(JournalFileBackend(str(study.journal)))
    loaded = optuna.load_study(study_name=STUDY_NAME, storage=storage)
    return Counter(trial.state for trial in loaded.get_trials(deepcopy=False))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A current folder whose files have the names of modules that a search imports; none may be run."""
    folder = tmp_path_factory.mktemp("strangers")
    for module in ("search", "minilm_core", "spaces", "tokenizers", "json", "torch", "ray", "numba", "optuna"):
        text = f"from pathlib import Path\nPath({str(folder / 'run')!r}).touch()\nraise ImportError('a stranger')\n"
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(material: Path, strangers: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    """A study of three trials over three objectives with both baselines, run in a folder of strangers' files."""
    studies = tmp_path_factory.mktemp("studies")
    overrides = (
        "budget.num_trials=3",
        "resources.max_concurrent_trials=2",
        "objectives=[accuracy, latency_ms, size_bytes]",
        f"storage.mirror={studies / 'mirror'}",
    )
    done = launch(material, studies, *overrides, cwd=strangers)
    assert done.returncode == 0, done.stderr
    assert "next: minilm-search report" in done.stderr
    assert not (strangers / "run").exists()
    return StudyPaths(root=studies / "tiny")


def test_every_trial_asked_for_ends_with_a_record(finished: StudyPaths) -> None:
    counted = [record for record in students(finished) if record.counts_for_budget]
    assert [record.status for record in counted] == [Status.COMPLETE] * 3
    assert all(record.objectives.keys() == {"accuracy", "latency_ms", "size_bytes"} for record in counted)
    assert optuna_states(finished)[TrialState.COMPLETE] == 3


def test_the_teacher_and_the_best_students_twin_are_measured_too(finished: StudyPaths) -> None:
    study = load_study(finished.root)
    assert study.teacher is not None
    assert study.twin is not None
    assert study.best is not None
    assert study.twin.twin_of == study.best.number
    assert study.twin.architecture == study.best.architecture


def test_every_students_folders_load_as_transformers_saves_them(finished: StudyPaths) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    for record in students(finished):
        paths = TrialPaths(root=finished.trial_folder(record.number))
        assert AutoModel.from_pretrained(paths.student).num_parameters() == record.num_parameters
        assert AutoModelForSequenceClassification.from_pretrained(paths.finetuned("mood")).config.num_labels == 2
        assert AutoTokenizer.from_pretrained(paths.student)("the teacher")["input_ids"]


def test_the_mirror_holds_the_records_whole(finished: StudyPaths) -> None:
    mirrored = finished.root.parent / "mirror" / "tiny" / "records.jsonl"
    assert mirrored.read_bytes() == finished.records.read_bytes()


def test_tunes_own_files_are_gone(finished: StudyPaths) -> None:
    assert not finished.scratch.exists()


def test_launching_a_finished_study_again_changes_nothing(finished: StudyPaths) -> None:
    before = finished.records.read_bytes()
    done = run("launch", finished.search_yaml)
    assert done.returncode == 0, done.stderr
    assert "tiny: done, 3 of 3 trials ended" in done.stdout
    assert finished.records.read_bytes() == before


def test_the_path_goes_on_to_a_verified_package(finished: StudyPaths, strangers: Path, tmp_path: Path) -> None:
    reported = run("report", finished.root, cwd=strangers)
    assert reported.returncode == 0, reported.stderr
    assert (finished.report / "report.html").stat().st_size > 100_000
    assert run("pick", finished.root, "--prefer", "best", cwd=strangers).returncode == 0
    packaged = run("package", finished.root, "--picked", "-o", tmp_path / "student", cwd=strangers)
    assert packaged.returncode == 0, packaged.stderr
    verified = run("verify", tmp_path / "student", "--json", cwd=strangers)
    assert verified.returncode == 0, verified.stdout
    assert json.loads(verified.stdout)["is_ok"]
    assert not (strangers / "run").exists()


@pytest.mark.parametrize("students_per_worker", [1, 2])
def test_a_killed_search_is_resumed_to_exactly_the_trials_asked_for(
    material: Path, tmp_path: Path, students_per_worker: int
) -> None:
    slow_trials = ("budget.num_trials=4", "resources.max_concurrent_trials=2", "distillation.num_steps=400")
    together = f"resources.students_per_worker={students_per_worker}"
    study = StudyPaths(root=tmp_path / "tiny")
    words = launch_words(material, tmp_path, (*slow_trials, together, *NO_BASELINES))
    driver = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(students(study)) >= 1 and optuna_states(study)[TrialState.RUNNING] >= 1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {record.number: record for record in students(study)}
    assert 1 <= len(before) < 4
    assert run("status", study.root, "--json").stdout.count('"state": "interrupted"') == 1

    resumed = run("resume", study.root)
    assert resumed.returncode == 0, resumed.stderr
    after = {record.number: record for record in students(study)}
    assert len([record for record in after.values() if record.counts_for_budget]) == 4
    assert all(after[number] == record for number, record in before.items())
    assert len(study.records.read_text().splitlines()) == len(after)
    assert optuna_states(study)[TrialState.RUNNING] == 0
    assert optuna_states(study)[TrialState.COMPLETE] == 4
    logs = [ProgressLog(TrialPaths(root=study.trial_folder(number)).progress).lines() for number in after]
    assert max(len(line["students"]) for lines in logs for line in lines) == students_per_worker


def test_a_search_told_to_end_says_how_to_go_on(material: Path, tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    words = launch_words(material, tmp_path, ("budget.num_trials=50", *NO_BASELINES))
    driver = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(students(study)) >= 1)
    driver.send_signal(signal.SIGTERM)
    _, stderr = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert "interrupted; nothing recorded is lost" in stderr
    assert "Traceback" not in stderr


def test_two_drivers_never_run_one_study(material: Path, tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    words = launch_words(material, tmp_path, ("budget.num_trials=50", *NO_BASELINES))
    driver = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: study.records.exists())
        second = run("resume", study.root)
        assert second.returncode == 2
        assert "a study must have one driver at a time" in second.stderr
        assert '"state": "running"' in run("status", study.root, "--json").stdout
    finally:
        driver.terminate()
        driver.wait(timeout=120)


def test_several_workers_teach_several_students_under_ray_train(material: Path, tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    obstacle = TrialPaths(root=study.trial_folder(1)).finetuned("mood").parent
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where a folder is to be: the second student fails alone")
    three = ("budget.num_trials=3", "resources.students_per_worker=3")
    done = launch(material, tmp_path, *three, "resources.workers_per_trial=2", *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    records = {record.number: record for record in students(study) if record.counts_for_budget}
    assert len(records) == 3
    complete = [record for record in records.values() if record.status is Status.COMPLETE]
    assert [record.num_workers for record in complete] == [2, 2]
    assert records[1].failure is not None
    assert records[1].failure.kind is FailureKind.CRASH


def test_a_failure_that_repeats_stops_the_search_with_one_traceback(material: Path, tmp_path: Path) -> None:
    limits = ("budget.num_trials=20", "budget.trial_timeout_minutes=1e-9", "budget.max_identical_failures=2")
    done = launch(material, tmp_path, *limits, *NO_BASELINES)
    failed = students(StudyPaths(root=tmp_path / "tiny"))
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert {record.failure.kind for record in failed if record.failure} == {FailureKind.TIME_OUT}
    assert 2 <= len(failed) <= 3


def test_a_failed_trial_costs_one_trial_and_not_the_search(material: Path, tmp_path: Path) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    paths = TrialPaths(root=study.trial_folder(0))
    paths.root.mkdir(parents=True)
    paths.student.write_text("a file where the student's folder is to be")
    done = launch(material, tmp_path, "budget.num_trials=3", *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    ended = {record.number: record for record in students(study) if record.counts_for_budget}
    assert Counter(record.status for record in ended.values()) == {Status.COMPLETE: 2, Status.FAILED: 1}
    assert ended[0].failure is not None
    assert ended[0].failure.kind is FailureKind.CRASH
    assert "Traceback" in paths.log.read_text()
    assert optuna_states(study)[TrialState.FAIL] == 1


def test_a_budget_of_device_hours_ends_the_search_with_exit_code_3(material: Path, tmp_path: Path) -> None:
    done = launch(material, tmp_path, "budget.num_trials=50", "budget.max_device_hours=1e-6", *NO_BASELINES)
    assert done.returncode == 3, done.stderr
    assert len([record for record in students(StudyPaths(root=tmp_path / "tiny")) if record.counts_for_budget]) == 1


def test_a_space_of_few_students_ends_when_all_are_tried(material: Path, tmp_path: Path) -> None:
    space = (
        "space={num_layers: [1], hidden_sizes: [16], head_sizes: [4, 8], "
        "distillation_learning_rate: [1e-3], finetuning_learning_rate: [1e-3]}"
    )
    done = launch(material, tmp_path, space, "budget.num_trials=5", *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    assert "the space holds no other student" in done.stdout
    tried = [record for record in students(StudyPaths(root=tmp_path / "tiny")) if record.counts_for_budget]
    assert {record.architecture.num_heads for record in tried} == {2, 4}
    assert len(tried) == 2


def test_settings_that_kept_a_study_from_running_may_be_mended(material: Path, tmp_path: Path) -> None:
    refused = launch(material, tmp_path, "limits.max_size_bytes=1kB")
    assert refused.returncode == 2
    assert "limits must admit at least one student of the space" in refused.stderr
    wrong = launch(material, tmp_path, "corpus.sources=[{path: corpus.jsonl, column: body}]", *NO_BASELINES)
    assert wrong.returncode == 2
    assert len([line for line in wrong.stderr.splitlines() if line.startswith("minilm-search: ")]) == 1
    assert "body" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    mended = launch(material, tmp_path, "budget.num_trials=1", *NO_BASELINES)
    assert mended.returncode == 0, mended.stderr


def test_a_request_for_more_trials_is_kept_and_not_repeated_when_it_is_made_again(
    material: Path, tmp_path: Path
) -> None:
    study = StudyPaths(root=tmp_path / "tiny")
    assert launch(material, tmp_path, "budget.num_trials=1", *NO_BASELINES).returncode == 0
    more = ("resume", study.root, "--add-trials", "6")
    driver = subprocess.Popen(command(*more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len([record for record in students(study) if record.counts_for_budget]) >= 2)
    driver.send_signal(signal.SIGTERM)
    _, stderr = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert f"`minilm-search resume {study.root}` goes on from here." in stderr
    again = run(*more)
    assert again.returncode == 0, again.stderr
    assert "--add-trials adds none until all 7 trials asked for before have ended" in again.stderr
    assert "tiny: done, 7 of 7 trials ended" in again.stdout


def wait_for(is_so: Callable[[], bool], seconds: float = 180) -> None:
    """Polls a condition on the files of another process; nothing else tells when it is so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if is_so():
                return
        except (FileNotFoundError, KeyError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError("the search did not come that far in time")


def test_a_search_with_an_assistant_teaches_it_first_and_reports_its_cost(material: Path, tmp_path: Path) -> None:
    assisted = ("assistant={hidden_size: 12, num_heads: 2, num_steps: 4, learning_rate: 1.0e-3}",)
    small = ("space.num_layers=[1]", "space.hidden_sizes=[12]", "space.head_sizes=[4]")
    done = launch(material, tmp_path, "budget.num_trials=2", *assisted, *small, *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    assert [record.status for record in students(study) if record.counts_for_budget] == [Status.COMPLETE] * 2
    assert study.assistant.student.is_dir()
    assert run("report", study.root).returncode == 0
    assert "teaching the assistant " in (study.report / "report.md").read_text(encoding="utf-8")


def test_students_share_a_worker_by_themselves_where_their_teacher_runs_beside_them(
    material: Path, tmp_path: Path
) -> None:
    # A quarter of the trials at most share a worker.
    overrides = ("budget.num_trials=8", "resources.max_concurrent_trials=1", "storage.max_cache_bytes=1kB")
    small = ("space.num_layers=[1]", "space.hidden_sizes=[16]", f"storage.cache={tmp_path}/cache")
    done = launch(material, tmp_path, *overrides, *small, *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    assert [record.status for record in students(study) if record.counts_for_budget] == [Status.COMPLETE] * 8
    assert json.loads(study.students_per_worker.read_text(encoding="utf-8")) == 2
    steps = ProgressLog(TrialPaths(root=study.trial_folder(0)).progress).lines()
    assert any(len(line["students"]) == 2 for line in steps)


def test_the_same_search_runs_on_a_cluster_that_is_there(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One mode for the cluster and who joins it: Ray's defaults for the two differ.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port = free_port()
    ray = Path(sys.executable).with_name("ray")
    start = [ray, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    head = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert head.stdout is not None
        assert any("--block" in line for line in head.stdout), "the cluster is up once it says that it will stay"
        words = launch_words(material, tmp_path, ("budget.num_trials=2", *NO_BASELINES))
        done = run(*words, "--address", f"127.0.0.1:{port}")
        assert done.returncode == 0, done.stderr
        assert [record.status for record in students(StudyPaths(root=tmp_path / "tiny"))] == [Status.COMPLETE] * 2
    finally:
        head.terminate()
        head.communicate(timeout=60)


def test_an_address_without_a_cluster_is_answered_by_one_line(material: Path, tmp_path: Path) -> None:
    words = launch_words(material, tmp_path, ("budget.num_trials=2", *NO_BASELINES))
    done = run(*words, "--address", f"127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "--address must be that of a running Ray cluster" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "address", "message"),
    [
        ("resources.cpus_per_worker=1000", (), "the cluster must have room for the 1 workers of a trial"),
        ("seed=4", ("--address", "ray://127.0.0.1:10001"), "--address must be HOST:PORT or auto"),
    ],
)
def test_a_cluster_that_cannot_run_the_search_is_refused(
    material: Path, tmp_path: Path, setting: str, address: tuple[str, ...], message: str
) -> None:
    done = run(*launch_words(material, tmp_path, (setting, *NO_BASELINES)), *address)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
