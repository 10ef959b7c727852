"""Clips to the members of a shard.

profiles  how frames, depth and differences are stored
encoder   clips of raw frames
cuts      where a video goes on in another place
members   what both encode: images, groups of video, depth
recode    clips of shards, to smaller shards
"""
