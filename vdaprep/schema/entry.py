"""Where a clip lies in its tar, with checksums by which a part of it can be told to be whole."""

import itertools
from dataclasses import dataclass

from vdaprep.errors import ShardError
from vdaprep.inflate import crc32

_Data = bytes | memoryview  # named here: ClipEntry has a field `bytes`
_DAMAGED = "the shard is damaged: convert it again."


@dataclass(frozen=True)
class ClipEntry:
    """Where a clip lies in its tar: `bytes` bytes from `offset`; frame f's members start at `frame_offsets[f]`.

    `crc32` holds the CRC-32 of the metadata's bytes and then of each frame's, headers and padding included, so that
    whoever reads a window can tell that it is whole without reading the shard.
    """

    key: str
    offset: int
    bytes: int
    frames: int
    frame_offsets: tuple[int, ...]
    crc32: tuple[int, ...]

    def __post_init__(self) -> None:
        bounds = (self.offset, *self.frame_offsets, self.offset + self.bytes)
        if len(self.frame_offsets) != self.frames or any(a >= b for a, b in zip(bounds, bounds[1:], strict=False)):
            raise ShardError(f"clip {self.key}: the record's offsets do not ascend through {self.frames} frames.")
        if len(self.crc32) != self.frames + 1:
            raise ShardError(f"clip {self.key}: the record has {len(self.crc32)} checksums for {self.frames} frames.")

    def frame_range(self, first: int, count: int) -> tuple[int, int]:
        """Return the bytes [start, stop) of the tar that hold frames `first` to `first + count - 1`."""
        if first < 0 or count < 1 or first + count > self.frames:
            raise ShardError(f"clip {self.key}: frames {first} to {first + count - 1} asked for, it has {self.frames}.")
        last = first + count
        return self.frame_offsets[first], self.frame_offsets[last] if last < self.frames else self.offset + self.bytes

    def meta_range(self) -> tuple[int, int]:
        """Return the bytes [start, stop) of the tar that hold the clip's `.json` member."""
        return self.offset, self.frame_offsets[0]

    def is_whole(self, data: _Data, *, start: int, stop: int) -> bool:
        """Tell whether `data` is as long as the tar's bytes [start, stop) and what it has whole has its checksum."""
        bounds = (self.offset, *self.frame_offsets, self.offset + self.bytes)
        view = memoryview(data)
        return len(data) == stop - start and all(
            crc32(view[a - start : b - start]) == expected
            for (a, b), expected in zip(itertools.pairwise(bounds), self.crc32, strict=True)
            if start <= a and b <= stop
        )

    def check_meta(self, data: _Data, *, where: str) -> None:
        """Compare the bytes of `meta_range` with their checksum; raises ShardError naming `where` if they differ."""
        if crc32(data) != self.crc32[0]:
            raise ShardError(f"{where}: the metadata of clip {self.key} differs from its checksum; {_DAMAGED}")

    def check_frames(self, data: _Data, *, first: int, count: int, where: str) -> None:
        """Compare the bytes of `frame_range` with their checksums; raises ShardError naming `where` and the frame."""
        start, stop = self.frame_range(first, count)
        if len(data) != stop - start:
            raise ShardError(f"{where}: ends inside clip {self.key}; {_DAMAGED}")
        view = memoryview(data)
        for frame in range(first, first + count):
            a, b = self.frame_range(frame, 1)
            if crc32(view[a - start : b - start]) != self.crc32[frame + 1]:
                raise ShardError(f"{where}: frame {frame} of clip {self.key} differs from its checksum; {_DAMAGED}")
