"""The variants of the model: each module of this folder is one, found by listing it.

A variant's module has a docstring whose first sentence says what it is, and

    OWN_PREFIXES                  starts of the parameter names that published weights do not have
    USES_DIFFERENCES              whether its forward needs frame differences
    build(spec, *, max_frames)    the model with initial weights, a `VideoDepth`
    STARTS_AS_PUBLISHED           optional, False where new weights change what the published model computes
    CELLS_PER_PATCH               optional, rows and columns of differences that it takes a patch
"""

import importlib
import pkgutil
from types import ModuleType

from vdaprep.errors import UsageError
from vdatrain.models.layers.difference import CELLS_PER_PATCH
from vdatrain.models.layers.encoder import encoder_spec
from vdatrain.models.layers.temporal import PUBLISHED_FRAMES
from vdatrain.models.variants.basic import VideoDepth

__all__ = ["build", "cells_per_patch", "names", "own_prefixes", "starts_as_published", "summary", "uses_differences"]


def names() -> tuple[str, ...]:
    """List the variants, sorted.

    Returns:
        The names that `build` and `--variant` take.
    """
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def build(variant: str, *, encoder: str = "vits", max_frames: int = PUBLISHED_FRAMES) -> VideoDepth:
    """Build a variant of the model with initial weights.

    Args:
        variant: One of `names()`, for example "basic" or "conv".
        encoder: "tiny", "vits", "vitb" or "vitl".
        max_frames: The longest clip that the model can take; published weights are for 32.

    Returns:
        The model on the current default device, in training mode: from frames float32 [b, t, 3, h, w] (normalised
        with ImageNet's mean and deviation), differences [b, t, 3, c h / 14, c w / 14], c being its `cells_per_patch`,
        mostly 4, and their validity bool [b, t]
        to relative disparity float32 [b, t, h, w].

    Raises:
        UsageError: The variant or the encoder is unknown.
    """
    module = _module(variant)
    model: VideoDepth = module.build(encoder_spec(encoder), max_frames=max_frames)
    model.own_prefixes = module.OWN_PREFIXES
    model.cells_per_patch = cells_per_patch(variant)
    return model


def own_prefixes(variant: str) -> tuple[str, ...]:
    """Return the starts of the parameter names that a variant adds to the published model."""
    return _module(variant).OWN_PREFIXES


def uses_differences(variant: str) -> bool:
    """Say whether a variant needs frame differences."""
    return _module(variant).USES_DIFFERENCES


def cells_per_patch(variant: str) -> int:
    """Return the rows and columns of differences that a variant takes a patch."""
    return getattr(_module(variant), "CELLS_PER_PATCH", CELLS_PER_PATCH)


def starts_as_published(variant: str) -> bool:
    """Say whether a variant with published weights begins as the published model."""
    return getattr(_module(variant), "STARTS_AS_PUBLISHED", True)


def summary(variant: str) -> str:
    """Return the first sentence of a variant's docstring."""
    text = " ".join((_module(variant).__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".") + "."


def _module(variant: str) -> ModuleType:
    if variant not in names():
        raise UsageError(f"variant {variant!r} is not known; choose one of {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{variant}")
