"""The pieces that the variants are built from."""
