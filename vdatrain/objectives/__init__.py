"""The mathematics of training and evaluation: alignment, losses, metrics."""
