"""`python -m search.cli`, for processes that cannot count on the script being on the path."""

from search.cli.app import main

main()
