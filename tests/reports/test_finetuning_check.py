"""Tests of the check of the search's fine-tuning: what it says of a ranking and of a choice, and its files."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from minilm_core.errors import UserError
from minilm_core.results.record_lines import append_record
from minilm_core.results.records import Evaluation, Status, TaskResult, TrialRecord
from reports import Study, load_finetuning_check, write_report
from reports.finetuning_check import FinetuningCheckResult
from tests.reports.example_studies import TASK, student, write_study

SEARCHED = (0.70, 0.72, 0.74, 0.76, 0.78, 0.80)


def checked_study(
    folder: Path,
    searched: Sequence[float],
    full: Sequence[float | None],
    *,
    preset: str | None = "glue",
    num_layers: Sequence[int] | None = None,
) -> Study:
    """A study whose first students were fine-tuned again; a run whose accuracy is None is not there yet."""
    layers = num_layers or [2] * len(searched)
    records = [measured(n, value, layers[n]) for n, value in enumerate(searched)]
    study = write_study(folder, records)
    study.paths.finetuning_check.mkdir()
    overrides = [] if preset else ["finetuning.num_epochs=7"]
    plan = {"preset": preset, "overrides": overrides, "students": list(range(len(full)))}
    study.paths.finetuning_check_plan.write_text(json.dumps(plan), encoding="utf-8")
    for number, value in enumerate(full):
        if value is not None:
            append_record(study.paths.finetuning_check_records, measured(number, value, layers[number]))
    return study


def measured(number: int, accuracy: float, num_layers: int) -> TrialRecord:
    value = Evaluation(value=accuracy, low=accuracy - 0.05, high=accuracy + 0.05, num_examples=200)
    return student(number, accuracy, num_layers, tasks={TASK: TaskResult(metric="accuracy", validation=value)})


def found_in(study: Study) -> FinetuningCheckResult:
    found = load_finetuning_check(study)
    assert found is not None
    return found


def test_a_study_without_a_check_has_none(full_study: Study) -> None:
    assert load_finetuning_check(full_study) is None


def test_a_full_fine_tuning_that_ranks_alike_has_tau_one(tmp_path: Path) -> None:
    found = found_in(checked_study(tmp_path, (*SEARCHED, 0.9), [accuracy + 0.05 for accuracy in SEARCHED]))
    assert found.tau is not None
    assert (found.tau.value, found.num_half_ties, found.rank_of_searched_best, found.loss_of_choice) == (1.0, 0, 1, 0)
    head, ranking, choice, *_ = found.lines()
    assert head.startswith("6 of 7 complete students, drawn at random, were fine-tuned again with the settings of pre")
    assert "Kendall's tau 1.00 [" in ranking
    assert "The best of them in the search, trial 5, is also the best with the full settings" in choice


def test_tau_is_that_of_the_two_accuracies(tmp_path: Path) -> None:
    full = (0.80, 0.83, 0.83, 0.81, 0.90, 0.87)
    found = found_in(checked_study(tmp_path, SEARCHED, full))
    assert found.tau is not None
    assert found.tau.value == pytest.approx(scipy.stats.kendalltau(SEARCHED, full).statistic)
    assert found.tau.low < 0 < found.tau.high


def test_the_choice_by_the_search_may_lose_accuracy(tmp_path: Path) -> None:
    found = found_in(checked_study(tmp_path, SEARCHED, (0.80, 0.83, 0.85, 0.81, 0.90, 0.84)))
    assert (found.searched_best.record.number, found.rank_of_searched_best) == (5, 3)
    assert found.loss_of_choice == pytest.approx(0.06)
    assert found.lines()[2] == (
        "The best of them in the search, trial 5, is number 3 of 6 with the full settings: choosing by the search "
        "loses 6.0 points."
    )


def test_pairs_that_are_equal_in_one_accuracy_are_counted(tmp_path: Path) -> None:
    found = found_in(checked_study(tmp_path, SEARCHED, (0.80, 0.80, 0.80, 0.81, 0.90, 0.87)))
    assert "In 3 of 15 pairs, the students are equal in one of the accuracies" in " ".join(found.notes)
    assert "one seed on 200 validation examples" in found.notes[0]


def test_equal_accuracies_give_no_ranking(tmp_path: Path) -> None:
    found = found_in(checked_study(tmp_path, SEARCHED, [0.8] * 6))
    assert found.tau is None
    assert found.lines()[1:] == ("One of their two accuracies is equal for all of them, so that there is no ranking.",)


def test_at_equal_size_the_agreement_may_be_lower(tmp_path: Path) -> None:
    """Both accuracies follow size, and what is left of them is chance."""
    random = np.random.default_rng(0)
    sizes = np.repeat(np.arange(1, 6), 4)
    searched, full = 0.5 + 0.05 * sizes + 0.01 * random.normal(size=(2, 20))
    found = found_in(checked_study(tmp_path, searched, full, num_layers=sizes.tolist()))
    assert found.tau is not None
    assert found.partial_tau is not None
    assert found.tau.low > 0.5
    assert found.partial_tau.low < 0 < found.partial_tau.high
    assert "; at equal size, " in found.lines()[1]


def test_five_runs_are_enough_and_what_is_left_is_said(tmp_path: Path) -> None:
    found = found_in(checked_study(tmp_path / "five", SEARCHED, (*SEARCHED[:5], None)))
    assert (found.num_complete, found.num_runs, found.partial_tau) == (5, 6, None)
    assert "5 of 6 runs are complete: run check-finetuning again." in found.lines()
    assert load_finetuning_check(checked_study(tmp_path / "four", SEARCHED, (*SEARCHED[:4], None, None))) is None


def test_a_failed_run_is_left_out(tmp_path: Path) -> None:
    study = checked_study(tmp_path, SEARCHED, SEARCHED)
    failed = replace(measured(5, 0.8, 2), status=Status.FAILED, objectives={}, tasks={})
    append_record(study.paths.finetuning_check_records, failed)
    assert found_in(study).num_complete == 5


def test_the_figures_are_plain_values(tmp_path: Path) -> None:
    found = found_in(checked_study(tmp_path, SEARCHED, (0.80, 0.83, 0.85, 0.81, 0.90, 0.84), preset=None))
    content = json.loads(json.dumps(found.as_json()))
    assert (content["preset"], content["best_in_search"], content["rank_of_best_in_search"]) == (None, 5, 3)
    assert content["students"][1] == {"trial": 1, "accuracy": 0.72, "full_accuracy": 0.83}
    assert content["tau"]["low"] < content["tau"]["value"] < content["tau"]["high"]
    assert "were fine-tuned again with finetuning.num_epochs=7 and the search's seeds" in found.lines()[0]


def test_the_report_has_the_check_beside_the_held_out_loss(tmp_path: Path) -> None:
    written = write_report(checked_study(tmp_path, SEARCHED, SEARCHED))
    for page in (written.markdown, written.html):
        assert "Is the search's fine-tuning a good proxy?" in page.read_text(encoding="utf-8")
    assert "choosing by the search loses nothing" in written.markdown.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["{", "[]", '{"preset": "glue"}', '{"preset": 3, "students": [1]}'])
def test_a_damaged_plan_is_refused(tmp_path: Path, content: str) -> None:
    study = checked_study(tmp_path, SEARCHED, SEARCHED)
    study.paths.finetuning_check_plan.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"plan\.json must be"):
        load_finetuning_check(study)
