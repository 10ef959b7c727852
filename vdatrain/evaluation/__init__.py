"""Metrics of a model, and runs side by side."""
