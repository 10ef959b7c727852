"""Rendered scenes in the raw layouts of real data sets."""
