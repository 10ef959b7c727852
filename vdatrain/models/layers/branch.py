"""What a variant puts between encoder and head: its branch, and what that hands on."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vdatrain.models.layers.temporal import Guidance


class Branched(NamedTuple):
    """What the head is given."""

    features: tuple[Float[Tensor, "n p c"], ...]
    """The tapped features, changed."""
    guidance: tuple[Guidance, ...] = ()
    """Of each temporal module; empty: none."""


class Branch(nn.Module):
    """Base of the branches: `branch(features, pairs, num_frames)` gives a `Branched`.

    The tapped features are [n, p, c], n = b x num_frames. Pairs are past and future differences [b, t, 8, dh, dw] as
    `past_and_future` gives them; None unless `uses_differences`.

    A branch begins as one that changes nothing. What of it looks at other frames is made of `Neighbours` and
    `TemporalAttention`, which know streams and `past_only`.
    """

    uses_differences = True
    """Whether it needs frame differences."""
