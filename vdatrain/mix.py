"""How often the windows of each data set come in an epoch."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vdaprep.schema import UsageError
from vdatrain.index import StoredClip

MAX_REPEATS = 1000


@dataclass(frozen=True)
class Part:
    """So many `clips` that follow one another, and how often each of their windows comes in an epoch.

    `repeats` 3: three times, each time cut anew; 0.5: half of the windows, drawn anew every epoch; 0: never.
    """

    clips: int
    repeats: int | float = 1

    def __post_init__(self) -> None:
        if self.clips < 1 or not 0 <= self.repeats <= MAX_REPEATS:
            raise UsageError(
                f"{self.clips} clips {self.repeats:g} times an epoch cannot be; 0 to {MAX_REPEATS} times can."
            )

    def count(self, windows: int) -> int:
        """Return how many windows an epoch has of a part with so many different ones."""
        return math.floor(self.repeats * windows + 0.5)


def parse_mix(text: str) -> dict[str, float]:
    """Read `tartanair=1,vkitti=3`; raises UsageError for anything else. An empty text is an empty mix."""
    mix: dict[str, float] = {}
    for item in text.split(",") if text else ():
        name, _, number = (word.strip() for word in item.partition("="))
        repeats = _number(number)
        if not name or name in mix or not 0 <= repeats <= MAX_REPEATS:
            raise UsageError(
                f"--mix {text}: {item.strip()!r} is not understood; expected each data set once, with how often its "
                f"windows come in an epoch (0 to {MAX_REPEATS}), like tartanair=1,vkitti=3."
            )
        mix[name] = repeats
    return mix


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def parts_of(clips: Sequence[StoredClip], mix: Mapping[str, float]) -> tuple[Part, ...]:
    """Return how often the clips come; those of a data set that the mix does not name, once.

    Raises UsageError for a name that no clip has.
    """
    found = {clip.dataset for clip in clips}
    unknown = sorted(mix.keys() - found)
    if unknown:
        raise UsageError(f"--mix {unknown[0]}={mix[unknown[0]]:g}: the shards have {', '.join(sorted(found))} only.")
    return tuple(
        Part(len(list(group)), mix.get(dataset, 1)) for dataset, group in itertools.groupby(c.dataset for c in clips)
    )
