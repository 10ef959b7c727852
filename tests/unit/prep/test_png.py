"""PNGs to pixels."""

import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdaprep.errors import FrameError
from vdaprep.raw.png import encode_png, encode_png16, parse_png, parse_png16, parse_png_floats, png_size
from vdaprep.raw.tree import Location

HERE = Location("", "x")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
FILTERS = {
    "none": cv2.IMWRITE_PNG_FILTER_NONE,
    "sub": cv2.IMWRITE_PNG_FILTER_SUB,
    "up": cv2.IMWRITE_PNG_FILTER_UP,
    "average": cv2.IMWRITE_PNG_FILTER_AVG,
    "paeth": cv2.IMWRITE_PNG_FILTER_PAETH,
    "any": cv2.IMWRITE_PNG_ALL_FILTERS,
}


def image(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Return something between noise and a plane."""
    rng = np.random.default_rng(sum(shape))
    noise = rng.integers(0, 9, shape)
    slope = np.add.outer(np.arange(shape[0]), 3 * np.arange(shape[1])).reshape(*shape[:2], *(1 for _ in shape[2:]))
    return (noise + slope * (1 if dtype is np.uint8 else 300)).astype(dtype)


def png(pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".png", pixels, options)[1].tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def by_hand(
    width: int, height: int, stream: list[bytes], *, bits: int = 8, colour: int = 2, more: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), more, *(chunk(b"IDAT", part) for part in stream), chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(chunks)


# ------------------------------------------------------------------------------------------------- the pixels are right


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (300, 401, 3)], ids=str)
def test_rgb_by_every_filter(name: str, shape: tuple[int, ...]) -> None:
    pixels = image(*shape)
    assert np.array_equal(parse_png(png(pixels, cv2.IMWRITE_PNG_FILTER, FILTERS[name]), HERE)[..., ::-1], pixels)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_rgb_of_every_compression(level: int) -> None:
    pixels = image(200, 300, 3)
    assert np.array_equal(parse_png(png(pixels, cv2.IMWRITE_PNG_COMPRESSION, level), HERE)[..., ::-1], pixels)


def test_a_flat_image_inflates_to_many_times_its_bytes() -> None:
    data = png(np.full((2000, 3000, 3), 7, np.uint8))
    assert len(data) < 2000 * 3000 * 3 // 200
    assert (parse_png(data, HERE) == 7).all()


def test_grey_and_alpha_become_rgb() -> None:
    grey = image(20, 30)
    assert np.array_equal(parse_png(png(grey), HERE), np.stack([grey] * 3, axis=-1))
    pixels = image(20, 30, 4)
    assert np.array_equal(parse_png(png(pixels), HERE), pixels[..., 2::-1])


def test_a_palette() -> None:
    palette = chunk(b"PLTE", bytes(range(12)))
    lines = b"\0\x1b\0\xe4"  # two lines of four pixels of two bits: 0 1 2 3 and 3 2 1 0
    data = by_hand(4, 2, [zlib.compress(lines)], bits=2, colour=3, more=palette)
    colours = np.arange(12, dtype=np.uint8).reshape(4, 3)
    assert np.array_equal(parse_png(data, HERE), [colours, colours[::-1]])


def test_sixteen_bits() -> None:
    codes = image(50, 70, dtype=np.uint16)
    assert np.array_equal(parse_png16(png(codes), HERE), codes)


def test_floats() -> None:
    metres = np.random.default_rng(0).uniform(0.1, 100, (40, 50)).astype(np.float32)
    assert np.array_equal(parse_png_floats(png(metres.view(np.uint8).reshape(40, 50, 4)), HERE), metres)


def test_an_interlaced_png() -> None:
    """One pixel, the same in seven passes as in one, so that it can be written by hand."""
    data = by_hand(1, 1, [zlib.compress(b"\0\x01\x02\x03")])
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1)
    interlaced = data.replace(chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)), chunk(b"IHDR", header))
    assert interlaced != data
    assert parse_png(interlaced, HERE).tolist() == parse_png(data, HERE).tolist() == [[[1, 2, 3]]]


def test_what_stands_between_chunks_does_not_matter() -> None:
    pixels = image(40, 50, 3)
    data = png(pixels)
    text = chunk(b"tEXt", b"Comment\0a comment")
    for place in (data.index(b"IDAT") - 4, len(data) - 12):
        assert np.array_equal(parse_png(data[:place] + text + data[place:], HERE)[..., ::-1], pixels)


@given(st.lists(st.integers(0, 400), max_size=8))
def test_the_stream_may_be_cut_into_chunks_anywhere(cuts: list[int]) -> None:
    lines = b"".join(b"\0" + bytes(range(line, line + 60)) for line in range(20))
    stream = zlib.compress(lines)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    data = by_hand(20, 20, [stream[a:b] for a, b in zip(places, places[1:], strict=False)])
    assert parse_png(data, HERE).tobytes() == b"".join(bytes(range(line, line + 60)) for line in range(20))


def test_the_size_of_a_png() -> None:
    assert png_size(png(image(20, 30, 3)), HERE) == (30, 20)
    with pytest.raises(FrameError, match="x: is not a PNG"):
        png_size(b"GIF89a", HERE)


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_rgb_round_trip(rgb: np.ndarray) -> None:
    assert np.array_equal(parse_png(encode_png(rgb), HERE), rgb)


@given(arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_round_trip_of_sixteen_bits(values: np.ndarray) -> None:
    assert np.array_equal(parse_png16(encode_png16(values), HERE), values)


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("parse", [parse_png, parse_png16, parse_png_floats])
def test_every_cut_is_noticed(parse: Callable[[bytes, Location], np.ndarray]) -> None:
    data = png(image(20, 30, 3))
    for length in range(0, len(data), 7):
        with pytest.raises(FrameError, match="x: (is not a PNG|the PNG is cut short after)"):
            parse(data[:length], HERE)


def test_every_damaged_byte_is_noticed() -> None:
    data = png(image(20, 30, 3))
    for position in range(0, len(data), 11):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(FrameError, match="x: (is not a PNG|the PNG is (cut short|damaged))"):
            parse_png(bytes(damaged), HERE)


LINES = b"".join(b"\0" + bytes(60) for _ in range(20))
STREAM = zlib.compress(LINES)


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (zlib.compress(LINES[:-1]), "holds 1219 bytes of pixels, its header says 1220"),
        (zlib.compress(LINES + b"\0"), "holds more than 1220 bytes of pixels"),
        (zlib.compress(bytes(1 << 24)), "holds more than 1220 bytes of pixels"),
        (STREAM[:-4], None),  # only its checksum is missing, and the chunks have their own
        (STREAM[:10], "holds [0-9]+ bytes of pixels"),
        (STREAM[:-1] + bytes([STREAM[-1] ^ 1]), "pixels cannot be unpacked"),
        (b"\xff" + STREAM[1:], "pixels cannot be unpacked"),
        (STREAM + b"what an encoder left", None),
        (b"", "holds 0 bytes of pixels"),
    ],
)
def test_a_stream_that_does_not_fit(stream: bytes, sentence: str | None) -> None:
    """All chunks are whole here: it is their content that is wrong."""
    data = by_hand(20, 20, [stream])
    if sentence is None:
        assert not parse_png(data, HERE).any()
        return
    with pytest.raises(FrameError, match=f"x: the PNG.*{sentence}"):
        parse_png(data, HERE)


def test_a_header_that_lies_allocates_nothing() -> None:
    with pytest.raises(FrameError, match="x: is 1048576x1048576 pixels by its header, expected at most"):
        parse_png(by_hand(1 << 20, 1 << 20, [STREAM]), HERE)


@pytest.mark.parametrize("colour", [1, 5, 200])
def test_a_colour_type_that_is_none(colour: int) -> None:
    with pytest.raises(FrameError, match="x: the image cannot be decoded"):
        parse_png(by_hand(20, 20, [STREAM], colour=colour), HERE)


def test_a_png_without_pixels() -> None:
    with pytest.raises(FrameError, match="x: the image cannot be decoded"):
        parse_png(by_hand(20, 20, []), HERE)


def test_a_png_that_begins_with_another_chunk() -> None:
    with pytest.raises(FrameError, match="x: the PNG does not begin with a header"):
        parse_png(SIGNATURE + chunk(b"IDAT", STREAM) + chunk(b"IEND", b""), HERE)
