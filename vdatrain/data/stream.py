"""Windows read, decoded and put into batches by threads, in the order of a sampler."""

import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from vdaprep.errors import DataError, UsageError, VdakitError
from vdaprep.shards.reader import Clip
from vdatrain.data.prefetch import Pace, Stalled, map_ahead
from vdatrain.data.sampler import DistributedPositions, Sampler, TrainSampler, Window
from vdatrain.data.samples import Sample, read_window


@dataclass(frozen=True)
class FaultPolicy:
    """What is done about windows that cannot be read. UsageError for numbers below 0."""

    skip_bad: int = 0
    """Windows that may be replaced by others; the next bad one raises its error."""
    stall_timeout_s: int | float = 300
    """Seconds that a window may take; 0: no limit."""
    on_skip: Callable[[str], None] = lambda sentence: None
    """Called with a sentence for each window that is replaced."""

    def __post_init__(self) -> None:
        if self.skip_bad < 0 or self.stall_timeout_s < 0:
            raise UsageError(
                f"--skip-bad {self.skip_bad} and --stall-timeout {self.stall_timeout_s:g} have to be 0 or more."
            )


def stream_batches(
    clips: Sequence[Clip],
    order: Sampler,
    *,
    positions: DistributedPositions,
    workers: int = 2,
    pin: bool = False,
    faults: FaultPolicy = FaultPolicy(),  # noqa: B008 - it is frozen
) -> Generator[list[Sample]]:
    """Yield a rank's batches from `positions.start` on; their samples may differ in size.

    The batches are those of `order` for any number of workers. With `skip_bad` the window that takes a bad one's place
    is that of the same place in a later epoch: a function of the order and the shards alone, so that every rank keeps
    its number of batches, all of them whole.

    Args:
        clips: The index that the windows' clip numbers refer to.
        order: The window at each position.
        positions: The positions to read.
        workers: Threads that read and decode ahead, nearly always without the interpreter's lock; 0: one that reads
            only what was asked for. Closing the generator ends them.
        pin: Decode into page-locked memory, as `read_window`.
        faults: What to do about windows that cannot be read.

    Raises:
        ShardError: a window cannot be read, when its batch is due.
        VdakitError: a read takes longer than `stall_timeout_s`, or memory does not suffice.
    """
    total = None if isinstance(order, TrainSampler) else len(order)
    windows = (order[position] for position in positions.positions(total=total))
    read = functools.partial(_read, clips=clips, order=order, pin=pin, skip_bad=faults.skip_bad)
    batches = collect(
        map_ahead(read, windows, pace=pace_of(positions, workers, faults)), batch=positions.batch, faults=faults
    )
    with closing(batches):
        try:
            yield from batches
        except Stalled as stalled:
            assert isinstance(stalled.item, Window)
            raise stall_error(clips[stalled.item.clip], faults) from None


def pace_of(positions: DistributedPositions, workers: int, faults: FaultPolicy) -> Pace:
    """Return how far `workers` threads read ahead of the batch that is due."""
    return Pace(max(1, workers), ahead=positions.batch + workers if workers else 0, patience_s=faults.stall_timeout_s)


@dataclass(frozen=True)
class Outcome:
    """What reading the window of a position gave."""

    sample: Sample | None
    """None: no window that was tried could be read."""
    errors: tuple[VdakitError, ...]
    """Why the windows that were tried before could not be read."""


def collect(outcomes: Generator[Outcome], *, batch: int, faults: FaultPolicy) -> Generator[list[Sample]]:
    """Yield batches of samples, the last of which may be short; closes `outcomes` in the end.

    Raises the error of the bad window that is one more than `skip_bad`.
    """
    with closing(outcomes):
        samples = _good_samples(outcomes, faults)
        while found := list(itertools.islice(samples, batch)):
            yield found


def attempt(clip: Clip, window: Window, *, pin: bool) -> Sample | VdakitError:
    """Read a window, or return why it cannot be read; raises VdakitError for lack of memory."""
    try:
        return read_window(clip, window, pin=pin)
    except VdakitError as error:
        return error
    except MemoryError:
        raise VdakitError(
            f"{clip.tar}: memory does not suffice to unpack {window.shape.num_frames} frames of clip {clip.entry.key}; "
            "use fewer --workers, a smaller --batch or fewer --frames."
        ) from None


def _read(window: Window, *, clips: Sequence[Clip], order: Sampler, pin: bool, skip_bad: int) -> Outcome:
    """Read a window or, at most `skip_bad` times, one to take its place."""
    errors: list[VdakitError] = []
    while len(errors) <= skip_bad:
        chosen = window if not errors else _instead_of(window, order, attempt=len(errors))
        found = attempt(clips[chosen.clip], chosen, pin=pin)
        if isinstance(found, Sample):
            return Outcome(found, tuple(errors))
        errors.append(found)
    return Outcome(None, tuple(errors))


def _instead_of(window: Window, order: Sampler, *, attempt: int) -> Window:
    if not isinstance(order, TrainSampler):
        raise UsageError("--skip-bad is for training; an evaluation without some of its windows would be another one.")
    return order.instead_of(window.position, attempt=attempt)


def _good_samples(outcomes: Iterator[Outcome], faults: FaultPolicy) -> Iterator[Sample]:
    """Count what was skipped, in order of positions; raise the error that is one too many."""
    skipped = 0
    for outcome in outcomes:
        for error in outcome.errors:
            skipped += 1
            if skipped > faults.skip_bad:
                raise error if not faults.skip_bad else _too_many(error, faults)
            faults.on_skip(f"{error} Another window takes its place ({skipped} of at most {faults.skip_bad}).")
        if outcome.sample is not None:
            yield outcome.sample


def _too_many(error: VdakitError, faults: FaultPolicy) -> VdakitError:
    return type(error)(f"{error} That is one more than --skip-bad {faults.skip_bad} lets pass.")


def stall_error(clip: Clip, faults: FaultPolicy) -> VdakitError:
    """Return the error of a clip whose reading takes too long."""
    return VdakitError(
        f"{clip.tar}: reading clip {clip.entry.key} has not ended after {faults.stall_timeout_s:g} s; see whether its "
        "disk or server answers, or wait longer with --stall-timeout."
    )


def check_state(state: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise DataError if a loader's state has another value for any name in `here`."""
    for name, value in here.items():
        if state.get(name) != value:
            raise DataError(
                f"the state is of another order: its {name} is {state.get(name)}, here it is {value}; give the shards "
                "and options that it was saved with."
            )
