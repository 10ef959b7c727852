"""Frames to the bytes of members and back; every encoder stands next to its decoder.

zstd           compression, of a size that is known before anything is allocated
depth          codes of depth (`shards.depth_codes`)
interpolation  the same with a bounded error, from coarse to fine
sparse         the same of lone points
clip_depth     kind and packing of a clip's depth
differences    differences of neighbouring frames
jpeg           frames, each alone
video_groups   frames in groups, as H.264 or AV1
mp4            where the packets of a group lie
"""

from vdaprep.shards.codec.clip_depth import (
    HALF_METRES,
    LOSSLESS,
    PackedDepth,
    keep_packed,
    likely_packing,
    pack_again,
    pack_depth,
    pack_disparity,
    settle,
    suited,
)
from vdaprep.shards.codec.depth import (
    codes_of_planes,
    decode_depth,
    decompress_depth,
    depth_bytes,
    encode_depth,
    pack_codes,
    planes_of_bytes,
    unpack_codes,
    unpack_planes,
)
from vdaprep.shards.codec.differences import decode_diff, encode_diff, shrink
from vdaprep.shards.codec.interpolation import codes_of_values
from vdaprep.shards.codec.jpeg import decode_rgb, encode_rgb, jpeg_size
from vdaprep.shards.codec.video_groups import (
    decode_group,
    decode_planes,
    encode_group,
    encoder_version,
    missing_encoder,
    planes_size,
    rgb_of_planes,
)
from vdaprep.shards.codec.zstd import ZSTD_LEVEL

__all__ = [
    "HALF_METRES",
    "LOSSLESS",
    "PackedDepth",
    "ZSTD_LEVEL",
    "codes_of_planes",
    "codes_of_values",
    "decode_depth",
    "decode_diff",
    "decode_group",
    "decode_planes",
    "decode_rgb",
    "decompress_depth",
    "depth_bytes",
    "encode_depth",
    "encode_diff",
    "encode_group",
    "encode_rgb",
    "encoder_version",
    "jpeg_size",
    "keep_packed",
    "likely_packing",
    "missing_encoder",
    "pack_again",
    "pack_codes",
    "pack_depth",
    "pack_disparity",
    "planes_of_bytes",
    "planes_size",
    "rgb_of_planes",
    "settle",
    "shrink",
    "suited",
    "unpack_codes",
    "unpack_planes",
]
