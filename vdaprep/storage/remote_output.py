"""A data set's shards behind a URL: objects that appear whole, and are what was sent."""

import contextlib
import re
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from vdaprep.errors import UsageError
from vdaprep.storage.atomic import GuardedWriter, as_sentence
from vdaprep.storage.lease import Lease, abandoned
from vdaprep.storage.output import PLAN_FILE, Writer
from vdaprep.storage.stores import Digest, Store

_OURS = re.compile(r"[^/]+/shard-\d+\.(tar|json)|dataset\.json|plan\.json")
_LOCK = "vdaprep.lock"
_held: dict[tuple[str, str], Lease] = {}  # of this process, by URL and name


@dataclass(frozen=True)
class RemoteOutput:
    """Objects below a URL; each is made on a local disk that is never filled beyond `min_free` bytes, then sent.

    A lease (see `vdaprep.lease`) stands in for a lock, and ends some time after its process.
    """

    url: str
    min_free: int = 0
    writers: int = 1

    def place(self, name: str = "") -> str:
        """See Output."""
        return f"{self.url.rstrip('/')}/{name}".rstrip("/")

    def names(self) -> list[str]:
        """See Output."""
        return [name for name in self._store().names() if _OURS.fullmatch(name) and name != PLAN_FILE]

    def size(self, name: str) -> int | None:
        """See Output."""
        known = self._store().info(name)
        return None if known is None else known["size"]

    def read(self, name: str) -> bytes:
        """See Output."""
        return self._store().read(name)

    def delete(self, name: str) -> None:
        """See Output."""
        self._store().delete(name)

    @contextlib.contextmanager
    def new_file(self, name: str) -> Generator[Writer]:
        """See Output. The local file has no name, so that nothing is left of it however this process ends."""
        store = self._store()
        place = Path(tempfile.gettempdir(), f"what goes to {name.replace('/', '-')}")
        with contextlib.ExitStack() as held:
            with as_sentence(place):
                file = held.enter_context(tempfile.TemporaryFile(buffering=0))
            guarded = GuardedWriter(file.fileno(), place, floor=self.min_free, writers=self.writers)
            writer = _Summing(guarded)
            yield writer
            guarded.flush()
            store.upload(f"/dev/fd/{file.fileno()}", name, writer.digest)

    @contextlib.contextmanager
    def lock(self, *, part: str | None = None) -> Generator[None]:
        """See Output."""
        store = Store(self.url)
        name = _LOCK if part is None else f"{_LOCK}-{part}"
        lease = Lease(store, name, place=self.place())
        with contextlib.ExitStack() as held:
            held.callback(lease.release)
            lease.acquire()
            # Each looks for the other only when its own lease is there to be seen: of two, at least one sees the other.
            self._expect_alone(store, part)
            if part is None:
                store.abort_uploads(lambda name: _OURS.fullmatch(name) is not None)
            _held[self.url, name] = lease
            held.callback(_held.pop, (self.url, name))
            yield
            lease.expect_held()

    def _expect_alone(self, store: Store, part: str | None) -> None:
        """Raise UsageError if, for a part, a whole conversion is under way, or for that any part."""
        for name in store.names():
            rival = name == _LOCK if part is not None else name.startswith(f"{_LOCK}-")
            if not rival:
                continue
            with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
                if not abandoned(store, name, store.read(name)):
                    other = "a whole conversion" if name == _LOCK else f"part {name.removeprefix(f'{_LOCK}-')}"
                    raise UsageError(f"{self.place()}: {other} is being written there; wait for it.")
                store.delete(name)

    def _store(self) -> Store:
        for (url, _), lease in _held.items():
            if url == self.url:
                lease.expect_held()
        return Store(self.url)


class _Summing:
    """A Writer that sums up what goes through it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.digest = Digest()

    def write(self, data: bytes, /) -> None:
        """Add bytes."""
        self.digest.update(data)
        self._writer.write(data)
