"""Clips to the members of a shard.

encoder   clips of raw frames
members   what both encode: images, groups of video, depth
recode    clips of shards, to smaller shards
"""

from vdaprep.conversion.encode.encoder import ClipEncoder

__all__ = ["ClipEncoder"]
