import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import UserError
from reports.json_files import read_environment, read_importances, read_labels


@pytest.mark.parametrize(
    ("read", "content", "key"),
    [
        (read_labels, '{"topics": 1e999}', "topics"),
        (read_labels, '{"topics": {"validation": ["a"]}}', "topics.validation.0"),
        (read_environment, '{"seconds": [1]}', "seconds"),
        (read_importances, '{"accuracy": {"num_layers": NaN}}', "accuracy.num_layers"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_its_key(
    tmp_path: Path, read: Callable[[Path], Any], content: str, key: str
) -> None:
    file = tmp_path / "file.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"^{re.escape(str(file))} must be as the search wrote it, {key}: ") as refusal:
        read(file)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("read", [read_labels, read_environment, read_importances])
def test_a_file_that_is_not_there_is_empty(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    assert read(tmp_path / "file.json") == {}


def test_fields_that_reports_do_not_compute_with_are_kept(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"python": "3.11", "seconds": {"packing": 2}}', encoding="utf-8")
    assert read_environment(tmp_path / "file.json") == {"python": "3.11", "seconds": {"packing": 2}}
