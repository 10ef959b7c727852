"""Figures that others have published under the protocol of Video Depth Anything.

Figures are absrel and delta1 of each data set, and TAE x 100 of ScanNet, by the keys of `protocols.VDA`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Pair = tuple[float, float]


@dataclass(frozen=True)
class PublishedRow:
    """A model's figures, and where they stand."""

    model: str
    """The model."""
    source: str
    """Where the figures are published."""
    pairs: Mapping[str, Pair] = field(default_factory=dict[str, Pair])
    """absrel and delta1 by key of the set."""
    tae: float | None = None
    """Temporal alignment error x 100 on ScanNet."""
    doubtful: Mapping[str, str] = field(default_factory=dict[str, str])
    """By key of the set: why a figure cannot be taken as it stands."""


@dataclass(frozen=True)
class MetricRow:
    """A metric model's figures: delta1 without alignment."""

    model: str
    """The model."""
    source: str
    """Where the figures are published."""
    delta1: Mapping[str, float]
    """By key of the set."""
    tae: float
    """Temporal alignment error x 100 on ScanNet."""


_PAPER = "arXiv:2501.12375"
_GEMDEPTH = "GemDepth README"
_BOTH = f"{_GEMDEPTH}; TAE {_PAPER}"
_SETS = ("kitti", "scannet", "bonn", "nyuv2", "sintel")
_WHOLE_METRES = (
    "its Sintel truth is cut to whole metres, on which a perfect prediction does not score 0; see protocol vda-legacy"
)
_EQUAL = "the figures of two sets are the same in the source"


def _row(
    model: str,
    source: str,
    *pairs: Pair | None,
    tae: float | None = None,
    doubtful: Mapping[str, str] | None = None,
) -> PublishedRow:
    found = {key: pair for key, pair in zip(_SETS, pairs, strict=True) if pair is not None}
    return PublishedRow(model, source, found, tae, doubtful or {})


PUBLISHED: tuple[PublishedRow, ...] = (
    _row("NVDS", _BOTH, (0.233, 0.614), (0.207, 0.628), (0.199, 0.674), None, (0.408, 0.464), tae=2.176),
    _row(
        "ChronoDepth", _GEMDEPTH, (0.243, 0.576), (0.199, 0.665), (0.199, 0.665), None, (0.192, 0.673),
        doubtful={
            "scannet": _EQUAL, "bonn": _EQUAL, "sintel": "could not be confirmed elsewhere",
        },
    ),
    _row("DepthCrafter", _BOTH, (0.164, 0.753), (0.169, 0.730), (0.153, 0.803), None, (0.299, 0.695), tae=0.639),
    _row("RollingDepth", _GEMDEPTH, (0.107, 0.887), (0.102, 0.901), (0.088, 0.931), None, (0.417, 0.375)),
    _row(
        "Depth Anything V2-L", _BOTH, (0.137, 0.815), (0.150, 0.768), (0.127, 0.864), None, (0.390, 0.541), tae=1.140
    ),
    _row("VDA-S", _PAPER, (0.086, 0.942), (0.110, 0.876), (0.083, 0.950), (0.077, 0.959), (0.339, 0.584), tae=0.703),
    _row("VDA-B", "no figures are published", None, None, None, None, None),
    _row("VDA-L", _PAPER, (0.083, 0.944), (0.089, 0.926), (0.071, 0.959), (0.062, 0.971), (0.295, 0.644), tae=0.570),
    _row("DVD v1.1", _GEMDEPTH, (0.071, 0.959), (0.085, 0.933), (0.081, 0.948), None, (0.267, 0.689), tae=0.61),
    _row(
        "GemDepth (DAv2 init)", _GEMDEPTH, (0.077, 0.950), (0.069, 0.959), (0.055, 0.970), None, (0.188, 0.812),
        doubtful={"sintel": _WHOLE_METRES},
    ),
    _row(
        "GemDepth (VDA init)", _GEMDEPTH, (0.071, 0.955), (0.066, 0.967), (0.051, 0.978), None, (0.157, 0.827),
        tae=0.47, doubtful={"sintel": _WHOLE_METRES},
    ),
)  # fmt: skip

_METRIC = "published with the metric weights; which frames were measured is not said"

PUBLISHED_METRIC: tuple[MetricRow, ...] = (
    MetricRow("VDA-S metric", _METRIC, {"kitti": 0.877, "nyuv2": 0.850}, 1.48),
    MetricRow("VDA-B metric", _METRIC, {"kitti": 0.887, "nyuv2": 0.883}, 1.26),
    MetricRow("VDA-L metric", _METRIC, {"kitti": 0.910, "nyuv2": 0.908}, 1.09),
    MetricRow("MoGe-2-L", _METRIC, {"kitti": 0.415, "nyuv2": 0.967}, 2.56),
    MetricRow("UniDepthV2-L", _METRIC, {"kitti": 0.982, "nyuv2": 0.989}, 1.41),
    MetricRow("DepthPro", _METRIC, {"kitti": 0.822, "nyuv2": 0.953}, 2.73),
)
