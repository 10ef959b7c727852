"""Batches of windows in the order of a position, read by threads before they are asked for."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from vdaprep.errors import UsageError, VdakitError
from vdatrain.data.index import StoredClip
from vdatrain.data.prefetch import Pace, Stalled, map_ahead
from vdatrain.data.sampler import DistributedPositions, Sampler, Window, WindowSampler
from vdatrain.data.samples import Sample, read_window


@dataclass(frozen=True)
class FaultPolicy:
    """What is done about windows that cannot be read.

    skip_bad: how many may be replaced by others before the stream ends with the error of the next; `on_skip` is told of
    each. stall_timeout_s: how long a window may take, 0 for as long as it takes.
    """

    skip_bad: int = 0
    stall_timeout_s: int | float = 300
    on_skip: Callable[[str], None] = lambda sentence: None

    def __post_init__(self) -> None:
        if self.skip_bad < 0 or self.stall_timeout_s < 0:
            raise UsageError(
                f"--skip-bad {self.skip_bad} and --stall-timeout {self.stall_timeout_s:g} have to be 0 or more."
            )


def stream_batches(
    clips: Sequence[StoredClip],
    order: Sampler,
    *,
    share: DistributedPositions,
    workers: int = 2,
    pin: bool = False,
    faults: FaultPolicy = FaultPolicy(),  # noqa: B008 - it is frozen
) -> Generator[list[Sample]]:
    """Yield a rank's batches from `share.start` on; their samples may differ in size.

    `workers` threads read and unpack ahead (0: one, that waits to be asked), which leaves the interpreter's lock to
    others for nearly all of their time; the batches are those of `order` for any number of them. Closing the iterator
    ends them. `pin` as in `read_window`. Raises, when the batch's turn comes, the ShardError of `read_window`, and
    VdakitError where a read does not come back, or memory does not suffice.

    With `skip_bad` the window that takes a bad one's place is that of the same place in a later epoch: a function of
    the order and the shards alone, so that every rank keeps its number of batches, all of them whole.
    """
    pace = Pace(max(1, workers), ahead=share.batch + workers if workers else 0, patience_s=faults.stall_timeout_s)
    windows = (order.at(position) for position in share.positions(total=order.total))
    read = functools.partial(_read, clips=clips, order=order, pin=pin, skip_bad=faults.skip_bad)
    with closing(map_ahead(read, windows, pace=pace)) as outcomes:
        samples = _replace_bad(outcomes, faults=faults)
        try:
            while batch := list(itertools.islice(samples, share.batch)):
                yield batch
        except Stalled as stalled:
            raise _stall_error(stalled, clips, faults) from None


@dataclass(frozen=True)
class _Outcome:
    """What a position's window came to: the sample, and why windows that were to be at its place are not.

    No sample: none of those that were tried could be read.
    """

    sample: Sample | None
    errors: tuple[VdakitError, ...]


def _read(window: Window, *, clips: Sequence[StoredClip], order: Sampler, pin: bool, skip_bad: int) -> _Outcome:
    """Read a window or, at most `skip_bad` times, one to take its place."""
    errors: list[VdakitError] = []
    while len(errors) <= skip_bad:
        chosen = window if not errors else _instead_of(window, order, attempt=len(errors))
        try:
            return _Outcome(read_window(clips[chosen.clip], chosen, pin=pin), tuple(errors))
        except VdakitError as error:
            errors.append(error)
        except MemoryError:
            raise _memory_error(clips[chosen.clip], chosen) from None
    return _Outcome(None, tuple(errors))


def _instead_of(window: Window, order: Sampler, *, attempt: int) -> Window:
    if not isinstance(order, WindowSampler):
        raise UsageError("--skip-bad is for training; an evaluation without some of its windows would be another one.")
    later = order.at(window.position + attempt * order.windows_per_epoch)
    return dataclasses.replace(later, position=window.position)


def _replace_bad(outcomes: Iterable[_Outcome], *, faults: FaultPolicy) -> Iterator[Sample]:
    """Count what was skipped, in the order of the positions; raise the error that is one too many."""
    skipped = 0
    for outcome in outcomes:
        for error in outcome.errors:
            skipped += 1
            if skipped > faults.skip_bad:
                raise error if not faults.skip_bad else _too_many(error, faults)
            faults.on_skip(f"{error} Another window takes its place ({skipped} of at most {faults.skip_bad}).")
        assert outcome.sample is not None  # else there were errors enough
        yield outcome.sample


def _too_many(error: VdakitError, faults: FaultPolicy) -> VdakitError:
    return type(error)(f"{error} That is one more than --skip-bad {faults.skip_bad} lets pass.")


def _memory_error(clip: StoredClip, window: Window) -> VdakitError:
    return VdakitError(
        f"{clip.tar}: memory does not suffice to unpack {window.shape.num_frames} frames of clip {clip.entry.key}; use "
        "fewer --workers, a smaller --batch or fewer --frames."
    )


def _stall_error(stalled: Stalled, clips: Sequence[StoredClip], faults: FaultPolicy) -> VdakitError:
    assert isinstance(stalled.item, Window)
    clip = clips[stalled.item.clip]
    return VdakitError(
        f"{clip.tar}: reading clip {clip.entry.key} has not ended after {faults.stall_timeout_s:g} s; see whether its "
        "disk or server answers, or wait longer with --stall-timeout."
    )
