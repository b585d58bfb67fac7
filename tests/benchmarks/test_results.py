"""Tests of the cells of the published results, and of the command that makes them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.record_lines import append_record, read_records
from minilm_core.results.records import Role
from minilm_core.settings.yaml_source import dump_yaml
from reports.results_page import Catalogue, Cell, ResultsFolder, append_results, load_catalogue, read_results
from search.config.loading import load_config
from search.config.settings import Baselines
from search.study.resolved import ResolvedStudy, find_study
from tests.benchmarks import results
from tests.benchmarks.results_cost import expected
from tests.benchmarks.results_studies import Folders, settings, take_over, write_settings
from tests.minilm_core.encoder_families import write_teacher
from tests.paths import ROOT, SHARED_DATA, needs_shared_data
from tests.reports.results_page.example_results import records
from tests.search.searching import make_record

CATALOGUE = load_catalogue(ResultsFolder(root=ROOT / "reports" / "results").cells)
TINY = """
recipes:
  - name: tiny
    initialisation: random
    distillation_learning_rate: 1.0e-3
    finetuning_learning_rate: 1.0e-3
    distillation: {relation_heads: 2, num_steps: 4, batch_size: 4, num_evaluations: 2}
    finetuning: {num_epochs: 1, max_length: 32}
groups:
  - name: tiny
    title: a tiny teacher
    recipe: tiny
    search:
      teacher: {model: tiny}
      corpus: {sources: [{path: en_mixed.jsonl.zst}], max_tokens: 4000, sequence_length: 32, held_out_sequences: 4}
      tasks: [{name: rte, path: rte, max_train_examples: 64, max_validation_examples: 64}]
      latency: {sequence_length: 32}
      finetuning: {num_seeds: 2}
cells:
  - {name: tiny-1x16, group: tiny, num_layers: 1, hidden_size: 16, num_heads: 2}
  - {name: tiny-1x8, group: tiny, num_layers: 1, hidden_size: 8, num_heads: 2}
  - {name: tiny-2x8, group: tiny, num_layers: 2, hidden_size: 8, num_heads: 2}
