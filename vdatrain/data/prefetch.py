"""Prefetching: an ordered map over threads, and batches copied to the device ahead of use."""

import atexit
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from vdatrain.data.batch import Batch
from vdatrain.data.samples import Sample

Item = TypeVar("Item")
Result = TypeVar("Result")

_LAST_WORK_S = 5.0  # that a thread may take to finish its item once the generator is closed


@dataclass(frozen=True)
class Pace:
    """How far to work ahead."""

    threads: int
    """Threads that work at the same time."""
    ahead: int
    """Items that may be begun beyond the one that was asked for last."""
    patience_s: int | float = 0
    """Seconds to wait for a result; 0: no limit."""


class Stalled(Exception):
    """The work on `item` has taken longer than the patience for it."""

    def __init__(self, item: object) -> None:
        super().__init__(item)
        self.item = item


def map_ahead(work: Callable[[Item], Result], items: Iterator[Item], *, pace: Pace) -> Generator[Result]:
    """Yield `work(item)` of each item in order.

    Whatever `work` raises is raised in its turn. Closing the generator ends the threads; one whose work does not end is
    abandoned, and does not keep the program from ending. Raises Stalled.
    """
    desk = _Desk(work, items, pace)
    _open_desks.add(desk)
    try:
        desk.start()
        for number in itertools.count():
            done = desk.take(number)
            if done is None:
                return
            yield done.result()
    finally:
        desk.close()


@dataclass(frozen=True)
class _Done(Generic[Result]):
    """What became of an item."""

    value: Result | None = None
    error: BaseException | None = None

    def result(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.value  # pyright: ignore[reportReturnType]


class _Desk(Generic[Item, Result]):
    """State of threads and their consumer; each change is made under one lock and announced."""

    def __init__(self, work: Callable[[Item], Result], items: Iterator[Item], pace: Pace) -> None:
        self._work = work
        self._items = items
        self._pace = pace
        self._changed = threading.Condition()
        self._turn = threading.Lock()  # held by the thread that asks for an item
        self._threads = [
            threading.Thread(target=self._run, name=f"reader-{number}", daemon=True) for number in range(pace.threads)
        ]
        self._limit = 0  # items from this number on are not begun
        self._begun = 0
        self._items_left = True
        self._open = True
        self._under_way: dict[int, Item] = {}
        self._done: dict[int, _Done[Result]] = {}
        self._stalled = False

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def take(self, number: int) -> _Done[Result] | None:
        """Wait for what became of an item; None after the last."""
        patience_s = self._pace.patience_s or None
        with self._changed:
            self._limit = number + 1 + self._pace.ahead
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: number in self._done or self._is_over(number), timeout=patience_s):
                self._stalled = True
                raise Stalled(self._under_way.get(number))
            return self._done.pop(number, None)

    def close(self) -> None:
        """Begin nothing more and wait, for a while, until what is under way is finished."""
        with self._changed:
            self._open = False
            self._done.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + (0.0 if self._stalled else _LAST_WORK_S)
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _is_over(self, number: int) -> bool:
        return not self._items_left and number >= self._begun

    def _run(self) -> None:
        while (begun := self._begin()) is not None:
            number, item = begun
            try:
                done = _Done(value=self._work(item))
            except BaseException as error:  # noqa: BLE001 - the worker's boundary: it is raised where the result is asked for
                done = _Done[Result](error=error)
            with self._changed:
                del self._under_way[number]
                self._done[number] = done
                self._changed.notify_all()

    def _begin(self) -> tuple[int, Item] | None:
        """Wait for an item that may be begun; None if there will be none."""
        with self._turn:  # of one thread: an item may itself have to be waited for, while others finish theirs
            with self._changed:
                self._changed.wait_for(lambda: not self._open or not self._items_left or self._begun < self._limit)
                if not self._open or not self._items_left:
                    return None
            try:
                item = next(self._items)
            except StopIteration:
                return self._end_items()
            except BaseException as error:  # noqa: BLE001 - the same boundary
                return self._end_items(error)
            with self._changed:
                self._under_way[self._begun] = item
                self._begun += 1
                return self._begun - 1, item

    def _end_items(self, error: BaseException | None = None) -> None:
        with self._changed:
            if error is not None:
                self._done[self._begun] = _Done(error=error)
            self._items_left = False
            self._changed.notify_all()


# A thread that runs while the interpreter is taken down would take the process down with it.
_open_desks: "weakref.WeakSet[_Desk[Any, Any]]" = weakref.WeakSet()


@atexit.register
def _close_desks() -> None:
    for desk in list(_open_desks):
        desk.close()


class DevicePrefetcher:
    """Turns samples into batches, each while the device is still at work on the one before.

    On a GPU all copies and the work on them run in a stream of their own, from pinned memory: neither the host nor the
    training's stream waits for them. show: makes a batch on the device. waited: seconds in which there was nothing to
    compute because there were no samples.
    """

    def __init__(
        self, samples: Iterator[list[Sample]], show: Callable[[Sequence[Sample]], Batch], *, device: torch.device
    ) -> None:
        self._samples = samples
        self._show = show
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: Batch | None = None
        self.waited = 0.0

    def prepare(self) -> None:
        """Begin to bring the next batch to the device, unless under way; raises as reading does."""
        if self._ready is not None:
            return
        before = time.perf_counter()
        samples = next(self._samples)
        if self._is_idle():
            self.waited += time.perf_counter() - before
        with self._aside():
            self._ready = self._show([_pinned(sample) for sample in samples] if self._stream else samples)

    def peek(self) -> Batch:
        """Return the next batch and leave it the next."""
        self.prepare()
        assert self._ready is not None
        if self._stream is not None:
            _hand_over(self._ready, to=torch.cuda.current_stream(self._device), of=self._stream)
        return self._ready

    def close(self) -> None:
        """End the processes or threads that read."""
        if isinstance(self._samples, Generator):
            self._samples.close()

    def take(self) -> Batch:
        """Return the next batch for the current stream."""
        batch = self.peek()
        self._ready = None
        return batch

    def _is_idle(self) -> bool:
        """Say, without waiting, whether the device has done all that it was given."""
        return self._stream is None or torch.cuda.current_stream(self._device).query()

    def _aside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _pinned(sample: Sample) -> Sample:
    """Return the sample with its tensors in memory that a GPU reads by itself."""
    pageable = {name: value for name, value in _tensors(sample).items() if not value.is_pinned()}
    return replace(sample, **{name: value.pin_memory() for name, value in pageable.items()})


def _hand_over(batch: Batch, *, to: torch.cuda.Stream, of: torch.cuda.Stream) -> None:
    """Let the stream `to` wait for the batch, and its memory stay until that stream has used it."""
    to.wait_stream(of)
    for tensor in _tensors(batch).values():
        tensor.record_stream(to)
    if batch.images is not None:
        _hand_over(batch.images, to=to, of=of)


def _tensors(value: Sample | Batch) -> dict[str, Tensor]:
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: item for name, item in found.items() if isinstance(item, Tensor)}
