"""What converted trajectories look like as a whole, and those that look wrong, as lines."""

from collections.abc import Iterator, Sequence
from statistics import median

from vdaprep.analysis.picture import Picture

_EACH = 12  # trajectories that are shown one by one
_WRONG = 40  # trajectories that are named


def picture_lines(pictures: Sequence[Picture]) -> Iterator[str]:
    """Lay out what trajectories look like: a line for each of a few, medians of many."""
    if len(pictures) <= _EACH:
        yield from map(str, pictures)
        return
    errors = [one.warp_error for one in pictures if one.warp_error is not None]
    warped = f", warp error {median(errors):.2%}" if errors else ""
    unknown, sky = median(one.unknown for one in pictures), median(one.sky for one in pictures)
    yield f"{len(pictures)} trajectories were looked at; in the median unknown {unknown:.1%}, sky {sky:.1%}{warped}"


def finding_lines(pictures: Sequence[Picture]) -> Iterator[str]:
    """Name the trajectories that look wrong, and why."""
    wrong = [one for one in pictures if one.findings]
    for one in wrong[:_WRONG]:
        yield from (f"looks wrong: {one.trajectory}: {what}" for what in one.findings)
    if len(wrong) > _WRONG:
        yield f"and {len(wrong) - _WRONG} more trajectories look wrong; --json has all"
