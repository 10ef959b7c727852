"""Raw data to shards: plan, encode, resume, repair, consume, budget."""
