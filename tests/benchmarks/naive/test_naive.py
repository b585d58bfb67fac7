"""Tests of the comparison with a search as one writes it from public packages."""

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import append_record
from minilm_core.results.records import Evaluation, Role, Status, TaskResult, TrialRecord
from minilm_core.settings.yaml_source import dump_yaml
from minilm_core.tasks.benchmarks import named_task
from minilm_core.tasks.splits import load_splits
from minilm_core.tasks.task import Task
from search.config.loading import load_config
from search.config.settings import SearchConfig
from tests.benchmarks.naive import compare
from tests.benchmarks.naive.material import write_corpus, write_task
from tests.benchmarks.naive.outcome import Outcome, render
from tests.benchmarks.naive.process_tree import NOTHING, Cost, run_timed
from tests.benchmarks.naive.settings import ComparedTask, Settings
from tests.benchmarks.naive.sides import PACKAGES, PROGRAM, Side, Stage, Trained, of_program, of_study, run_study
from tests.minilm_core.encoder_families import write_teacher
from tests.minilm_core.finetuning_tasks import write
from tests.paths import ROOT

OURS = {"minilm_core", "spaces", "search", "reports", "tests"}
SETTINGS = Settings(
    teacher="/teacher",
    layers=(1, 2),
    widths=(16, 24),
    head_size=8,
    corpus="/corpus.jsonl",
    tasks=(ComparedTask(name="sst2", folder="/sst2", text_columns=("sentence",), num_labels=2),),
    sequence_length=16,
    num_held_out_rows=2,
    num_steps=4,
    batch_size=2,
    relation_heads=2,
    distillation_learning_rate=1e-3,
    num_epochs=2,
    finetuning_batch_size=8,
    max_length=16,
    finetuning_learning_rate=1e-3,
    is_bf16=False,
    num_threads=1,
    num_concurrent=2,
)
RECORD = TrialRecord(
    role=Role.STUDENT,
    number=0,
    status=Status.COMPLETE,
    architecture=StudentArchitecture(num_layers=1, hidden_size=16, num_heads=2),
    num_parameters=500,
    held_out_loss=1.5,
    num_tokens=192,
    tasks={
        "sst2": TaskResult(metric="accuracy", validation=Evaluation(value=0.75, low=0.5, high=1.0, num_examples=10))
    },
    seconds={"distilling": 10.0, "fine-tuning on sst2": 4.0, "evaluating on sst2": 2.0},
)
SIDE = Side(
    cost=Cost(wall_seconds=90.0, processor_seconds=80.0),
    seconds={**dict.fromkeys(Stage, 0.0), Stage.DISTILLATION: 60.0, Stage.REST: 30.0},
    tokens={Stage.DISTILLATION: 1000, Stage.FINETUNING: 200, Stage.EVALUATION: 50},
    students={"1x16": Trained(num_parameters=500, held_out_nats=1.5, accuracies={"sst2": 0.75})},
)


def outcome_of(ours: Side) -> Outcome:
    return Outcome(settings=SETTINGS, device="a processor", versions={}, naive=SIDE, ours=ours)


def write_examples(folder: Path) -> None:
    for split, count in {"train": 24, "validation": 10, "test": 10}.items():
        sentences = [("the student learns", "the teacher knows")[number % 2] for number in range(count)]
        write(folder / f"{split}.parquet", sentence=sentences, label=[n % 2 for n in range(count)])


@pytest.fixture
def options(tmp_path: Path) -> Callable[[str], list[str]]:
    """Writes a tiny teacher of a family, text and a task, and returns the command's options that use them."""

    def written(family: str) -> list[str]:
        write_teacher(family, tmp_path / "teacher")
        write_examples(tmp_path / "sst2")
        text = tmp_path / "text.txt"
        text.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
        return [
            *(str(tmp_path / "out.json"), "--teacher", str(tmp_path / "teacher"), "--text", str(text)),
            *("--tasks", f"sst2={tmp_path / 'sst2'}", "--layers", "1", "--widths", "16", "--head-size", "8"),
            *("--relation-heads", "2", "--sequence-length", "32", "--held-out-sequences", "2", "--steps", "3"),
            *("--batch-size", "2", "--finetuning-batch-size", "8", "--max-length", "16"),
        ]

    return written


def test_the_program_imports_nothing_of_the_project() -> None:
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(node.level for node in froms)
    imported = {name.split(".")[0] for name in (*names, *(node.module or "" for node in froms))}
    assert {"ray", "bertdistiller", "transformers"} <= imported
    assert not imported & OURS


