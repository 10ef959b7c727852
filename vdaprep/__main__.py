"""`python -m vdaprep`, where the command is not on the path or of another interpreter."""

from vdaprep.cli import main

main()
