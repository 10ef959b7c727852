"""Files, local or remote; the cache of shards."""
