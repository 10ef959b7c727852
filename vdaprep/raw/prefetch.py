"""Prefetch files in a background thread."""

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from queue import SimpleQueue

from vdaprep.raw.tree import Location, Reader
from vdaprep.storage.range_reader import Ranges

_JOIN_S = 1.0  # how long `rest` waits for a cancelled read to end; a server's answer can take longer

_Queue = SimpleQueue[tuple[Location, Future[bytes]] | None]


class ReadAhead(Reader):
    """A Reader that prefetches through another one, one file at a time, in one thread.

    The thread lives from the first `expect` or `read` to `rest`. The other Reader must not be used meanwhile and is
    not closed. Errors are raised by `read`, as the other Reader's are.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._expected: dict[Location, Future[bytes]] = {}
        self._thread: tuple[threading.Thread, _Queue] | None = None

    def expect(self, locations: Iterable[Location]) -> None:
        """Prefetch these files, in order; earlier ones that are not among them are cancelled."""
        earlier = self._expected
        self._expected = {location: earlier.pop(location, None) or self._ask(location) for location in locations}
        for future in earlier.values():
            future.cancel()

    def read(self, location: Location) -> bytes:
        """See Reader."""
        return (self._expected.get(location) or self._ask(location)).result()

    def open(self, location: Location) -> Ranges:
        """See Reader; nothing else may be read or expected until the file has been used."""
        self.rest()
        return self._reader.open(location)

    def rest(self) -> None:
        """End the thread and cancel what is not read yet."""
        self.expect(())
        if self._thread is not None:
            (thread, queue), self._thread = self._thread, None
            queue.put(None)
            thread.join(_JOIN_S)

    def close(self) -> None:
        """See `rest`."""
        self.rest()

    def _ask(self, location: Location) -> "Future[bytes]":
        if self._thread is None:
            queue: _Queue = SimpleQueue()
            thread = threading.Thread(target=_serve, args=(self._reader, queue), daemon=True)  # ends with the process
            thread.start()
            self._thread = thread, queue
        future: Future[bytes] = Future()
        self._thread[1].put((location, future))
        return future


def _serve(reader: Reader, queue: _Queue) -> None:
    while (asked := queue.get()) is not None:
        location, future = asked
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(reader.read(location))
        except BaseException as error:  # noqa: BLE001 - the boundary of a worker: `read` raises it
            future.set_exception(error)
