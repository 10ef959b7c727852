"""Ablation: `conv` with differences at some half of the frame's scale."""

from vdatrain.models.layers.encoder import EncoderSpec
from vdatrain.models.variants import conv
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES, USES_DIFFERENCES = conv.OWN_PREFIXES, conv.USES_DIFFERENCES
CELLS_PER_PATCH = 8


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build `conv` with these cells."""
    return conv.build(spec, max_frames=max_frames, cells=CELLS_PER_PATCH)
