"""Writes the page of the published results: `python -m reports.results_page`, or `make results-page`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from minilm_core.errors import UserError
from reports.results_page.writer import ResultsFolder, write_results_page

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page, and prints which cells are missing."""
    parser = argparse.ArgumentParser(prog="python -m reports.results_page")
    parser.add_argument("--folder", type=Path, default=ROOT / "reports" / "results", help="of cells and records")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="the README that gets the first table")
    options = parser.parse_args(arguments)
    folder = ResultsFolder(root=options.folder)
    try:
        groups = write_results_page(folder, options.readme)
    except UserError as error:
        sys.exit(f"results-page: {error}")
    print(f"wrote {folder.page}")
    for cell in (cell for results in groups for cell in results.missing):
        print(f"missing: {cell.name}")


if __name__ == "__main__":
    main()