def test_our_side_is_a_space_of_the_students_without_baselines(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(dump_yaml(SETTINGS.search_yaml(tmp_path)), encoding="utf-8")
    config = load_config(path).config
    labels = {(shape.num_layers, shape.hidden_size, shape.num_heads) for shape in config.space.architectures()}
    assert labels == {(1, 16, 2), (1, 24, 3), (2, 16, 2), (2, 24, 3)}
    assert len(SETTINGS.students) == config.budget.num_trials == 4
    assert list(config.sampler.begin_with) == ["1x16", "1x24", "2x16", "2x24"]
    baselines = config.baselines
    assert not any((baselines.teacher, baselines.twin, baselines.ablations, baselines.truncated_teacher))
    assert not config.needs_latency_tables


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="multiples of the head size 8 and of 2 relation heads, got 20"):
        replace(SETTINGS, widths=(16, 20))


def test_the_corpus_has_just_enough_documents(tmp_path: Path) -> None:
    text, corpus = tmp_path / "text.jsonl", tmp_path / "corpus.jsonl"
    text.write_text("".join(json.dumps({"text": f"three words {number}"}) + "\n" for number in range(5)))
    write_corpus([text], corpus, num_tokens=7)
    assert corpus.read_text().splitlines() == text.read_text().splitlines()[:3]
    with pytest.raises(UserError, match="the text must have at least 16 words, got 15"):
        write_corpus([text], corpus, num_tokens=16)


def test_both_sides_read_the_examples_that_a_study_would_draw(tmp_path: Path) -> None:
    write_examples(tmp_path / "sst2")
    task = named_task("sst2", path=str(tmp_path / "sst2"), max_train_examples=7)
    written = write_task(task, tmp_path / "written")
    assert written == ComparedTask(
        name="sst2", folder=str(tmp_path / "written"), text_columns=("sentence",), num_labels=2
    )
    expected = load_splits(task, Path())
    train, validation = (pq.read_table(tmp_path / "written" / f"{name}.parquet") for name in ("train", "validation"))
    assert train["sentence"].to_pylist() == list(expected.train.texts[0])
    assert train["label"].to_pylist() == list(expected.train.labels)
    assert (train.num_rows, validation.num_rows) == (7, 10)
    # Evaluating on a test split would be work for one side alone.
    assert sorted(path.name for path in (tmp_path / "written").iterdir()) == ["train.parquet", "validation.parquet"]


def test_tasks_of_other_metrics_are_refused(tmp_path: Path) -> None:
    task = Task(name="cola", path=str(tmp_path), text_columns=("sentence",), metric="matthews")
    with pytest.raises(UserError, match="scored by accuracy, got cola with matthews"):
        write_task(task, tmp_path / "written")


def test_the_ratio_is_of_wall_times() -> None:
    outcome = outcome_of(replace(SIDE, cost=Cost(wall_seconds=30.0, processor_seconds=20.0)))
    assert (outcome.ratio, outcome.processor_ratio) == (3.0, 4.0)
    assert outcome.as_json()["ratio"] == 3.0
    text = render(outcome)
    assert text.splitlines()[-1] == "naive / ours, everything counted: 3.00"
    assert text.startswith("a processor; 1 threads a trial, 2 trials at a time, fp32.\n")
    assert ["1x16", "1.500", "1.500", "0.750", "0.750"] in [line.split() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("ours", "difference"),
    [
        (replace(SIDE, tokens={**SIDE.tokens, Stage.FINETUNING: 199}), "tokens of fine-tuning must be equal"),
        (replace(SIDE, students={"2x16": SIDE.students["1x16"]}), "students must be the same, got 1x16 and 2x16"),
        (
            replace(SIDE, students={"1x16": replace(SIDE.students["1x16"], num_parameters=501)}),
            "parameters of 1x16 must be equal, got 500 and 501",
        ),
    ],
    ids=["tokens", "students", "parameters"],
)
def test_no_ratio_is_printed_where_the_sides_did_not_do_the_same_work(ours: Side, difference: str) -> None:
    outcome = outcome_of(ours)
    (found,) = outcome.differences
    assert difference in found
    assert outcome.ratio is None
    assert outcome.processor_ratio is None
    assert "naive / ours" not in render(outcome)


def test_trials_side_by_side_share_the_wall_time_and_the_rest_is_what_is_left() -> None:
    finetuned = {
        "accuracy": 0.5,
        "finetuning_tokens": 10,
        "evaluation_tokens": 5,
        "finetuning_seconds": 4.0,
        "evaluation_seconds": 2.0,
    }
    students = [
        {
            "student": label,
            "num_parameters": 500,
            "held_out_loss": 1.5,
            "distillation_tokens": 100,
            "distillation_seconds": 20.0,
            "tasks": {"sst2": finetuned},
        }
        for label in ("1x16", "2x16")
    ]
    result = {"preparation_seconds": 3.0, "students": students}
    side = of_program(result, SETTINGS, Cost(wall_seconds=40.0, processor_seconds=50.0))
    assert side.seconds == {
        Stage.COMPILATION: 0.0,
        Stage.PREPARATION: 3.0,
        Stage.DISTILLATION: 20.0,
        Stage.FINETUNING: 4.0,
        Stage.EVALUATION: 2.0,
        Stage.REST: 11.0,
    }
    assert side.tokens == {Stage.DISTILLATION: 200, Stage.FINETUNING: 20, Stage.EVALUATION: 10}


