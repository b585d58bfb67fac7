"""The report's page in a real browser, headless and without a network: charts, limits, tables, keyboard and print."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minilm_core.latency import append_bench
from minilm_core.results.records import Role
from reports import Decision, Requirements, Study, load_study, pick, write_report
from tests.minilm_core.latency.test_bench_timings import TIMING
from tests.reports.confirmed_studies import write_runs
from tests.reports.example_studies import (
    LATENCY_TABLE,
    TASK,
    kept_labels,
    student,
    task_result,
    teacher,
    write_full_study,
    write_large_study,
    write_study,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="tests in a browser need playwright")
pytest.importorskip("vl_convert", reason="the page's charts need the report extra")
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="tests in a browser need Chromium (apt install chromium)"),
]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}

LOCAL = ("file:", "data:", "blob:")
ACTIVE = (
    """(({ id, className, type, parentNode }) => id || parentNode.id || className || type)(document.activeElement)"""
)

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = write_large_study(tmp_path_factory.mktemp("large"))
    write_report(study, formats=["html"])
    return study


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = write_full_study(tmp_path_factory.mktemp("full"))
    write_report(study, formats=["html"])
    return study


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens the report of a study; what it fetches, and what it complains of, fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_report(study: Study, viewport: dict[str, int] | None = None, **options: Any) -> Any:
        context = browser.new_context(viewport=viewport or WIDE, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:", "blob:")) else complaints.append(request.url)
            ),
        )
        page.goto((study.paths.report / "report.html").resolve().as_uri())
        page.wait_for_selector("#frontier-chart svg, #frontier-chart canvas")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []


def set_limit(page: Any, name: str, value: float) -> None:
    page.eval_on_selector(
        f'.filters input[data-name="{name}"]',
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }",
        value,
    )


def visible_rows(page: Any) -> list[str]:
    return page.eval_on_selector_all(
        "#frontier-table tbody tr", "rows => rows.filter((row) => !row.hidden).map((row) => row.dataset.trial)"
    )


def picked(study: Study, command: str) -> Decision:
    """What the command that the page shows chooses."""
    words = shlex.split(command)
    assert words[:3] == ["minilm-search", "pick", str(study.path)]
    given = {name[2:].replace("-", "_"): value for name, value in zip(words[3::2], words[4::2], strict=True)}
    if "max_latency" in given:
        given["max_latency"] = [given["max_latency"]]
    return pick(study, Requirements.parse(**given))


def test_the_page_draws_every_chart_and_asks_for_nothing(full: Study, opened: Open) -> None:
    page = opened(full)
    page.wait_for_function("document.querySelectorAll('figure[data-chart] .drawing svg').length === 4")
    drawn = page.locator("#frontier-chart svg .mark-symbol path").count()
    assert drawn >= 8  # four students, the teacher, two twins, the truncated teacher


def test_the_axis_of_the_frontier_is_chosen(full: Study, opened: Open) -> None:
    page = opened(full)
    assert "Predicted latency (ms)" in page.locator("#frontier-chart svg").text_content()
    page.select_option("#axis", label="size")
    page.wait_for_function("document.querySelector('#frontier-chart svg').textContent.includes('Size (MB)')")
    assert "MB, accuracy" in page.text_content("#frontier-finding")


@pytest.mark.parametrize(
    "limits",
    [
        {"x0": 6.0},
        {"x0": 1.3},
        {"x1": 3.0},
        {"x2": 1.0},
        {"accuracy": 95.0},
        {"accuracy": 99.9},
        {"x0": 6.0, "accuracy": 90.0},
        {"x0": 4.0, "x1": 2.5, "accuracy": 80.0},
        {"x0": 0.7, "accuracy": 99.0},
    ],
    ids=str,
)
def test_the_answer_within_limits_is_that_of_the_command_that_is_shown(
    large: Study, opened: Open, limits: dict[str, float]
) -> None:
    page = opened(large)
    for name, value in limits.items():
        set_limit(page, name, value)
    decision = picked(large, page.text_content("#pick-command"))
    text = page.text_content("#answer-limited .headline")
    assert not page.is_visible("#answer")
    if decision.winner is None:
        assert text == "Within the limits below no student qualifies: loosen one of them."
    else:
        assert text.startswith(
            f"Within the limits below: {decision.winner.label} ({decision.winner.architecture.label})"
        )
    assert f"{decision.num_qualifying} of 48 complete students" in page.text_content("#rows-shown")


@pytest.mark.parametrize("limits", [{"x0": 10.0}, {"x0": 10.0, "accuracy": 85.0}, {"x0": 12.5}], ids=str)
def test_the_answer_is_that_of_pick_after_a_student_was_timed(
    tmp_path: Path, opened: Open, limits: dict[str, float]
) -> None:
    study = write_full_study(tmp_path)
    # Predicted to take 8 ms.
    here = replace(TIMING, device_name=LATENCY_TABLE.fingerprint.label, p50_ms=12.0)
    append_bench(study.paths.benches, 1, here)
    study = load_study(tmp_path)
    write_report(study, formats=["html"])
    page = opened(study)
    for name, value in limits.items():
        page.eval_on_selector(f'.filters input[data-name="{name}"]', "(input) => { input.max = 100; }")
        set_limit(page, name, value)
    decision = picked(study, page.text_content("#pick-command"))
    text = page.text_content("#answer-limited .headline")
    expected = "no student qualifies" if decision.winner is None else f"{decision.winner.label} ("
    assert expected in text


def test_a_student_above_its_teacher_gives_no_limit_that_pick_refuses(tmp_path: Path, opened: Open) -> None:
    best = student(1, 0.95, 4, 128, latency_ms=8.0)
    study = write_study(tmp_path, [student(0, 0.8), best, teacher(0.9)], evaluation=kept_labels(TASK))
    write_report(study, formats=["html"])
    page = opened(study)
    assert float(page.get_attribute('.filters input[data-name="accuracy"]', "max")) == 100
    set_limit(page, "accuracy", 99.99)
    decision = picked(study, page.text_content("#pick-command"))
    assert decision.winner is not None
    assert f"{decision.winner.label} (" in page.text_content("#answer-limited .headline")


def test_a_limit_moves_chart_table_and_command_and_is_taken_back(large: Study, opened: Open) -> None:
    page = opened(large)
    before = visible_rows(page)
    line = "document.querySelector('#frontier-chart svg .mark-line path').getAttribute('d')"
    whole = page.evaluate(line)
    set_limit(page, "x0", 3.0)
    assert 0 < len(visible_rows(page)) < len(before)
    assert page.text_content("#pick-command").endswith(" --max-latency 3ms")
    page.wait_for_function(f"{line} !== {whole!r}")
    page.click("#reset")
    assert visible_rows(page) == before
    assert page.is_visible("#answer")
    page.wait_for_function(f"{line} === {whole!r}")


def test_all_trials_are_found_sorted_and_turned_in_pages(large: Study, opened: Open) -> None:
    page = opened(large)
    count = "document.querySelectorAll('#trials tbody tr').length"
    assert page.evaluate(count) == 49
    page.click("#trials thead button:text-is('Accuracy [95% interval]')")
    page.click("#trials thead button:text-is('Accuracy [95% interval]')")
    first = page.text_content("#trials tbody tr:first-child")
    assert "0.8500" in first
    page.fill("#find", "trial 12")
    assert page.evaluate(count) == 1
    assert page.text_content("#trials-shown") == "1 to 1 of 1 rows (49 in all)"


def test_the_keyboard_alone_reaches_limits_students_and_commands(full: Study, opened: Open) -> None:
    page = opened(full)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate(ACTIVE)
        reached.add(name)
        if name == "chips":
            assert page.text_content("#card h3").startswith("trial 1: 4x128")
            break
    assert {"skip", "copy", "axis", "chips"} <= reached
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.name") == "x0":
            break
    page.keyboard.press("Home")
    assert "--max-latency" in page.text_content("#pick-command")


def test_a_point_under_the_pointer_shows_its_card(full: Study, opened: Open) -> None:
    page = opened(full)
    page.locator("#frontier-chart svg .mark-symbol.role-mark path").last.hover(force=True)
    card = page.text_content("#card")
    assert re.search(r"accuracy \[95%\]0\.\d{4} \[", card)
    assert "of the teacher's" in card


def test_ranges_on_parallel_coordinates_keep_students_by_pointer_and_by_keyboard(large: Study, opened: Open) -> None:
    page = opened(large)
    lines = page.locator("#parallel path")
    kept = page.locator("#parallel path.kept")
    assert lines.count() == kept.count() == len(large.students)
    page.focus("#parallel [aria-label='Layers, lower end']")
    page.keyboard.press("End")
    deepest = [student for student in large.students if student.architecture.num_layers == 6]
    assert kept.count() == len(deepest) < lines.count()
    best = max(deepest, key=lambda student: student.objectives["accuracy"])
    assert page.text_content("#parallel-says") == (
        f"{len(deepest)} of 48 students are within the ranges. The most accurate of them is {best.label} "
        f"({best.architecture.label}), {best.objectives['accuracy']:.4f}."
    )
    page.click("#parallel-reset")
    assert kept.count() == lines.count()
    # The lower half of the axis of the size, beside the end of its range.
    axis = page.locator("#parallel line").nth(3)
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    page.mouse.move(box["x"] + 11, box["y"] + box["height"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + 11, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    sizes = sorted(student.size_bytes for student in large.students)
    middle = (sizes[0] * sizes[-1]) ** 0.5
    assert kept.count() == sum(size <= middle for size in sizes)


def test_a_published_score_is_drawn_where_its_size_is_known(tmp_path: Path, opened: Open) -> None:
    records = [student(0, 0.8, tasks={"sst2": task_result(0.8, 0)}), teacher(0.9, tasks={"sst2": task_result(0.9, 1)})]
    study = write_study(tmp_path, records)
    write_report(study, formats=["html"])
    page = opened(study)
    assert "†" not in page.text_content("#frontier-chart svg")
    page.select_option("#axis", label="parameters")
    page.wait_for_function("document.querySelector('#frontier-chart svg').textContent.includes('†')")
    page.locator("#frontier-chart svg .mark-text text:text-is('†')").first.hover(force=True)
    card = page.text_content("#card")
    assert "published, not measured herearXiv:" in card
    assert "of the teacher's" not in card


def test_a_confirmed_student_has_a_ring_and_says_so(full: Study, tmp_path: Path, opened: Open) -> None:
    rings = "document.querySelectorAll('#frontier-chart svg .mark-symbol path[fill=transparent]').length"
    without = opened(full).evaluate(rings)
    study = write_full_study(tmp_path)
    write_runs(study, {(Role.TEACHER, 0): (0.90, 0.92), (Role.STUDENT, 1): (0.90, 0.89)})
    write_report(study, formats=["html"])
    page = opened(study)
    assert page.evaluate(rings) == without + 1
    page.focus("#chips button")
    assert re.search(r"confirmed0\.895\d \[.* over 2 seeds, test split", page.text_content("#card"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_alone(full: Study, opened: Open, scheme: str) -> None:
    page = opened(full, PHONE, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)"
    )


def test_the_page_prints_whole(full: Study, opened: Open, tmp_path: Path) -> None:
    page = opened(full)
    file = tmp_path / "report.pdf"
    page.pdf(path=file)
    assert len(re.findall(rb"/Type\s*/Page\b", file.read_bytes())) >= 3


def test_a_study_without_students_opens_too(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "records.jsonl").touch()
    (tmp_path / "search.yaml").write_text("name: empty\nobjectives: [accuracy, size_bytes]\n")
    report = write_report(load_study(tmp_path), formats=["html"])
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(report.html.resolve().as_uri())
    assert page.text_content(".headline") == "Nothing to choose from"
    assert errors == []
    page.close()
