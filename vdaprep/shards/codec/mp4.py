"""Where packets of an MP4 lie, by four tables of ISO/IEC 14496-12; what an AV1 packet holds.

    moov/trak/mdia/minf/stbl/stsd   the codec, its settings and the size of the pictures
                             stsz   bytes of each packet
                             stco   where each chunk of packets begins
                             stsc   how many packets a chunk has

Bytes of strangers are read: FFmpeg's reader follows references to other files, allocates what a table claims, and
decodes frames to guess what it is not told.
"""

import functools
import struct
from collections.abc import Iterator, Sequence

from vdaprep.shards.codec.zstd import Data


class Mp4Error(Exception):
    """A file is no MP4 as expected; the text is part of a sentence, after "it"."""


_Span = tuple[int, int]  # of bytes: the first, and the one after the last
_MOST_BOXES = 64  # in one box
_ENTRY_SIZE = 86  # of a visual sample entry in front of its own boxes
_PICTURES = (3, 6)  # types of AV1's units that begin a picture, or show one: frame header, frame
_SIZE_BYTES = 8  # of the number in front of a unit, at most


def parse_mp4(
    data: Data, *, entry: bytes, settings: bytes, size: tuple[int, int], count: int
) -> tuple[bytes, list[Data]]:
    """Find what a decoder needs of a video; no table is longer than `count` rows.

    Args:
        data: The file.
        entry: Type of the sample entry: the codec.
        settings: Type of the box in it that the decoder has to know.
        size: Height and width of the pictures.
        count: How many there are.

    Returns:
        Content of the settings' box, and the packets in the order in which they are decoded.

    Raises:
        Mp4Error: It is no MP4 of one video with these properties.
    """
    view = memoryview(data)
    try:
        table = functools.reduce(
            lambda span, kind: _box(view, span, kind), (b"trak", b"mdia", b"minf", b"stbl"), _box(view, None, b"moov")
        )
        known = _settings(view, _box(view, table, b"stsd"), entry=entry, kind=settings, size=size)
        sizes = _sizes(view, _box(view, table, b"stsz"), count)
        chunks = _rows(view, _box(view, table, b"stco"), columns=1, most=count)
        runs = _rows(view, _box(view, table, b"stsc"), columns=3, most=count)
    except struct.error as error:
        raise Mp4Error("it is cut short") from error
    return known, [view[start:stop] for start, stop in _place(sizes, chunks, runs, len(view))]


def _box(data: memoryview, span: _Span | None, kind: bytes) -> _Span:
    """Return the content of the one box of a kind within another box, or at the top."""
    at, end = span or (0, len(data))
    found: list[_Span] = []
    for _ in range(_MOST_BOXES):
        if at == end:
            break
        length = struct.unpack_from(">I", data, at)[0]
        if not 8 <= length <= end - at:
            raise Mp4Error("its boxes do not fit into each other")
        if bytes(data[at + 4 : at + 8]) == kind:
            found.append((at + 8, at + length))
        at += length
    if len(found) != 1:
        raise Mp4Error(f"it has {len(found)} boxes {kind.decode('latin-1')}, expected 1")
    return found[0]


def _settings(data: memoryview, span: _Span, *, entry: bytes, kind: bytes, size: tuple[int, int]) -> bytes:
    start, end = span
    entries, length, found = struct.unpack_from(">4xII4s", data, start)
    if (entries, found) != (1, entry):
        raise Mp4Error(f"it has {entries} videos, coded as {found!r}, expected 1 as {entry!r}")
    if not _ENTRY_SIZE <= length <= end - start - 8:
        raise Mp4Error("its boxes do not fit into each other")
    width, height = struct.unpack_from(">HH", data, start + 8 + 32)
    if (height, width) != size:
        raise Mp4Error(f"it is {width}x{height} pixels by its header, expected {size[1]}x{size[0]}")
    first, last = _box(data, (start + 8 + _ENTRY_SIZE, start + 8 + length), kind)
    return bytes(data[first:last])


def _sizes(data: memoryview, span: _Span, count: int) -> tuple[int, ...]:
    each, found = struct.unpack_from(">4xII", data, span[0])
    if found != count:
        raise Mp4Error(f"it has {found} pictures by its header, expected {count}")
    return (each,) * count if each else struct.unpack_from(f">{count}I", data, span[0] + 12)


def _rows(data: memoryview, span: _Span, *, columns: int, most: int) -> list[tuple[int, ...]]:
    count = struct.unpack_from(">4xI", data, span[0])[0]
    if not 1 <= count <= most:
        raise Mp4Error(f"it has tables of {count} rows, expected at most {most}")
    numbers = struct.unpack_from(f">{count * columns}I", data, span[0] + 8)
    return [numbers[i : i + columns] for i in range(0, len(numbers), columns)]


def _place(
    sizes: Sequence[int], chunks: Sequence[tuple[int, ...]], runs: Sequence[tuple[int, ...]], end: int
) -> Iterator[_Span]:
    """Yield where each packet lies, run by run of chunks: (first chunk, packets a chunk, ...)."""
    waiting = iter(sizes)
    placed = 0
    for number, (at,) in enumerate(chunks, 1):
        packets = next((run[1] for run in reversed(runs) if run[0] <= number), 0)
        for size in [size for _, size in zip(range(packets), waiting, strict=False)]:
            if not 0 < size <= end - at:
                raise Mp4Error("its packets do not fit into it")
            yield at, at + size
            at, placed = at + size, placed + 1
    if placed != len(sizes):
        raise Mp4Error("its tables disagree about how many pictures there are")


def check_coded(packets: Sequence[Data], *, most: int) -> None:
    """Refuse AV1 packets that hold over `most` pictures; raises Mp4Error.

    A packet may hold any number, a decoder gives them all at once, and a picture takes few bytes: a packet of 6 kB
    would become 200 pictures. Of H.264 a packet is one picture.
    """
    found = sum(kind in _PICTURES for packet in packets for kind in _units(memoryview(packet)))
    if found > most:
        raise Mp4Error(f"its packets hold {found} pictures, expected at most {most}")


def _units(packet: memoryview) -> Iterator[int]:
    """Yield the types of a packet's units (OBUs, AV1 5.3); raises Mp4Error if one is cut short."""
    at = 0
    while at < len(packet):
        head = packet[at]
        yield head >> 3 & 15
        at += 1 + (head >> 2 & 1)
        if not head >> 1 & 1:  # without a size it reaches to the end
            return
        size = 0
        for number, byte in enumerate(packet[at : at + _SIZE_BYTES]):
            size |= (byte & 127) << 7 * number
            if byte < 128:
                at += number + 1 + size
                break
        else:
            raise Mp4Error("a unit of its packets has no size")
    if at > len(packet):
        raise Mp4Error("a unit of its packets is cut short")
