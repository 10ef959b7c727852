"""Train and evaluate Video Depth Anything variants on shards."""
