import hashlib
import json

import pytest

from minilm_core.errors import UserError
from minilm_core.results.record_lines import append_record
from reports import Prefer, Requirements, Study, load_study, pick, picked_trial, write_decision
from reports.selection.decisions import read_decision
from tests.reports.example_studies import student


def test_the_decision_on_disk_is_bound_to_its_records(full_study: Study) -> None:
    decision = pick(full_study, Requirements(within=0.05))
    path = write_decision(full_study, decision)
    content = json.loads(path.read_text())
    assert path.name == "decision.json"
    assert content["schema_version"] == 2
    assert content["records_sha256"] == hashlib.sha256((full_study.path / "records.jsonl").read_bytes()).hexdigest()
    assert content["winner"]["student"] == "trials/0001/student"
    assert content["limits"]["within"] == 0.05
    assert content["reason"] == decision.reason


def test_a_decision_replaces_the_one_before_and_leaves_no_scratch_file(full_study: Study) -> None:
    write_decision(full_study, pick(full_study))
    write_decision(full_study, pick(full_study, Requirements(max_size_bytes=1)))
    assert json.loads((full_study.path / "decision.json").read_text())["winner"] is None
    assert not list(full_study.path.glob("*.partial*"))


def test_a_study_without_a_decision_has_none(full_study: Study) -> None:
    assert read_decision(full_study) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON object, got a list"),
        ("{", "must be JSON, got Expecting"),
        ('{"winner": null}', "must be a decision that pick wrote, got one without records_sha256"),
    ],
)
def test_a_file_that_pick_did_not_write_is_refused(full_study: Study, content: str, message: str) -> None:
    (full_study.path / "decision.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_decision(full_study)


def test_the_picked_trial_is_that_of_the_winner(full_study: Study) -> None:
    write_decision(full_study, pick(full_study, prefer=Prefer.BEST))
    assert picked_trial(full_study) == 1


def test_a_decision_by_the_rules_of_an_earlier_version_is_refused(full_study: Study) -> None:
    path = write_decision(full_study, pick(full_study, prefer=Prefer.BEST))
    path.write_text(path.read_text("utf-8").replace('"schema_version": 2', '"schema_version": 1'), "utf-8")
    with pytest.raises(UserError, match=r"by the present rules, got one made from others; run pick again$"):
        picked_trial(full_study)


def test_a_decision_made_before_another_trial_ended_is_refused(full_study: Study) -> None:
    write_decision(full_study, pick(full_study))
    append_record(full_study.path / "records.jsonl", student(6, 0.5))
    with pytest.raises(
        UserError, match=r"must be made from the study's present records and by the present rules, .*; run pick again$"
    ):
        picked_trial(load_study(full_study.path))


def test_without_a_decision_there_is_no_picked_trial(full_study: Study) -> None:
    with pytest.raises(
        UserError, match=r"^--picked needs the decision that pick writes, got none in .*; run pick first$"
    ):
        picked_trial(full_study)
