"""Which windows of an evaluation each rank takes over."""

from collections.abc import Collection

from vdatrain.distributed import Ranks


def divide(total: int, *, first_takes: Collection[int], ranks: Ranks) -> tuple[tuple[int, ...], int]:
    """Return this rank's positions of `total`, ascending, and the most that any rank has.

    The first rank takes those that only it can have, `first_takes`, and then as many as come on each.
    """
    quota = max(-(-total // ranks.world), len(first_takes))
    ordered = sorted(range(total), key=lambda position: (position not in first_takes, position))
    if ranks.is_first:
        return tuple(sorted(ordered[:quota])), quota
    return tuple(ordered[quota + ranks.rank - 1 :: ranks.world - 1]), quota
