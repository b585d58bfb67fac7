import html.parser
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from minilm_core.errors import FailureKind
from minilm_core.models.vocabulary.cut import CutVocabulary
from reports import LatencyLimit, Requirements, Study, load_study, pick, write_decision
from reports.page.drawing import INSTALL_HINT
from reports.page.facts import SCHEMA_VERSION
from reports.page.writer import Format, Report, write_report
from tests.reports.example_studies import (
    TASK,
    failed,
    kept_labels,
    latency_table,
    student,
    task_result,
    teacher,
    twin,
    write_full_study,
)


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def data_of(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(content)


def page_of(study: Study) -> str:
    return write_report(study).html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of the full study, with its figures."""
    pytest.importorskip("vl_convert", reason="figures need the report extra")
    return write_report(write_full_study(tmp_path_factory.mktemp("drawn")))


@pytest.fixture(scope="module")
def drawn_page(drawn: Report) -> str:
    return drawn.html.read_text(encoding="utf-8")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no figures, which is faster; the text of a report does not depend on them."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)


def test_page_and_markdown_give_the_seconds_of_the_preparation(drawn: Report, drawn_page: str) -> None:
    sentence = "Preparation, which the device-hours above do not include: targets 12 s."
    assert sentence in drawn_page
    assert sentence in (drawn.folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("of_teacher", "is_warned"), [(0.6, True), (0.89, False), (0.95, False)])
def test_a_student_above_its_teacher_is_called_the_sign_of_too_short_a_fine_tuning(
    make_study: Callable[..., Study], of_teacher: float, is_warned: bool
) -> None:
    study = make_study(student(0, 0.9), teacher(of_teacher), evaluation=kept_labels(TASK))
    text = "Trial 0 is more accurate than the teacher that it learnt from, by +30.0 points ["
    assert (text in page_of(study)) is is_warned


@pytest.mark.usefixtures("undrawn")
def test_page_and_markdown_say_what_the_time_of_the_trials_was_spent_on(make_study: Callable[..., Study]) -> None:
    fast, slow = (
        replace(student(number, 0.8), seconds={"distilling": seconds, "fine-tuning on mood": 30.0})
        for number, seconds in enumerate((10.0, 30.0))
    )
    report = write_report(make_study(fast, slow, replace(teacher(0.9), seconds={"fine-tuning on mood": 500.0})))
    sentence = "The students&#39; 100 s were spent on: fine-tuning on mood 60.0%, distilling 40.0%."
    assert sentence in report.html.read_text(encoding="utf-8")
    assert sentence.replace("&#39;", "'") in report.markdown.read_text(encoding="utf-8")
    stages = json.loads((report.folder / "report.json").read_text())["stage_seconds"]
    assert stages == {"distilling": 40.0, "fine-tuning on mood": 60.0}


def test_the_reference_point_of_the_hypervolume_is_written_in_plain_figures(drawn_page: str) -> None:
    (corner,) = re.findall(r"Hypervolume from the reference point (.*) \(an objective", drawn_page)
    assert re.fullmatch(r"accuracy 0, latency_ms [\d.]+, size_bytes \d{1,3}(,\d{3})+", corner)


def test_every_promised_file_is_written(drawn: Report) -> None:
    written = {path.name for path in drawn.folder.iterdir()}
    assert written == {
        "report.html",
        "report.md",
        "report.json",
        "trials.csv",
        "trials.parquet",
        "frontier.csv",
        "figures",
    }
    assert drawn.folder.name == "report"
    assert {path.suffix for path in drawn.figures} == {".svg", ".png"}
    assert all(path.is_file() for path in drawn.figures)


@pytest.mark.usefixtures("undrawn")
def test_a_report_may_be_written_elsewhere(full_study: Study, tmp_path: Path) -> None:
    assert write_report(full_study, tmp_path / "else" / "where").html.parent == tmp_path / "else" / "where"
    assert not (full_study.path / "report").exists()


def test_the_page_fetches_nothing(drawn_page: str) -> None:
    tags = Tags(drawn_page)
    addresses = [a[key] or "" for _, a in tags.found for key in ("src", "href", "action", "data") if key in a]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not tags.named("link")
    styles = re.findall(r"<style>(.*?)</style>", drawn_page, re.DOTALL)
    assert not any("url(" in style or "@import" in style for style in styles)
    policy = next(a["content"] for a in tags.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_chart_states_its_finding_for_who_cannot_see_it(drawn_page: str) -> None:
    tags = Tags(drawn_page)
    drawings = [a for a in tags.named("div") if a.get("class") == "drawing"]
    assert len(drawings) == len([a for a in tags.named("figure") if "data-chart" in a]) + 1 == 5
    findings = [a["data-finding"] for a in tags.named("script") if "data-finding" in a]
    assert len(findings) == 4
    assert all((label or "").endswith(".") for label in (*findings, *(a["aria-label"] for a in drawings[1:])))


def test_tables_have_captions_scopes_and_sort_buttons(drawn_page: str) -> None:
    tags = Tags(drawn_page)
    assert len(tags.named("caption")) == len(tags.named("table"))
    assert all(head.get("scope") in ("col", "row") for head in tags.named("th"))
    assert len(tags.named("button")) > 10
    assert any(link.get("href") == "#main" for link in tags.named("a"))


@pytest.mark.usefixtures("undrawn")
def test_a_failure_message_never_becomes_markup(full_study: Study) -> None:
    report = write_report(full_study)
    assert "<b>here</b>" not in report.html.read_text(encoding="utf-8")
    assert "&lt;b&gt;here&lt;/b&gt;" in report.html.read_text(encoding="utf-8")
    markdown = report.markdown.read_text(encoding="utf-8")
    assert "CUDA out of memory \\| tried 2 GiB &lt;b&gt;here&lt;/b&gt;" in markdown


def test_a_name_cannot_end_the_script_that_contains_it(make_study: Callable[..., Study]) -> None:
    study = make_study(student(0, 0.8), student(1, 0.9, 3), importances={"accuracy": {"</script><b>": 1.0}})
    assert "</script><b>" not in page_of(study)


def test_the_table_of_all_trials_has_the_figures_of_every_model(full_study: Study, drawn_page: str) -> None:
    cells = {cell for row in data_of(drawn_page)["trials"]["rows"] for cell in row}
    baselines = (full_study.teacher, full_study.twin, full_study.truncated_teacher)
    for record in (*full_study.students, *baselines):
        assert record is not None
        assert {record.label, record.architecture.label, f"{record.latency_ms:.2f}"} <= cells


def test_the_answer_has_three_numbers_and_what_each_budget_buys(drawn_page: str) -> None:
    assert "Recommended without limits: trial 1 (4x128 A4)" in drawn_page
    numbers = re.findall(r"<li><b>([^<]*)</b> ([a-z' ]*)", drawn_page.replace("&#39;", "'"))
    assert numbers == [("97.8%", "of the teacher's accuracy "), ("5.0×", "faster"), ("11.8×", "smaller")]
    bought = re.findall(r'<th scope="row" data-value="(\d+ ms)">[^/]*/th>\s*<td data-value="([^"]*)"', drawn_page)
    assert bought == [("2 ms", "2x64 A2"), ("5 ms", "2x64 A2"), ("10 ms", "4x128 A4")]


@pytest.mark.usefixtures("undrawn")
def test_only_the_formats_that_are_asked_for_are_written(full_study: Study, tmp_path: Path) -> None:
    written = write_report(full_study, tmp_path / "some", formats=[Format.JSON, Format.CSV])
    assert {path.name for path in written.folder.iterdir()} == {"report.json", "trials.csv", "frontier.csv"}


@pytest.mark.usefixtures("undrawn")
def test_without_a_decision_the_page_offers_the_pick_without_limits_and_a_command(full_study: Study) -> None:
    text = page_of(full_study)
    assert "Not chosen yet; without limits, trial" in text
    assert f"<code>minilm-search pick {full_study.path} --within 3%</code>" in text


@pytest.mark.usefixtures("undrawn")
def test_without_a_complete_student_the_page_says_so_and_offers_to_go_on(make_study: Callable[..., Study]) -> None:
    text = page_of(make_study(failed(0, FailureKind.CRASH, "broken")))
    assert "Nothing to choose from: no student is complete." in text
    assert "<code>minilm-search resume" in text


@pytest.mark.usefixtures("undrawn")
def test_the_page_begins_with_a_current_decision(full_study: Study) -> None:
    write_decision(full_study, pick(full_study, Requirements(latencies=(LatencyLimit(max_ms=6.5),))))
    text = page_of(full_study)
    assert "Chosen: trial" in text
    assert "Missed: trial 1: latency 8.00 ms is 1.50 ms over 6.5 ms" in text
    assert f"minilm-search package {full_study.path} --picked" in text


@pytest.mark.usefixtures("undrawn")
def test_the_page_does_not_show_a_decision_made_from_other_records(full_study: Study) -> None:
    path = write_decision(full_study, pick(full_study))
    path.write_text(json.dumps({**json.loads(path.read_text()), "records_sha256": "other"}))
    text = page_of(full_study)
    assert "Chosen:" not in text
    assert "pick again" in text


@pytest.mark.usefixtures("undrawn")
def test_the_verdict_names_the_best_student_and_the_baselines(full_study: Study) -> None:
    report = write_report(full_study)
    assert "trial 1" in report.verdict
    assert "its twin without distillation" in report.verdict
    assert "the fine-tuned first 4 layers of the teacher" in report.verdict
    assert "the fine-tuned teacher" in report.verdict
    assert "on the test split" in report.verdict
    assert report.verdict in report.markdown.read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_the_verdict_says_when_models_cannot_be_told_apart(make_study: Callable[..., Study]) -> None:
    best = student(0, 0.80)
    study = make_study(best, twin(best, 0.80), teacher(0.80), evaluation=kept_labels(TASK))
    assert write_report(study).verdict.count("cannot be told apart") == 2


@pytest.mark.usefixtures("undrawn")
def test_a_noisy_latency_is_announced(make_study: Callable[..., Study]) -> None:
    assert "NOISY" in page_of(make_study(student(0, 0.8), latency=latency_table(busy_cores=2.0)))
    assert "NOISY" not in page_of(make_study(student(0, 0.8), latency=latency_table(busy_cores=0.0)))


@pytest.mark.usefixtures("undrawn")
def test_a_cut_vocabulary_is_stated_with_its_share_of_the_texts(full_study: Study) -> None:
    said = "vocabulary has 3 of the teacher's 9,000 tokens, which make up 98.5% of the corpus"
    assert said not in page_of(full_study)
    full_study.paths.vocabulary.mkdir()
    vocabulary = CutVocabulary(kept=np.array([0, 4, 8_000]), num_full=9_000, unknown=4, coverage=0.985)
    vocabulary.save(full_study.paths.vocabulary)
    assert said in page_of(load_study(full_study.path)).replace("&#39;", "'")


@pytest.mark.usefixtures("undrawn")
def test_a_test_split_that_was_set_aside_is_called_no_official_one(full_study: Study) -> None:
    said = "The test split of topics is no official one: 30.0% of the validation split was set aside for it"
    assert said not in page_of(full_study)
    tasks = [{"name": TASK, "set_aside_fraction": 0.3}]
    assert said in page_of(replace(full_study, config={**full_study.config, "tasks": tasks}))


@pytest.mark.usefixtures("undrawn")
def test_published_results_are_quoted_apart_in_every_form_of_the_report(make_study: Callable[..., Study]) -> None:
    report = write_report(make_study(student(0, 0.8, tasks={"sst2": task_result(0.8, 0)})))
    page, markdown = (path.read_text(encoding="utf-8") for path in (report.html, report.markdown))
    (quoted,) = re.findall(r"<h2>Published results</h2>(.*?)<h2>", page, flags=re.DOTALL)
    assert "Quoted from the papers of MiniLM" in quoted
    assert ">92.0</td>" in quoted
    assert "trial" not in quoted
    (section,) = re.findall(r"## Published results\n(.*?)\n## ", markdown, flags=re.DOTALL)
    assert "> Quoted from the papers of MiniLM" in section
    assert "| sst2 | accuracy | MiniLM | 6x768 | BERT-base | 66 | 92.0 | development |" in section
    published = json.loads((report.folder / "report.json").read_text())["published"]
    assert {"task": "sst2", "model": "MiniLM", "shape": "6x768", "value": 92.0}.items() <= published["rows"][2].items()


@pytest.mark.usefixtures("undrawn")
def test_without_a_published_task_there_is_no_such_section(full_study: Study) -> None:
    report = write_report(full_study)
    for path in (report.html, report.markdown):
        assert "Published results" not in path.read_text(encoding="utf-8")
    assert json.loads((report.folder / "report.json").read_text())["published"] is None


@pytest.mark.usefixtures("undrawn")
def test_the_page_names_what_was_not_measured(make_study: Callable[..., Study]) -> None:
    text = page_of(make_study(student(0, 0.8, latency_ms=None), objectives=("accuracy", "size_bytes")))
    assert "Latency was not measured: the study has no calibrated table." in text
    assert "Versions and machine were not recorded." in text


@pytest.mark.parametrize(
    "records",
    [
        (),
        (failed(0, FailureKind.CRASH, "broken"), failed(1, FailureKind.CRASH, "broken")),
        (student(0, 0.8),),
        (teacher(0.9),),
        (student(0, 0.8), student(1, 0.8)),
    ],
    ids=["nothing", "failures only", "one student", "teacher only", "two alike"],
)
def test_a_small_study_has_a_report_too(make_study: Callable[..., Study], records: tuple) -> None:
    report = write_report(make_study(*records))
    assert json.loads((report.folder / "report.json").read_text())["schema_version"] == SCHEMA_VERSION
    assert report.html.is_file()


@pytest.mark.usefixtures("undrawn")
def test_without_the_drawing_libraries_tables_are_still_written(full_study: Study) -> None:
    report = write_report(full_study)
    text = report.html.read_text(encoding="utf-8")
    assert report.note == INSTALL_HINT
    assert INSTALL_HINT in text
    assert "trials/0001/student" in text
    assert not [a for a in Tags(text).named("div") if a.get("class") == "drawing"]


@pytest.mark.usefixtures("undrawn")
def test_figures_of_an_earlier_report_are_removed(full_study: Study) -> None:
    stale = full_study.path / "report" / "figures" / "accuracy_latency_ms.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("<svg/>")
    write_report(full_study)
    assert not stale.exists()


def test_parquet_and_csv_have_one_row_a_record_and_the_same_columns(drawn: Report) -> None:
    parquet = pandas.read_parquet(drawn.folder / "trials.parquet")
    written = pandas.read_csv(drawn.folder / "trials.csv")
    assert parquet.columns.tolist() == written.columns.tolist()
    assert parquet["name"].tolist() == written["name"].tolist()
    assert parquet["accuracy"].tolist()[:4] == written["accuracy"].tolist()[:4] == [0.8, 0.9, 0.79, 0.6]
    assert str(parquet["trial"].dtype) == "Int64"
    assert parquet["trial"].dropna().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_csv_of_the_frontier_has_the_most_accurate_first(drawn: Report) -> None:
    assert pandas.read_csv(drawn.folder / "frontier.csv")["trial"].tolist() == [1, 0]


@pytest.mark.usefixtures("undrawn")
def test_the_report_names_the_steps_of_each_student_where_they_differ(make_study: Callable[..., Study]) -> None:
    same = write_report(make_study(student(0, 0.8, num_steps=40), student(1, 0.7, num_steps=40)))
    assert "Unequal training" not in same.markdown.read_text(encoding="utf-8")
    assert "| Steps |" not in same.markdown.read_text(encoding="utf-8")
    further = student(1, 0.85, num_steps=12_000, num_steps_before=40)
    text = write_report(make_study(student(0, 0.8, num_steps=40), further)).markdown.read_text(encoding="utf-8")
    assert "Unequal training: 1 student had 40 steps and 1 student had 12,000 steps." in text
    assert text.count("| Steps |") == 2
    assert "12,000" in text
    assert "trials/0001/steps-12000/student" in text
