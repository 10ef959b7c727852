"""Convert raw depth videos into small WebDataset shards; runs without torch."""
