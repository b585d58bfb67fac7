"""The page of the published results: what it shows of records, and that the committed one is what its records give."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.results.records import Role
from reports.results_page import ResultRecord, ResultsFolder, write_results_page
from reports.results_page.writer import BEGIN, END
from tests.paths import ROOT
from tests.reports.results_page.example_results import README, record, records, write_folder

COMMITTED = ResultsFolder(root=ROOT / "reports" / "results")


def written(tmp_path: Path, *made: ResultRecord) -> tuple[ResultsFolder, Path]:
    folder, readme = write_folder(tmp_path, *made)
    write_results_page(folder, readme)
    return folder, readme


def page_of(tmp_path: Path, *made: ResultRecord) -> str:
    return written(tmp_path, *made)[0].page.read_text(encoding="utf-8")


def test_without_records_the_page_names_every_cell_and_the_readme_stays(tmp_path: Path) -> None:
    folder, readme = written(tmp_path)
    page = folder.page.read_text(encoding="utf-8")
    assert "0 cells of 3" in page
    assert "- Missing: `english-3x144`.\n- Missing: `english-2x96`." in page
    assert readme.read_text(encoding="utf-8") == README
    assert not folder.figure("svg").exists()


def test_a_cell_that_is_made_is_not_missing(tmp_path: Path) -> None:
    page = page_of(tmp_path, *records())
    assert "1 cell of 3" in page
    assert "Missing: `english-3x192`" not in page
    assert "Missing: `english-3x144`" in page


def test_the_page_shows_student_and_teacher_with_intervals(tmp_path: Path) -> None:
    page = page_of(tmp_path, *records())
    assert (
        "| student 3x192 | 76.8 [74.8, 78.8] | 96.0 [94.0, 98.0] | 8.0 | 0.20 | 4.0 | +3.1 [+1.1, +5.1] | – |" in page
    )
    assert "| fine-tuned teacher, 6x384 | 80.0 [78.0, 82.0] | – | 40.0 | 1.00 |" in page
    assert "| cut teacher, 3x384 | 75.0 [70.0, 80.0] |" in page


def test_the_page_says_which_aims_are_reached(tmp_path: Path) -> None:
    page = page_of(tmp_path, *records())
    assert "Aim: 97% of the teacher's mean at 0.50 of its latency: not reached. Student 3x192 has 96.0 [94.0" in page
    assert "Aim: 90% of the teacher's mean at 0.10 of its latency. No student that was made is as fast." in page


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    folder, readme = written(tmp_path, *records())
    files = [folder.page, folder.table, folder.figure("svg"), folder.figure("png"), readme]
    before = [file.read_bytes() for file in files]
    write_results_page(folder, readme)
    assert [file.read_bytes() for file in files] == before


def test_the_readme_gets_figure_and_table_between_its_comments(tmp_path: Path) -> None:
    _, readme = written(tmp_path, *records())
    text = readme.read_text(encoding="utf-8")
    inner = text.partition(BEGIN)[2].partition(END)[0]
    assert text.startswith("# A project\n")
    assert text.endswith("\n\nMore text.\n")
    assert "(reports/results/figure.svg)" in inner
    assert "| student 3x192 | 76.8 [74.8, 78.8] |" in inner
    assert "Latency is predicted for CPU, 1 thread, batch 1, 128 tokens. 1 of 3 declared students are made." in inner


def test_the_table_has_a_row_for_each_model_with_its_figures_as_numbers(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, *records())
    rows = list(csv.DictReader(folder.table.read_text(encoding="utf-8").splitlines()))
    assert [row["role"] for row in rows] == ["teacher", "student", "twin", "truncated_teacher"]
    assert float(rows[1]["share_of_teacher/low"]) == pytest.approx(0.94)
    assert rows[0]["share_of_teacher"] == ""


def test_the_figure_is_that_of_the_students_that_are_there(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, *records())
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", folder.figure("svg").read_text(encoding="utf-8"))
    assert {"student", "teacher", "twin, not distilled", "cut teacher", "aim", "3x192"} <= set(texts)
    assert "3x144" not in texts


def test_records_with_other_settings_are_left_out_and_named(tmp_path: Path) -> None:
    page = page_of(tmp_path, *records(overrides=("distillation.num_steps=2",)))
    assert "Missing: `english-3x192`" in page
    assert page.endswith("Records with other settings than the declared ones are left out: english-3x192.\n")


def test_a_cell_of_an_earlier_recipe_is_marked(tmp_path: Path) -> None:
    assert "earlier recipe" in page_of(tmp_path, *records(recipe={**records()[0].recipe, "initialisation": "old"}))
    assert "earlier recipe" not in page_of(tmp_path / "other", *records())


def test_a_model_that_cells_share_is_shown_once(tmp_path: Path) -> None:
    page = page_of(tmp_path, *records(), *records(cell="english-3x144"))
    assert page.count("| fine-tuned teacher, 6x384 | 80.0") == 2  # once for its mean and once for its tasks


def test_a_record_of_a_cell_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    folder, readme = write_folder(tmp_path, *records(cell="german"))
    with pytest.raises(UserError, match=r"a cell must be one of .*, got german"):
        write_results_page(folder, readme)


def test_a_cell_without_its_teacher_is_refused(tmp_path: Path) -> None:
    folder, readme = write_folder(tmp_path, record(Role.STUDENT, mean=0.7, latency_ms=8.0))
    with pytest.raises(UserError, match="the records of a cell must include its teacher, got none for english-3x192"):
        write_results_page(folder, readme)


def test_a_readme_without_the_comments_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder, readme = write_folder(tmp_path, *records())
    readme.write_text("# A project\n", encoding="utf-8")
    with pytest.raises(UserError, match="must have the lines"):
        write_results_page(folder, readme)
    assert not folder.page.exists()


def test_the_command_ends_with_one_line_where_a_record_is_damaged(tmp_path: Path) -> None:
    folder, readme = write_folder(tmp_path)
    folder.records.write_text("no JSON\n", encoding="utf-8")
    words = [sys.executable, "-m", "reports.results_page", "--folder", str(folder.root), "--readme", str(readme)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"results-page: a result must be one line of JSON, got 'no JSON' \(line 1 of .*\)\n", done.stderr
    )


def test_the_committed_page_is_what_its_records_give(tmp_path: Path) -> None:
    folder, readme = ResultsFolder(root=tmp_path / "results"), tmp_path / "README.md"
    folder.root.mkdir()
    for file in (COMMITTED.cells, COMMITTED.records):
        if file.exists():
            (folder.root / file.name).write_bytes(file.read_bytes())
    readme.write_bytes((ROOT / "README.md").read_bytes())
    write_results_page(folder, readme)
    assert folder.page.read_text(encoding="utf-8") == COMMITTED.page.read_text(encoding="utf-8")
    assert folder.table.read_text(encoding="utf-8") == COMMITTED.table.read_text(encoding="utf-8")
    assert readme.read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")
    assert texts_of(folder) == texts_of(COMMITTED)


def texts_of(folder: ResultsFolder) -> list[str]:
    """The texts of a figure; where they are placed depends on the fonts of the machine."""
    file = folder.figure("svg")
    return re.findall(r"<text[^>]*>([^<]+)</text>", file.read_text(encoding="utf-8")) if file.exists() else []
