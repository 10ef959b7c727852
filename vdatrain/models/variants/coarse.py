"""Ablation: `conv` with differences at some eighth of the frame's scale."""

from vdatrain.models.layers.difference import EMBED_DIM, DifferenceBranch, DifferenceCNN
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = True
CELLS_PER_PATCH = 2


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head."""
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=DifferenceBranch(DifferenceCNN(CELLS_PER_PATCH), embed_dim=EMBED_DIM, dim=spec.dim),
    )
