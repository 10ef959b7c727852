"""How many frames of each data set a run has shown, against what its mix asks for.

A data set can deliver less than its share: its clips are shorter than a window, or its windows cannot be read and
others took their place (`skip_bad`). Nothing else of a run would show it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vdatrain.distributed.ranks import Ranks

LOG_EVERY = 1000
"""Steps between two lines of the log that tell the shares."""
_MUCH_LESS = 0.5
"""Fraction of its share below which a data set is named at the end."""


@dataclass
class MixtureMeter:
    """Counts the frames of each data set; all ranks have one and settle together."""

    expected: Mapping[str, float]
    """Share of the frames that each data set should have, by its name."""
    shown: Counter[str] = field(default_factory=Counter[str])
    """Frames of all ranks, settled."""
    _waiting: Counter[str] = field(default_factory=Counter[str])

    def add(self, datasets: Iterable[str], num_frames: int) -> None:
        """Count windows of so many frames, by the data set of each."""
        for name in datasets:
            self._waiting[name] += num_frames

    def settle(self, ranks: Ranks = Ranks()) -> None:  # noqa: B008 - it is frozen
        """Add up what all ranks, which all call this, have counted since."""
        mine = [f"{count} {name}" for name, count in sorted(self._waiting.items())]
        self._waiting.clear()
        for text in (text for texts in ranks.gather(mine) for text in texts):
            count, _, name = text.partition(" ")
            self.shown[name] += int(count)

    def shares(self) -> dict[str, dict[str, float]]:
        """Return the expected and the realised share of settled frames by data set, rounded."""
        total = sum(self.shown.values())
        names = sorted({*self.expected, *self.shown})
        return {
            name: {
                "expected": round(self.expected.get(name, 0.0), 4),
                "shown": round(self.shown[name] / total if total else 0.0, 4),
            }
            for name in names
        }

    def sentences(self) -> list[str]:
        """Return a sentence for each data set that delivered much less than it should have."""
        return [
            f"{name}: gave {share['shown']:.1%} of the frames where the mix asks for {share['expected']:.1%}; are its "
            "clips shorter than --frames, or were windows left out as unreadable?"
            for name, share in self.shares().items()
            if share["shown"] < _MUCH_LESS * share["expected"]
        ]
