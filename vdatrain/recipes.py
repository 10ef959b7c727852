"""The presets: which parts of a model learn, and how fast."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vdaprep.schema import UsageError


@dataclass(frozen=True)
class Recipe:
    """Learning rates at the peak, by the start of a parameter's name; 0 freezes the part.

    `rates` is looked up from the first to the last entry; the last has the empty start and so takes what is left.
    """

    summary: str
    rates: tuple[tuple[str, float], ...]

    def rate_of(self, name: str, *, lr: float | None) -> float:
        """Return the rate of a parameter; `lr` replaces the greatest one and scales the others along."""
        rate = next(rate for start, rate in self.rates if name.startswith(start))
        greatest = max(rate for _, rate in self.rates)
        return rate if lr is None else rate * lr / greatest


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "paper": Recipe("encoder frozen, head and branch at 1e-4", (("pretrained.", 0.0), ("", 1e-4))),
        "finetune": Recipe(
            "encoder at 1e-6, head at 1e-5, branch at 1e-4", (("pretrained.", 1e-6), ("head.", 1e-5), ("", 1e-4))
        ),
        "adapter": Recipe("only the variant's own branch, at 1e-4", (("pretrained.", 0.0), ("head.", 0.0), ("", 1e-4))),
        "scratch": Recipe("everything at 3e-4", (("", 3e-4),)),
    }
)


def recipe(name: str) -> Recipe:
    """Look a preset up; raises UsageError for an unknown name."""
    if name not in RECIPES:
        raise UsageError(f"--preset {name}: is not known; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
