"""The contract between the two programs, version 2: names, metadata and records of shards.

    OUT/DATASET/dataset.json              DatasetRecord, written last
    OUT/DATASET/SPLIT/shard-0001.tar      clips, one after the other
    OUT/DATASET/SPLIT/shard-0001.json     ShardRecord, written after the tar

A clip's members, in this order, so that any window of frames is one contiguous range of bytes:

    KEY.json              ClipMeta: how depth is packed, how frames are stored, where differences come from
    KEY.f000.rgb.jpg      the frame, JPEG; or
    KEY.f000.rgb.mp4      frames 0 to 7, a closed group of video, in front of the first of them
    KEY.f000.depth.zst    the frame's depth, in the packing of `meta.depth`
    KEY.f000.diff.zst     the frame minus the one before it; absent unless differences are stored
    KEY.f001.rgb.jpg ...

Version 1 has JPEG frames, depth in packing `bytes`, and differences that are stored; it is read, and continued, for
ever.

JSON is canonical: sorted keys, no spaces, ASCII, no nan or infinity. Both records hold a checksum of themselves.

names, canonical, metadata, records   names of files and members; JSON; a clip's metadata; records
depth_codes, codec, cameras           depth to 16-bit codes; frames to bytes and back; poses and intrinsics
pictures                              depth as colours; frames under stress
tar, writer, reader                   USTAR both ways; clips to a shard; a shard to frames
dataset, index                        folders and URLs to collections of clips; a collection as arrays
"""
