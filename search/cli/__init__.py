"""The command line, `minilm-search`: the one place that sees both the search and the reports, each loaded when used."""

from search.cli.app import main

__all__ = ["main"]
