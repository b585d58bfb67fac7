from pathlib import Path

import pytest

from minilm_core.corpus.json_lines import read_objects
from minilm_core.errors import UserError


def test_objects_come_with_the_numbers_of_their_lines() -> None:
    assert list(read_objects(['{"a": 1}\n', "\n", '{"b": 2}'], Path("x"))) == [(1, {"a": 1}), (3, {"b": 2})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": "cut\n', r"\(Unterminated string starting at at character 7\)"),
        ("[1]\n", r": \[1\]"),
        ("[" * 100_000, r"\(maximum recursion depth"),
        ('{"a": ' + "1" * 5000 + "}", r"\(Exceeds the limit"),
    ],
)
def test_a_line_that_is_no_object_is_refused_with_its_number(line: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^every line must be a JSON object, got line 2 of x\.jsonl ?{reason}[^\n]*$"):
        list(read_objects(["{}\n", line], Path("x.jsonl")))
