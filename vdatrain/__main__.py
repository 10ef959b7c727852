"""`python -m vdatrain`, which is what torchrun starts."""

from vdatrain.cli import main

main()