@pytest.fixture
def study(options: Callable[[str], list[str]], tmp_path: Path) -> tuple[SearchConfig, Settings]:
    """Writes what a study of one complete student leaves behind, and returns its settings."""
    (tmp_path / "work").mkdir()
    settings = compare.settings_of(compare.parsed(options("bert")), tmp_path / "work")
    search_yaml = tmp_path / "work" / "search.yaml"
    search_yaml.write_text(dump_yaml(settings.search_yaml(tmp_path / "work")), encoding="utf-8")
    config = load_config(search_yaml).config
    paths = StudyPaths(root=config.study_folder)
    paths.root.mkdir(parents=True)
    seconds = {"packing the corpus": 1.0, "caching the teacher's targets": 2.0}
    paths.preparation.write_text(json.dumps({"corpus": "", "targets": {}, "seconds": seconds}), encoding="utf-8")
    append_record(paths.records, RECORD)
    return config, settings


def test_the_records_of_a_study_give_its_stages_tokens_and_students(study: tuple[SearchConfig, Settings]) -> None:
    cost = Cost(wall_seconds=30.0, processor_seconds=20.0)
    side = of_study(*study, compilation=Cost(wall_seconds=5.0, processor_seconds=4.0), study=cost)
    assert side.cost == Cost(wall_seconds=35.0, processor_seconds=24.0)
    assert side.seconds == {
        Stage.COMPILATION: 5.0,
        Stage.PREPARATION: 3.0,
        Stage.DISTILLATION: 10.0,
        Stage.FINETUNING: 4.0,
        Stage.EVALUATION: 2.0,
        Stage.REST: 11.0,
    }
    # Three words and two special tokens in each of 24 and 10 examples.
    assert side.tokens == {Stage.DISTILLATION: 192, Stage.FINETUNING: 24 * 5, Stage.EVALUATION: 10 * 5}
    assert side.students == {"1x16": Trained(num_parameters=500, held_out_nats=1.5, accuracies={"sst2": 0.75})}


def test_a_study_with_a_student_that_failed_is_refused(study: tuple[SearchConfig, Settings]) -> None:
    config, settings = study
    failed = replace(RECORD, number=1, status=Status.FAILED)
    append_record(StudyPaths(root=config.study_folder).records, failed)
    with pytest.raises(UserError, match="all students must be trained to the end, got trial 1 in"):
        of_study(config, settings, compilation=NOTHING, study=NOTHING)


def test_the_processor_time_of_what_a_command_starts_is_counted(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 2.5: pass"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"]
    cost = run_timed(command, folder=tmp_path, environment={})
    # Up to a second before the end of each process is lost.
    assert 1.0 < cost.processor_seconds < 4.0
    assert cost.wall_seconds > 2.0


def test_a_side_that_fails_ends_the_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must end without a failure, got exit code 3"):
        run_timed([sys.executable, "-c", "raise SystemExit(3)"], folder=tmp_path, environment={})


def test_a_command_without_the_packages_says_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "PACKAGES", tmp_path)
    with pytest.raises(SystemExit, match="2"):
        compare.main([str(tmp_path / "out.json")])
    assert "make bench-naive" in capsys.readouterr().err


@pytest.mark.long
def test_our_side_counts_the_tokens_and_the_time_of_all_its_students(
    options: Callable[[str], list[str]], tmp_path: Path
) -> None:
    parsed = compare.parsed([*options("bert"), "--layers", "1", "2"])
    (tmp_path / "work").mkdir()
    side = run_study(compare.settings_of(parsed, tmp_path / "work"), tmp_path / "work" / "ours", is_warm=True)
    assert sorted(side.students) == ["1x16", "2x16"]
    # Three steps of two rows of 32 tokens; three words and two special tokens in each of 24 and 10 examples.
    assert side.tokens == {
        Stage.DISTILLATION: 2 * 3 * 2 * 32,
        Stage.FINETUNING: 2 * 24 * 5,
        Stage.EVALUATION: 2 * 10 * 5,
    }
    assert {stage for stage, seconds in side.seconds.items() if seconds <= 0} == {Stage.COMPILATION}
    assert sum(side.seconds.values()) == pytest.approx(side.cost.wall_seconds)


@pytest.mark.long
@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.skipif(not (PACKAGES / "installed").exists(), reason="make bench-naive installs what the program needs")
def test_both_sides_train_the_same_students_on_the_same_tokens(
    family: str, options: Callable[[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.main([*options(family), "--warm"])
    figures = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert figures["differences"] == []
    assert figures["ratio"] > 0
    assert "naive / ours, everything counted" in capsys.readouterr().out
