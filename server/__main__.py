"""`python -m server` is `aisle`."""

from server.cli import main

main()
