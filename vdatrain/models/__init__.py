"""The model, its variants, and weights in and out."""
