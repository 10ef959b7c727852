"""A teacher's disparity as labels: `vdatrain label`.

teacher     weights that label, with their hash and licence
inputs      what waits for labels: clips of shards, photographs, videos
shards      frames and labels as shards of kind `relative`, whole shards at a time
"""
