"""Files, local or remote; knows nothing of shards."""
