"""decision.json: what pick decided, bound to the records that it was made from."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from reports.json_files import read_json
from reports.selection.choice import Decision
from reports.study import DECISION_FILE, Study

SCHEMA_VERSION = 1


def write_decision(study: Study, decision: Decision) -> Path:
    """Writes decision.json into the study folder, whole or not at all, bound to the records it was made from."""
    path = study.path / DECISION_FILE
    content = {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "records_sha256": study.records_sha256,
        "decided_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **decision.as_json(),
    }
    write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path


def read_decision(study: Study) -> Mapping[str, Any] | None:
    """Returns the decision on file as plain values; None where there is none.

    Raises:
        UserError: if the file is none that `write_decision` wrote.
    """
    path = study.path / DECISION_FILE
    content = read_json(path)
    if not content:
        return None
    for key in ("records_sha256", "winner", "reason", "alternatives", "near_misses"):
        if key not in content:
            raise UserError(f"{path} must be a decision that pick wrote, got one without {key}")
    return content


def is_current(study: Study, decision: Mapping[str, Any]) -> bool:
    """Returns whether a decision on file was made from the records as they are now."""
    return bool(decision["records_sha256"] == study.records_sha256)
