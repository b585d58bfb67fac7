"""What the READMEs promise: commands exist, code runs, settings load, and trees and links are those on disk."""

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from search.cli.app import app
from search.config.loading import load_config
from spaces.presets import load_space
from tests.documents import DOCUMENTS, FOLDERS, Block, blocks, commands, name_of, table_rows, text_of
from tests.paths import ROOT

VERBS: dict[str, Any] = typer.main.get_command(app).commands
"""The command of each verb of `minilm-search`."""

OURS = ("README.md", "search/README.md", "spaces/README.md", "tests/README.md")
"""The documents whose code runs here; the tests of minilm_core and reports run theirs."""


def document_of(block: Block) -> str:
    return block.document


def test_the_file_tree_names_the_packages_that_are_there() -> None:
    (tree,) = [block.text for block in blocks("") if block.document == "README.md"]
    named: dict[str, list[str]] = {}
    for indent, name in re.findall(r"^( *)(\w+)/ {2,}\w", tree, flags=re.MULTILINE):
        if indent:
            named[top].append(name)
        else:
            top = name
            named[top] = []
    there = {path.parent.name: inner_packages(path.parent) for path in ROOT.glob("*/__init__.py")}
    assert {name: sorted(inner) for name, inner in named.items()} == {**there, "tests": []}


def inner_packages(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


def test_the_readme_leads_to_a_readme_in_each_top_level_folder() -> None:
    links = set(re.findall(r"\]\(([\w/]+/README\.md)\)", text_of("README.md")))
    assert links == {f"{folder}/README.md" for folder in FOLDERS}


@pytest.mark.parametrize("document", [*map(name_of, DOCUMENTS), "CONTRIBUTING.md"])
def test_every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading(document: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("document", list(map(name_of, DOCUMENTS)))
def test_nothing_in_a_document_is_left_to_fill_in(document: str) -> None:
    assert not re.search(r"@@|TODO|TBD|FIXME", text_of(document))


@pytest.mark.parametrize("document", list(map(name_of, DOCUMENTS)))
def test_every_block_is_of_a_language_that_a_test_reads(document: str) -> None:
    languages = set(re.findall(r"^```(\w+)$", text_of(document), flags=re.MULTILINE))
    assert languages <= {"sh", "python", "yaml"}


def test_tests_neither_mock_nor_sleep_but_where_contributing_says_so() -> None:
    sleeping = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(?:import|from) (?:unittest|mock|pytest_mock)\b", text, flags=re.MULTILINE), path
        if re.search(r"\bsleep\(\d", text):
            sleeping.add(path.name)
    assert len(sleeping) <= 1, sleeping


class ArgumentsParsedError(Exception):
    """A benchmark has parsed its arguments."""


@pytest.fixture
def _stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, arguments: Any = None) -> None:
        parse(parser, arguments)
        raise ArgumentsParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def check_make(words: list[str]) -> None:
    makefile = text_of("Makefile")
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name} \?=" if is_variable else rf"^{name}:"
        assert re.search(pattern, makefile, flags=re.MULTILINE), word


def check_module(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module, *arguments = words
    if module == "pytest":
        assert all((ROOT / argument).exists() for argument in arguments if not argument.startswith("-"))
        return
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(ArgumentsParsedError):
        importlib.import_module(module).main()


@pytest.mark.usefixtures("_stop_after_parsing")
@pytest.mark.parametrize(("document", "words"), commands(), ids=lambda value: value if isinstance(value, str) else None)
def test_every_command_is_parsed_by_what_it_calls(
    document: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    match words:
        case ["minilm-search", verb, *arguments]:
            assert verb in VERBS
            # A sentence may name a verb without what it is called with.
            if arguments:
                VERBS[verb].make_context(verb, list(arguments)).close()
        case ["make", *targets]:
            check_make(targets)
        case ["python" | ".venv/bin/python", "-m", *module]:
            check_module(module, monkeypatch)
        case _:
            pytest.fail(f"{document} has a command that no test checks: {shlex.join(words)}")


def test_the_readme_shows_the_whole_way() -> None:
    verbs = [words[1] for document, words in commands() if document == "README.md" and words[0] == "minilm-search"]
    assert verbs == ["init", "launch", "report", "pick", "package", "verify"]


def test_every_verb_and_template_is_in_the_table_of_commands() -> None:
    rows = table_rows("search/README.md", "command")
    named = [verb for cell, _ in rows for verb in re.findall(r"`([\w-]+)`", cell)]
    assert sorted(named) == sorted(VERBS)
    templates = {path.stem for path in (ROOT / "search" / "templates").glob("*.yaml")}
    assert set(re.findall(r"`(\w+)`", rows[0][1])) == templates


def test_the_quickstart_picks_before_it_reports_so_that_the_report_shows_the_decision() -> None:
    (recipe,) = re.findall(r"^quickstart:.*\n((?:\t.*\n)+)", text_of("Makefile"), flags=re.MULTILINE)
    verbs = re.findall(r"\$\(MINILM\) (\w+)", recipe)
    assert verbs.index("launch") < verbs.index("pick") < verbs.index("report") < verbs.index("package")


@pytest.mark.parametrize("block", blocks("yaml"), ids=document_of)
def test_the_settings_shown_are_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(block.text, encoding="utf-8")
    if "teacher:" in block.text:
        assert load_config(path).config.name
    else:
        assert load_space(str(path), tmp_path).num_shapes > 1


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.document in OURS], ids=document_of)
def test_the_code_shown_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.document, "exec"), {})
