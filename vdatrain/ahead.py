"""Results of a function in order, worked out by threads before they are asked for."""

import atexit
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LAST_WORK_S = 5.0  # what a thread may take to finish what it is at when nobody wants it any more


@dataclass(frozen=True)
class Pace:
    """How far to go ahead: `threads` work at a time, at most `ahead` items beyond the one that was asked for last.

    `patience_s` is how long to wait for a result, 0 for as long as it takes.
    """

    threads: int
    ahead: int
    patience_s: int | float = 0


class Stalled(Exception):
    """The work on `item` has taken longer than the patience for it."""

    def __init__(self, item: object) -> None:
        super().__init__(item)
        self.item = item


def map_ahead(work: Callable[[Item], Result], items: Iterator[Item], *, pace: Pace) -> Generator[Result]:
    """Yield `work(item)` of each item in order.

    Whatever `work` raises is raised when its turn comes. Closing the generator ends the threads, but for one that does
    not come back from its work: that one is left alone, and does not keep the program from ending. Raises Stalled.
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
    """What the threads and the one who asks share; every change is made under one lock and announced."""

    def __init__(self, work: Callable[[Item], Result], items: Iterator[Item], pace: Pace) -> None:
        self._work = work
        self._items = items
        self._pace = pace
        self._changed = threading.Condition()
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
        with self._changed:
            self._changed.wait_for(lambda: not self._open or not self._items_left or self._begun < self._limit)
            if not self._open or not self._items_left:
                return None
            try:
                item = next(self._items)
            except StopIteration:
                self._end_items()
                return None
            except BaseException as error:  # noqa: BLE001 - the same boundary
                self._done[self._begun] = _Done(error=error)
                self._end_items()
                return None
            self._under_way[self._begun] = item
            self._begun += 1
            return self._begun - 1, item

    def _end_items(self) -> None:
        self._items_left = False
        self._changed.notify_all()


# A thread that runs while the interpreter is taken down would take the process down with it.
_open_desks: "weakref.WeakSet[_Desk[Any, Any]]" = weakref.WeakSet()


@atexit.register
def _close_desks() -> None:
    for desk in list(_open_desks):
        desk.close()
