"""What a conversion tells while it is under way: a bar on a terminal, lines elsewhere, JSON events for scripts."""

from contextlib import AbstractContextManager

from vdaprep.live.people import tell_people
from vdaprep.live.scripts import tell_scripts
from vdaprep.live.teller import Live

__all__ = ["EVENT_S", "LINE_S", "Live", "live"]

LINE_S = 10.0  # between two lines, and before the first: a short conversion tells only what came of it
EVENT_S = 1.0  # between two events of the same kind that tell of progress


def live(*, as_json: bool) -> AbstractContextManager[Live]:
    """Tell of what happens in the block: on stdout if as JSON, else on stderr."""
    return tell_scripts(every_s=EVENT_S) if as_json else tell_people(every_s=LINE_S)
