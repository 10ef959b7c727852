"""Video Depth Anything as published: no differences."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vdatrain.models.layers.branch import Branch
from vdatrain.models.layers.difference import CELLS_PER_PATCH, check_cells, past_and_future, without_future
from vdatrain.models.layers.dpt import TemporalDPTHead
from vdatrain.models.layers.encoder import Encoder, EncoderSpec, patch_grid

MIN_DEPTH_M = 1e-3  # of metric weights' depth, where it is turned into disparity: as the benchmark bounds it
OWN_PREFIXES: tuple[str, ...] = ()
USES_DIFFERENCES = False


class VideoDepth(nn.Module):
    """Encoder and head under their published names, and a variant's branch between them."""

    own_prefixes: tuple[str, ...] = ()
    """The variant's OWN_PREFIXES, which `variants.build` sets."""
    cells_per_patch = CELLS_PER_PATCH
    """Rows and columns of differences that it takes a patch; `variants.build` sets it."""
    metric = False
    """Whether the weights are metric ones, whose head gives depth: `load_weights` sets it, and the next."""
    canonical_focal_px: float | None = None
    """Focal length of the camera that this depth is of, see `canonical`; None: metres, whatever the camera."""
    past_only = False
    """Whether no frame sees a later one: `set_attention` sets it."""
    differences_shown: Literal["both", "past", "zeros"] = "both"
    """Which differences the branch is shown: to the frames before and after, before only, or zeros for all of them."""
    branch: Branch | None
    """Between encoder and head."""

    def __init__(self, *, pretrained: Encoder, head: TemporalDPTHead, branch: Branch | None = None) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.head = head
        self.branch = branch

    def forward(
        self,
        frames: Float[Tensor, "b t 3 h w"],
        differences: Float[Tensor, "b t 3 dh dw"] | None = None,
        diff_valid: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b t h w"]:
        """Predict disparity >= 0, float32.

        Relative, or with metric weights in 1/m, of depth down to MIN_DEPTH_M, in the canonical camera if they have one.

        Args:
            frames: Normalised with ImageNet's mean and deviation; h and w are multiples of 14.
            differences: Of each frame to the one before it, signed, in grey levels / 255, dh = c h / 14, dw = c w / 14
                with c = `cells_per_patch`; ignored by a variant that uses none.
            diff_valid: False where there is no frame before.

        Raises:
            ValueError: The size does not split into patches, or the variant lacks differences that it uses.
        """
        features = self.pretrained(frames.flatten(0, 1))
        return self.decode(features, frames.shape, differences, diff_valid)

    def decode(
        self,
        features: Sequence[Float[Tensor, "n p c"]],
        shape: Sequence[int],
        differences: Float[Tensor, "b t 3 dh dw"] | None = None,
        diff_valid: Bool[Tensor, "b t"] | None = None,
        *,
        shown: int | None = None,
    ) -> Float[Tensor, "b s h w"]:
        """Do what `forward` does behind the encoder, for frames whose features are there.

        Args:
            features: What `pretrained` returns of the frames, n = b x t.
            shape: Of the frames, [b, t, 3, h, w].
            differences: As `forward` takes them.
            diff_valid: Likewise.
            shown: Return the disparity of so many leading frames of each clip; None: of all. The others are seen.

        Raises:
            ValueError: As `forward`.
        """
        B, T, _, H, W = shape
        grid = patch_grid(H, W)
        guidance = ()
        if self.branch is not None:
            pairs = self._pairs(differences, diff_valid, grid) if self.branch.uses_differences else None
            features, guidance = self.branch(features, pairs, T)
        output = self.head(features, grid, T, guidance, shown=shown).squeeze(1).unflatten(0, (B, -1))
        return 1 / output.float().clamp(min=MIN_DEPTH_M) if self.metric else output

    def _pairs(
        self,
        differences: Float[Tensor, "b t 3 dh dw"] | None,
        diff_valid: Bool[Tensor, "b t"] | None,
        grid: tuple[int, int],
    ) -> Float[Tensor, "b t 8 dh dw"]:
        """Return the past and future differences that the branch is shown."""
        if differences is None or diff_valid is None:
            raise ValueError("this variant uses differences: pass differences and diff_valid.")
        check_cells(differences, grid, self.cells_per_patch)
        if self.differences_shown == "zeros":
            differences = torch.zeros_like(differences)
        pairs = past_and_future(differences, diff_valid)
        return without_future(pairs) if self.past_only or self.differences_shown == "past" else pairs


def build(spec: EncoderSpec, *, max_frames: int) -> VideoDepth:
    """Build the published model."""
    return VideoDepth(pretrained=Encoder(spec), head=TemporalDPTHead(spec, max_frames=max_frames))