"""


def folders(tmp_path: Path) -> Folders:
    return Folders(data=SHARED_DATA, corpus=SHARED_DATA / "corpus", teachers=tmp_path / "teachers", work=tmp_path)


def write_teachers(tmp_path: Path, *names: str) -> None:
    for name in names:
        write_teacher("bert", tmp_path / "teachers" / name)


def tiny_cells(tmp_path: Path) -> Path:
    path = tmp_path / "cells.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def call(tmp_path: Path, *words: str) -> None:
    options = ["--cells", str(tiny_cells(tmp_path)), "--records", str(tmp_path / "records.jsonl")]
    where = ["--data", str(SHARED_DATA), "--teachers", str(tmp_path / "teachers"), "--work", str(tmp_path / "work")]
    results.main([*options, *where, *words])


@pytest.mark.parametrize("cell", CATALOGUE.cells, ids=lambda cell: cell.name)
def test_the_settings_of_every_declared_cell_are_valid(cell: Cell, tmp_path: Path) -> None:
    for name in ("e5-small-multilingual", "mpnet-base"):
        (tmp_path / "teachers" / name).mkdir(parents=True)
    config = write_settings(CATALOGUE, cell, folders(tmp_path), ())
    assert list(config.space.architectures()) == [cell.architecture]
    assert config.baselines == Baselines(teacher=True, twin=True, truncated_teacher=True, ablations=False)
    assert config.name == cell.name


def test_the_five_tasks_have_three_seeds_and_ten_thousand_sentences_of_sst2(tmp_path: Path) -> None:
    config = write_settings(CATALOGUE, CATALOGUE.cell("minilm-l6-3x288"), folders(tmp_path), ())
    assert [task.name for task in config.tasks] == ["sst2", "cola", "mrpc", "rte", "stsb"]
    assert (config.finetuning.num_seeds, config.tasks[0].max_train_examples) == (3, 10_000)


def test_nothing_that_is_declared_names_a_folder_of_a_machine() -> None:
    text = (ROOT / "reports" / "results" / "cells.yaml").read_text(encoding="utf-8")
    assert "path: /" not in text
    assert "model: /" not in text


def test_an_unknown_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="results: a cell must be one of tiny-1x16, tiny-1x8, tiny-2x8, got other"):
        call(tmp_path, "--cell", "other")


def test_a_teacher_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="results: --teachers must be a folder that has tiny, got "):
        call(tmp_path, "--cell", "tiny-1x8")


def test_a_folder_of_data_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="results: --data must be the folder of the tasks, got None"):
        results.main(["--cell", "minilm-l6-3x288", "--records", str(tmp_path / "records.jsonl")])


def test_a_cell_that_is_made_is_refused(tmp_path: Path) -> None:
    append_results(tmp_path / "records.jsonl", records(cell="tiny-1x8"))
    with pytest.raises(
        SystemExit, match=r"must not be made twice, got tiny-1x8 of 2026-01-02.*; --again makes it anew"
    ):
        call(tmp_path, "--cell", "tiny-1x8")


def test_without_a_cell_all_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_results(tmp_path / "records.jsonl", records(cell="tiny-1x8"))
    call(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["tiny-1x16: missing", "tiny-1x8: made", "tiny-2x8: missing"]


def study_of(catalogue: Catalogue, name: str, tmp_path: Path, *overrides: str) -> ResolvedStudy:
    config = write_settings(catalogue, catalogue.cell(name), folders(tmp_path), overrides)
    return find_study(config, StudyPaths(root=config.study_folder))


def write_finished(study: ResolvedStudy) -> None:
    """Writes the files of a study that has a fine-tuned teacher and a distilled student, as a search would."""
    paths = study.paths
    (student,) = study.space.architectures()
    trial = TrialPaths(root=paths.trial_folder(0))
    for folder in (trial.student, TrialPaths(root=paths.teacher_folder).finetuned("rte"), paths.outcomes / "teacher"):
        folder.mkdir(parents=True)
        (folder / "file").write_text("weights", encoding="utf-8")
    lines = ('{"stage": "distilling", "seconds": 2}', '{"stage": "fine-tuning on rte", "seconds": 3}', '{"sta')
    trial.progress.write_text("\n".join(lines), encoding="utf-8")
    choice = study.space.decode(
        {"num_layers": student.num_layers, "hidden_size": student.hidden_size, "intermediate_ratio": 4.0}
        | {"distillation_learning_rate": 1e-3, "finetuning_learning_rate": 1e-3}
    )
    record = replace(make_record(0, choice, role=Role.TEACHER), architecture=study.teacher)
    append_record(paths.records, record)
    paths.search_yaml.write_text(
        (paths.root.parents[1] / "cells" / f"{paths.root.name}.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )


def test_a_cell_takes_over_the_teacher_that_another_one_fine_tuned(tmp_path: Path) -> None:
    write_teachers(tmp_path, "tiny")
    catalogue = load_catalogue(tiny_cells(tmp_path))
    write_finished(study_of(catalogue, "tiny-1x16", tmp_path))
    study = study_of(catalogue, "tiny-1x8", tmp_path)
    assert take_over(study, folders(tmp_path).studies) == ["the fine-tuned teacher of tiny-1x16"]
    assert [record.role for record in read_records(study.paths.records)] == [Role.TEACHER]
    assert (TrialPaths(root=study.paths.teacher_folder).finetuned("rte") / "file").exists()
    assert (study.paths.outcomes / "teacher" / "file").exists()
    assert not study.paths.trial_folder(0).exists()


def test_a_cell_of_another_recipe_takes_nothing_over(tmp_path: Path) -> None:
    write_teachers(tmp_path, "tiny")
    catalogue = load_catalogue(tiny_cells(tmp_path))
    write_finished(study_of(catalogue, "tiny-1x16", tmp_path))
    study = study_of(catalogue, "tiny-1x8", tmp_path, "finetuning.num_epochs=2")
    assert take_over(study, folders(tmp_path).studies) == []
    assert not study.paths.root.exists()


def other_task(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "name": "other", "tasks": [{**content["tasks"][0], "name": "mrpc"}]}


def test_a_distilled_student_is_taken_over_for_another_task_with_its_own_time_alone(tmp_path: Path) -> None:
    write_teachers(tmp_path, "tiny")
    catalogue = load_catalogue(tiny_cells(tmp_path))
    first = study_of(catalogue, "tiny-1x16", tmp_path)
    write_finished(first)
    path = tmp_path / "other.yaml"
    path.write_text(
        dump_yaml(other_task(settings(catalogue, catalogue.cell("tiny-1x16"), folders(tmp_path)))), encoding="utf-8"
    )
    config = load_config(path).config
    study = find_study(config, StudyPaths(root=config.study_folder))
    assert take_over(study, folders(tmp_path).studies) == ["the distilled student of tiny-1x16"]
    new = TrialPaths(root=study.paths.trial_folder(0))
    assert new.progress.read_text(encoding="utf-8") == '{"stage": "distilling", "seconds": 2}\n'
    assert (new.student / "file").exists()


def test_a_study_that_has_begun_takes_nothing_over(tmp_path: Path) -> None:
    write_teachers(tmp_path, "tiny")
    catalogue = load_catalogue(tiny_cells(tmp_path))
    write_finished(study_of(catalogue, "tiny-1x16", tmp_path))
    study = study_of(catalogue, "tiny-1x8", tmp_path)
    study.paths.trials.mkdir(parents=True)
    assert take_over(study, folders(tmp_path).studies) == []


@needs_shared_data
def test_what_is_made_already_is_not_expected_to_take_time(tmp_path: Path) -> None:
    write_teachers(tmp_path, "tiny")
    catalogue = load_catalogue(tiny_cells(tmp_path))
    study = study_of(catalogue, "tiny-1x16", tmp_path)
    whole = expected(study).seconds
    write_finished(study)
    left = expected(study).seconds
    assert set(whole) - set(left) == {"distillation", "the teacher's targets", "fine-tuning the teacher"}
    assert set(left) == {"fine-tuning the student", "fine-tuning the twin", "fine-tuning the truncated teacher"}
    assert min(whole.values()) > 0


@needs_shared_data
@pytest.mark.long
@pytest.mark.slow
def test_a_cell_that_takes_too_long_waits_and_one_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_teachers(tmp_path, "tiny")
    with monkeypatch.context() as patch:
        patch.setattr(results, "LONGEST_MINUTES", 0.0)
        with pytest.raises(SystemExit, match="a cell must take at most 0 minutes"):
            call(tmp_path, "--cell", "tiny-1x16")
    # Interrupted after its search and before its records were appended.
    results.launch(tmp_path / "work" / "cells" / "tiny-1x16.yaml", ())
    trained = read_records(tmp_path / "work" / "studies" / "tiny-1x16" / "records.jsonl")
    call(tmp_path, "--cell", "tiny-1x16")
    call(tmp_path, "--cell", "tiny-1x8", "--set", "distillation.num_steps=3")
    assert "taken over: the fine-tuned teacher of tiny-1x16" in capfd.readouterr().out
    made = read_results(tmp_path / "records.jsonl")
    assert [record.role for record in made[:4]] == [Role.STUDENT, Role.TEACHER, Role.TWIN, Role.TRUNCATED_TEACHER]
    first, second = made[0], made[4]
    assert first.provenance.date == next(each.finished_at for each in trained if each.role is Role.STUDENT)
    assert (first.overrides, second.overrides) == ((), ("distillation.num_steps=3",))
    assert (first.training.num_tokens, first.training.seeds) == (4 * 4 * 32, (0, 1))
    assert first.share_of_teacher is not None
    assert first.gain_over_twin is not None
    assert set(first.provenance.data_sha256) == {"rte/train.parquet", "rte/validation.parquet", "en_mixed.jsonl.zst"}
    assert made[1].mean.value == made[5].mean.value, "both cells have the same teacher"
