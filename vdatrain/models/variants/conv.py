"""The published model plus a small CNN that adds frame differences to the features."""

from vdatrain.models.layers.difference import CELLS_PER_PATCH, EMBED_DIM, DifferenceBranch, DifferenceCNN
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec
from vdatrain.models.variants.basic import VideoDepth

OWN_PREFIXES = ("branch.",)
USES_DIFFERENCES = True


def build(spec: EncoderSpec, *, max_frames: int, cells: int = CELLS_PER_PATCH) -> VideoDepth:
    """Build the model, the branch last: a seed gives every variant the same encoder and head.

    cells: rows and columns of differences that it takes a patch.
    """
    return VideoDepth(
        pretrained=Encoder(spec),
        head=TemporalDPTHead(spec, max_frames=max_frames),
        branch=make_branch(spec, cells=cells),
    )


def make_branch(spec: EncoderSpec, *, cells: int = CELLS_PER_PATCH) -> DifferenceBranch:
    """Build the branch alone."""
    return DifferenceBranch(DifferenceCNN(cells), embed_dim=EMBED_DIM, dim=spec.dim)
