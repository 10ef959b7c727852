"""The variants of the model: each module of this folder is one, found by listing it.

A variant's module has a docstring whose first sentence says what it is, `OWN_PREFIXES` (the parameter names that
published weights do not have) and `build(spec, *, max_frames)`.
"""

import importlib
import pkgutil
from types import ModuleType

from torch import nn

from vdaprep.errors import UsageError
from vdatrain.models.layers.encoder import encoder_spec
from vdatrain.models.layers.temporal import PUBLISHED_FRAMES

__all__ = ["build", "names", "own_prefixes", "summary"]


def names() -> tuple[str, ...]:
    """List the variants, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def build(variant: str, *, encoder: str, max_frames: int = PUBLISHED_FRAMES) -> nn.Module:
    """Build a variant with fresh weights; raises UsageError for an unknown variant or encoder.

    max_frames: the longest clip the model can take; published weights hold a table of 32.
    """
    return _module(variant).build(encoder_spec(encoder), max_frames=max_frames)


def own_prefixes(variant: str) -> tuple[str, ...]:
    """Return the starts of the parameter names that may be missing where published weights are loaded."""
    return _module(variant).OWN_PREFIXES


def summary(variant: str) -> str:
    """Return the first sentence of the variant's docstring."""
    text = " ".join((_module(variant).__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".") + "."


def _module(variant: str) -> ModuleType:
    if variant not in names():
        raise UsageError(f"variant {variant!r} is not known; choose one of {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{variant}")
