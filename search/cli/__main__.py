"""`python -m search.cli`, for processes that cannot rely on the script being on the path."""

from search.cli.app import main

main()
