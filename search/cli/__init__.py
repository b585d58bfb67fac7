"""The command line, `minilm-search`: arguments are read and results printed, each command's code imported when used.

It is the only package that imports both the search and the reports; what the commands do lies in theirs.
"""

from search.cli.app import main

__all__ = ["main"]
