"""decision.json: the decision of a pick, bound to the records that it was made from."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from reports.json_files import read_json
from reports.selection.choice import Decision
from reports.study import Study

SCHEMA_VERSION = 2
"""In version 1, limits on cost chose the most accurate student, whether or not it could be told apart."""


def write_decision(study: Study, decision: Decision) -> Path:
    """Writes decision.json into the study folder, whole or not at all.

    It has the SHA-256 of the study's records and timings, and the version of the program.
    """
    path = study.paths.decision
    content = {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "records_sha256": study.records_sha256,
        "program_version": version("minilm-search"),
        "decided_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **decision.as_json(),
    }
    write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path


def read_decision(study: Study) -> Mapping[str, Any] | None:
    """Returns the content of decision.json; None where there is none.

    Raises:
        UserError: if the file was not written by `write_decision`.
    """
    path = study.paths.decision
    content = read_json(path)
    if not content:
        return None
    for key in ("records_sha256", "winner", "reason", "alternatives", "near_misses"):
        if key not in content:
            raise UserError(f"{path} must be a decision that pick wrote, got one without {key}")
    return content


def is_current(study: Study, decision: Mapping[str, Any]) -> bool:
    """Returns whether a decision was made from the present records of the study, by the present rules."""
    is_of_rules = decision.get("schema_version") == SCHEMA_VERSION
    return is_of_rules and bool(decision["records_sha256"] == study.records_sha256)


def decided_pick(study: Study) -> tuple[str, ...]:
    """Returns the pick that made the study's decision, as words of a command line without the program."""
    return ("pick", str(study.path), *(read_decision(study) or {}).get("options", ()))


def picked_trial(study: Study) -> int:
    """Returns the number of the trial whose student pick chose.

    Raises:
        UserError: if there is no decision, if it was made from other records than the study's present ones, or if it
            names no complete student.
    """
    decision = read_decision(study)
    if decision is None:
        raise UserError(f"--picked needs the decision that pick writes, got none in {study.path}; run pick first")
    path = study.paths.decision
    if not is_current(study, decision):
        raise UserError(
            f"{path} must be made from the study's present records and by the present rules, got one made from others; "
            "run pick again"
        )
    winner = decision["winner"]
    if winner is None:
        raise UserError(
            "--picked needs a student that qualifies, the latest pick found none; run pick with other limits"
        )
    number = winner.get("trial") if isinstance(winner, dict) else None
    if type(number) is not int or study.student(number) is None:
        raise UserError(f"{path} must name the trial of a complete student, got {number}; run pick again")
    return number
