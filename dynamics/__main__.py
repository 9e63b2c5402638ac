"""`python -m dynamics` is the command `dynamics`."""

from dynamics.cli import main

main()
