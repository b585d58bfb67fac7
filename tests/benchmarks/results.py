"""Makes a cell of the published results: a student beside its teacher, its twin and the cut teacher.

    python -m tests.benchmarks.results                          # which cells there are
    python -m tests.benchmarks.results --cell NAME --data DATA  # makes one, and appends its records

A cell is an ordinary study of one student, which `minilm-search launch` runs; interrupted, it goes on with the same
command. The cells, their recipes and tasks are declared in reports/results/cells.yaml. `make results-page` then writes
the page. With `--set KEY=VALUE` a cell differs from the declared one, unless only `resources`, `storage` or `budget`
are set: its records are for trying things out, go to the folder of the studies, and are left out of the page.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from reports import load_study
from reports.results_page import (
    Catalogue,
    Cell,
    ResultRecord,
    ResultsFolder,
    append_results,
    load_catalogue,
    read_results,
)
from search.cli.terminal import ExitCode
from search.config.settings import SearchConfig
from search.study.resolved import find_study
from tests.benchmarks.results_cost import expected
from tests.benchmarks.results_records import as_text, records_of
from tests.benchmarks.results_studies import Folders, calibrate_for_all, is_declared, take_over, write_settings
from tests.paths import ROOT

LONGEST_MINUTES = 60.0
"""A cell that would take longer waits for a faster machine."""
PUBLISHED = ROOT / "reports" / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes one cell, or lists all."""
    options = parsed(arguments)
    try:
        catalogue = load_catalogue(ResultsFolder(root=PUBLISHED).cells if options.cells is None else options.cells)
        records = read_results(options.records)
        if options.cell is None:
            print(listed(catalogue, records))
        else:
            make(catalogue, catalogue.cell(options.cell), records, options)
    except UserError as error:
        sys.exit(f"results: {error}")
    except KeyboardInterrupt:
        print("results: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)


def listed(catalogue: Catalogue, records: Sequence[ResultRecord]) -> str:
    """Returns one line a cell: whether it is made."""
    made = {record.cell for record in records if not record.overrides}
    return "\n".join(f"{cell.name}: {'made' if cell.name in made else 'missing'}" for cell in catalogue.cells)


def make(catalogue: Catalogue, cell: Cell, records: Sequence[ResultRecord], options: argparse.Namespace) -> None:
    """Makes a cell from where it stands, and appends its records.

    Raises:
        UserError: if it is made already, would take too long, or its study fails.
    """
    overrides = tuple(override for override in options.set if not is_declared(override))
    earlier = [record for record in records if record.cell == cell.name and record.overrides == overrides]
    if earlier and not options.again:
        date = earlier[0].provenance.date
        raise UserError(f"a cell must not be made twice, got {cell.name} of {date}; --again makes it anew")
    folders = folders_of(options)
    config = write_settings(catalogue, cell, folders, options.set)
    paths = StudyPaths(root=config.study_folder)
    if options.again and paths.records.exists():
        shutil.rmtree(paths.root)
    prepare(catalogue, config, paths, folders, is_any_length_allowed=options.anyway)
    launch(folders.search_yaml(cell.name), options.set)
    made = records_of(load_study(paths.root), catalogue, cell, config, folders, overrides)
    append_results(options.records, made)
    print(as_text(made))
    print(f"appended {len(made)} records to {options.records}; next: make results-page")


def prepare(
    catalogue: Catalogue, config: SearchConfig, paths: StudyPaths, folders: Folders, *, is_any_length_allowed: bool
) -> None:
    """Calibrates, takes over what other cells have made, and says how long the rest will take.

    Raises:
        UserError: if that is longer than an hour, unless any length is allowed.
    """
    study = find_study(config, paths)
    calibrate_for_all(study, catalogue)
    for taken in take_over(study, folders.studies):
        print(f"taken over: {taken}", flush=True)
    estimate = expected(study)
    print(f"{config.name}: {estimate}", flush=True)
    if estimate.minutes > LONGEST_MINUTES and not is_any_length_allowed:
        raise UserError(
            f"a cell must take at most {LONGEST_MINUTES:.0f} minutes, got about {estimate.minutes:.0f} for "
            f"{config.name} on this machine; it waits for a faster one, or --anyway makes it here"
        )


def launch(search_yaml: Path, overrides: Sequence[str]) -> None:
    """Runs `minilm-search launch`, which goes on with a study that was interrupted.

    Raises:
        UserError: if it fails.
    """
    words = [sys.executable, "-m", "search.cli", "launch", str(search_yaml)]
    for override in overrides:
        words += ["--set", override]
    code = subprocess.run(words, cwd=ROOT, check=False).returncode
    if code:
        raise UserError(f"the study of a cell must end without a failure, got exit code {code}; its log says why")


def folders_of(options: argparse.Namespace) -> Folders:
    """Returns the folders of a call.

    Raises:
        UserError: if the data are missing.
    """
    if options.data is None or not options.data.is_dir():
        raise UserError(f"--data must be the folder of the tasks, got {options.data}")
    corpus = options.data / "corpus" if options.corpus is None else options.corpus
    return Folders(data=options.data, corpus=corpus, teachers=options.teachers, work=options.work)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.results")
    parser.add_argument("--cell", help="the cell to make; without it, all are listed")
    parser.add_argument("--data", type=Path, help="the folder of the tasks, in the Hub's column layout")
    parser.add_argument("--corpus", type=Path, help="the folder of the text; DATA/corpus unless given")
    parser.add_argument("--teachers", type=Path, help="the folder of teachers that no package has")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "results", help="of studies and their cache")
    parser.add_argument("--records", type=Path, help="what is appended to; the published ones unless given")
    parser.add_argument("--cells", type=Path, help="the declared cells; reports/results/cells.yaml unless given")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of the study")
    parser.add_argument("--again", action="store_true", help="make a cell anew that is made already")
    parser.add_argument("--anyway", action="store_true", help="make a cell that takes more than an hour, too")
    options = parser.parse_args(arguments)
    if options.records is None:
        # What differs from a declared cell is not published.
        is_published = all(map(is_declared, options.set))
        options.records = PUBLISHED / "records.jsonl" if is_published else options.work / "records.jsonl"
    return options


if __name__ == "__main__":
    main()
