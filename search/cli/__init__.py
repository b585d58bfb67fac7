"""The command line, `minilm-search`: it reads arguments, prints results, and imports a command's code when it runs.

It is the only package that imports both the search and the reports. What the commands do is in other packages.
"""

from search.cli.app import main

__all__ = ["main"]
