"""`python -m vdaprep`, where the command is not on the path, or not of the interpreter that is meant."""

from vdaprep.cli import main

main()
