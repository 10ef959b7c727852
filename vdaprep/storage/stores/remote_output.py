"""An output in an object store: objects that appear whole, as sent, and a lock object."""

import contextlib
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vdaprep.errors import OutputError, UsageError
from vdaprep.storage import remote
from vdaprep.storage.atomic import GuardedWriter, Writer, as_sentence
from vdaprep.storage.locks import ObjectLock, held_sentence
from vdaprep.storage.paths import RemotePath
from vdaprep.storage.retry import UnreachableError
from vdaprep.storage.stores.objects import Digest, ObjectStore

_LOCK = "vdaprep.lock"


@dataclass(frozen=True)
class RemoteOutput:
    """Objects below a URL, each made on a local disk, then sent.

    A lock object (see `vdaprep.storage.locks`) is the right to write. A process that was killed leaves it; `break_lock`
    takes it away, from whoever has it.
    """

    folder: RemotePath
    """The URL."""
    min_free: int = 0
    """Bytes of the local disk that stay free."""
    writers: int = 1
    """Processes that write at once."""
    break_lock: bool = False
    """Whether to take the lock away from whoever has it."""

    def __post_init__(self) -> None:
        if self.folder.url.startswith(("http://", "https://")):
            raise UsageError(
                f"{self.folder}: cannot be written to; expected a folder, or a URL like s3://bucket/folder."
            )
        remote.connect_store(self.folder.url)

    def path(self, name: str = "") -> RemotePath:
        """See OutputDir."""
        return self.folder / name if name else self.folder

    def place(self, name: str = "") -> str:
        """See OutputDir."""
        return str(self.path(name))

    def names(self, pattern: str, *patterns: str) -> list[str]:
        """See OutputDir."""
        wanted = [f"/{one}" for one in (pattern, *patterns)]
        return [name for name in self._all_names() if any(PurePosixPath(f"/{name}").match(one) for one in wanted)]

    def size(self, name: str) -> int | None:
        """See OutputDir."""
        with _storing(self.place(name)), contextlib.suppress(FileNotFoundError):
            return remote.size(self.path(name).url)
        return None

    def read(self, name: str) -> bytes:
        """See OutputDir."""
        with _storing(self.place(name), pass_missing=True):
            return remote.read(self.path(name).url)

    def delete(self, name: str) -> None:
        """See OutputDir."""
        with _storing(self.place(name)):
            self._store().delete(self.path(name).url)

    @contextlib.contextmanager
    def new_file(self, name: str) -> Generator[Writer]:
        """See OutputDir. The local file has no name, so that nothing of it is left."""
        local = Path(tempfile.gettempdir(), f"what is to be {name.replace('/', '-')}")
        with contextlib.ExitStack() as held:
            with as_sentence(local):
                file = held.enter_context(tempfile.TemporaryFile(buffering=0))
            guarded = GuardedWriter(file.fileno(), local, floor=self.min_free, writers=self.writers)
            writer = _SummingWriter(guarded)
            yield writer
            guarded.flush()
            with _storing(self.place(name)):
                self._store().upload(self.path(name).url, file, writer.digest)

    @contextlib.contextmanager
    def lock(self, *, part: str | None = None) -> Generator[None]:
        """See OutputDir."""
        name = _LOCK if part is None else f"{_LOCK}-{part}"
        lock = ObjectLock(self._store(), self.path(name).url, place=self.place())
        with _storing(self.place(name)):
            lock.acquire(break_lock=self.break_lock)
        try:
            # Each looks for the other only when its own lock is there to be seen: of two, at least one sees the other.
            self._expect_alone(part)
            yield
        except BaseException:
            with contextlib.suppress(OutputError, OSError):  # the first error is the one to tell
                lock.release()
            raise
        with _storing(self.place(name)):
            lock.release()

    def _expect_alone(self, part: str | None) -> None:
        """Raise UsageError if, for a part, a whole conversion is under way, or for that any part."""
        for name in self._all_names():
            rival = name == _LOCK if part is not None else name.startswith(f"{_LOCK}-")
            if rival and self.break_lock:
                self.delete(name)
            elif rival:
                other = "a whole conversion" if name == _LOCK else f"part {name.removeprefix(f'{_LOCK}-')}"
                with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
                    raise UsageError(held_sentence(self.place(), self.read(name), what=other))

    def _all_names(self) -> list[str]:
        with _storing(self.place()), contextlib.suppress(FileNotFoundError):
            return remote.files(self.folder.url)
        return []

    def _store(self) -> ObjectStore:
        return remote.connect_store(self.folder.url)


class _SummingWriter:
    """A Writer that sums up what is written through it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.digest = Digest()

    def write(self, data: bytes, /) -> None:
        """Add bytes."""
        self.digest.update(data)
        self._writer.write(data)


@contextlib.contextmanager
def _storing(place: str, *, pass_missing: bool = False) -> Generator[None]:
    """Raise OutputError, naming the place, for an OSError of the block."""
    try:
        yield
    except UnreachableError as error:
        raise OutputError(
            f"{place}: {error.strerror}; run the same command again: finished shards are kept."
        ) from error
    except FileNotFoundError as error:
        if pass_missing:
            raise
        raise OutputError(
            f"{place}: the store refuses ({error.strerror}); make the bucket, or choose another --out."
        ) from error
    except OSError as error:
        raise OutputError(
            f"{place}: the store refuses ({error.strerror or error}); "
            "mend that and run the same command again: finished shards are kept."
        ) from error
