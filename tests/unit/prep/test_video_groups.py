"""Groups of frames as video: round trips, equal bytes everywhere, what is refused."""

import concurrent.futures
import hashlib
import io
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError
from jaxtyping import UInt8

from vdaprep.errors import ShardError, VdakitError
from vdaprep.shards import codec as codecs
from vdaprep.shards.codec import video_groups
from vdaprep.storage.limits import LimitError

CRF = {"h264": 16, "av1": 20}
SIZE, COUNT = (48, 64), 8


def moving(size: tuple[int, int], count: int, *, seed: int = 0) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Smooth colours that move by a pixel a frame."""
    height, width = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    still = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
    still = np.clip((still - 128) * 4 + 128, 0, 255).astype(np.uint8)
    return [np.roll(still, number, axis=1) for number in range(count)]


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((found.astype(np.float64) - expected) ** 2))))


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def encoded(codec: str, size: tuple[int, int] = SIZE, count: int = COUNT) -> bytes:
    return codecs.encode_group(moving(size, count), codec=codec, crf=CRF[codec])


def decoded(data: bytes, codec: str, size: tuple[int, int] = SIZE, count: int = COUNT) -> np.ndarray:
    return codecs.decode_group(data, codec=codec, size=size, count=count, where="x.tar: clip a, frames 0 to 7")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (31, 17), (17, 31), (48, 64), (3, 130)])
@pytest.mark.parametrize("codec", CRF)
def test_a_group_comes_back(codec: str, size: tuple[int, int], count: int) -> None:
    frames = np.stack(moving(size, count))
    found = decoded(codecs.encode_group(list(frames), codec=codec, crf=CRF[codec]), codec, size, count)
    assert found.dtype == np.uint8
    assert found.shape == frames.shape
    assert psnr(luma(found), luma(frames)) > 39


@pytest.mark.parametrize("codec", CRF)
def test_real_sizes_and_odd_ones_keep_their_last_row(codec: str) -> None:
    size = (359, 539)
    frames = np.stack(moving(size, 2))
    frames[:, -1] = 255
    frames[:, :, -1] = 0
    found = decoded(codecs.encode_group(list(frames), codec=codec, crf=CRF[codec]), codec, size, 2)
    assert psnr(luma(found), luma(frames)) > 40
    assert found[:, -1, :-1].mean() > 250
    assert found[:, :-1, -1].mean() < 5


@pytest.mark.parametrize("codec", CRF)
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)])
def test_colours_keep_their_range(codec: str, colour: tuple[int, int, int]) -> None:
    """White is 255 and black 0 again, in whatever matrix and range they were stored."""
    frames = [np.full((16, 16, 3), colour, np.uint8)] * 2
    found = decoded(codecs.encode_group(frames, codec=codec, crf=CRF[codec]), codec, (16, 16), 2)
    assert np.abs(found.astype(int) - colour).max() <= 3


@pytest.mark.parametrize("codec", CRF)
def test_noise_comes_back_as_noise(codec: str) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (4, 48, 64, 1), np.uint8).repeat(3, axis=3)
    found = decoded(codecs.encode_group(list(grey), codec=codec, crf=CRF[codec]), codec, (48, 64), 4)
    assert psnr(found, grey) > 32


@pytest.mark.parametrize("codec", CRF)
def test_some_frames_alone_are_the_same(codec: str) -> None:
    data = encoded(codec)
    whole = decoded(data, codec)
    for frames in (range(1), range(3), range(8), range(2, 5), range(7, 8)):
        found = codecs.decode_group(memoryview(data), codec=codec, size=SIZE, count=COUNT, frames=frames)
        np.testing.assert_array_equal(found, whole[frames.start : frames.stop])


@pytest.mark.parametrize("codec", CRF)
def test_a_player_is_told_the_colours(codec: str) -> None:
    """FFmpeg's own reading, which knows nothing of ours, shows the same picture."""
    data = encoded(codec, (31, 17))
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
        duration = container.duration
    assert "mp4" in container.format.name
    assert duration == pytest.approx(COUNT / 30 * 1e6, abs=1)
    assert [(frame.width, frame.height) for frame in frames] == [(18, 32)] * COUNT
    assert {(int(frame.color_range), int(frame.colorspace)) for frame in frames} == {(2, 5)}
    shown = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])[:, :31, :17]
    assert psnr(shown, decoded(data, codec, (31, 17))) > 28
    assert not re.search(rb"Lavf|Lavc|x264", data)


# Hashes of groups that another process makes, and many threads at once.
_MAKE = """
import hashlib, sys
from tests.unit.prep.test_video_groups import encoded
sys.stdout.write(hashlib.sha256(encoded(sys.argv[1], (120, 160))).hexdigest())
"""


@pytest.mark.parametrize("codec", CRF)
def test_equal_frames_give_equal_bytes(codec: str) -> None:
    data = encoded(codec, (120, 160))
    other = subprocess.run([sys.executable, "-c", _MAKE, codec], capture_output=True, text=True, check=True)
    assert other.stdout == hashlib.sha256(data).hexdigest()
    assert other.stderr == ""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: encoded(codec, (120, 160)), range(8))) == {data}
        pictures = list(pool.map(lambda _: decoded(data, codec, (120, 160)), range(8)))
    for found in pictures:
        np.testing.assert_array_equal(found, pictures[0])


def doubled(rows: np.ndarray) -> np.ndarray:
    """Put two rows, four times as large, where there was one: 3 parts of it and 1 of the neighbour."""
    above, below = np.vstack([rows[:1], rows[:-1]]), np.vstack([rows[1:], rows[-1:]])
    return np.stack([above + 3 * rows, below + 3 * rows], axis=1).reshape(-1, rows.shape[1])


def test_the_conversion_of_colours_is_that_of_whole_numbers() -> None:
    """So that a processor's instructions change nothing: BT.601 with 14 bits after chroma's 9:3:3:1, half up."""
    rng = np.random.default_rng(0)
    y, b, r = rng.integers(0, 256, (8, 12), np.uint8), *rng.integers(0, 256, (2, 4, 6), np.uint8)
    out = np.empty((8, 12, 3), np.uint8)
    codecs.rgb_of_planes(np.concatenate([y, b.reshape(2, 12), r.reshape(2, 12)]), out=out)
    red, blue = ((doubled(doubled(plane.astype(int)).T).T + 8 >> 4) - 128 for plane in (r, b))
    expected = np.stack(
        [
            y + (22987 * red + 8192 >> 14),
            y + (-5636 * blue - 11698 * red + 8192 >> 14),
            y + (29049 * blue + 8192 >> 14),
        ],
        axis=-1,
    )
    np.testing.assert_array_equal(out, expected.clip(0, 255))


# ------------------------------------------------------------------------------------------------------------ refusals


def patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """Write over what stands `offset` bytes after a box's type."""
    at = data.rindex(box) + 4 + offset  # `avc1` also stands at the beginning, as a brand
    return data[:at] + value + data[at + len(value) :]


def other_video(name: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(name, rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(COUNT):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()


def long(number: int) -> bytes:
    return struct.pack(">I", number)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "boxes moov"),
    "a JPEG": (lambda _: cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes(), "boxes"),
    "a playlist": (lambda _: b"#EXTM3U\nfile:///etc/passwd\n", "boxes"),
    "cut short": (lambda data: data[:-40], "boxes do not fit"),
    "no packets": (lambda data: data[:28] + b"\0" * 2000, "boxes"),
    "two films": (lambda data: data + data[data.index(b"moov") - 4 :], "2 boxes moov"),
    "another codec": (lambda _: other_video("mpeg4"), "coded as b'mp4v'"),
    "another size": (lambda data: patched(data, b"avc1", 24, struct.pack(">HH", 65, 48)), "65x48 pixels by its header"),
    "a billion pixels": (lambda data: patched(data, b"avc1", 24, b"\xff\xff\xff\xff"), "65535x65535 pixels"),
    "a billion frames": (lambda data: patched(data, b"stsz", 4, long(1) + long(2**31)), "2147483648 pictures"),
    "more frames": (lambda data: patched(data, b"stsz", 8, long(9)), "it has 9 pictures by its header, expected 8"),
    "a billion chunks": (lambda data: patched(data, b"stco", 4, long(2**31)), "tables of 2147483648 rows"),
    "a packet elsewhere": (lambda data: patched(data, b"stco", 8, long(2**32 - 1)), "packets do not fit"),
    "a large packet": (lambda data: patched(data, b"stsz", 12, long(2**32 - 1)), "packets do not fit"),
    "few packets a chunk": (lambda data: patched(data, b"stsc", 12, long(3)), "tables disagree"),
    "grey": (lambda data: patched(data, b"mdat", 0, bytes(400)), "cannot be decoded as h264"),
    "noise": (lambda data: patched(data, b"mdat", 4, bytes(range(1, 200))), "cannot be decoded as h264"),
    "no settings": (lambda data: patched(data, b"avcC", 0, bytes(20)), "cannot be decoded as h264"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_no_such_group_is_refused(case: str) -> None:
    spoil, reason = DAMAGE[case]
    with pytest.raises(ShardError) as caught:
        decoded(spoil(encoded("h264")), "h264")
    assert str(caught.value).startswith("x.tar: clip a, frames 0 to 7: ")
    assert reason in str(caught.value)
    assert "vdaprep repair" in str(caught.value)


def test_metadata_that_says_something_else_is_refused() -> None:
    data = encoded("h264")
    for changed in ({"codec": "av1"}, {"size": (50, 64)}, {"count": 7}, {"count": 9}):
        with pytest.raises(ShardError, match="expected"):
            codecs.decode_group(data, **{"codec": "h264", "size": SIZE, "count": COUNT, **changed})
    with pytest.raises(LimitError, match="MiB of frames at once"):
        codecs.decode_group(data, codec="h264", size=(8000, 8000), count=8)


@pytest.mark.parametrize("codec", CRF)
def test_pictures_of_another_size_than_the_header_says_are_not_begun(codec: str) -> None:
    """A header of 64x48 pixels over packets of 640x480 ones."""
    data = encoded(codec, (480, 640))
    data = patched(data, {"h264": b"avc1", "av1": b"av01"}[codec], 24, struct.pack(">HH", 64, 48))
    with pytest.raises(ShardError, match=f"cannot be decoded as {codec}"):
        decoded(data, codec)


def many_pictures(size: tuple[int, int], count: int, said: int) -> bytes:
    """A group in AV1 whose header says fewer pictures than its first packet holds."""
    data = encoded("av1", size, count)
    at = data.rindex(b"stsz") + 16
    first, *others = struct.unpack_from(f">{count}I", data, at)
    joined = first + sum(others[: count - said])
    return patched(data, b"stsz", 8, struct.pack(f">{said + 1}I", said, joined, *others[count - said :]))


def test_a_packet_of_many_pictures_is_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_groups, "CodecContext", None)
    with pytest.raises(ShardError, match=r"its packets hold \d+ pictures, expected at most 16"):
        decoded(many_pictures(SIZE, 64, COUNT), "av1")


@pytest.mark.parametrize("codec", CRF)
def test_flipped_bits_are_refused_or_decoded_but_nothing_else(codec: str) -> None:
    data = encoded(codec)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            spoilt[at] ^= 1 << int(rng.integers(8))
        try:
            assert decoded(bytes(spoilt), codec).shape == (COUNT, *SIZE, 3)
        except ShardError:
            refused += 1
    assert refused > 150


def test_a_wheel_without_the_encoder_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, mode: str) -> None:
        raise UnknownCodecError(name)

    monkeypatch.setattr(video_groups, "Codec", without)
    for ask in (lambda: encoded("h264"), lambda: codecs.encoder_version("h264")):
        with pytest.raises(VdakitError, match=r"no encoder libx264.*install one of those .* another --rgb"):
            ask()


def test_a_size_that_the_encoder_does_not_take_is_a_sentence() -> None:
    with pytest.raises(VdakitError, match=r"20000x4 pixels: libx264 cannot encode them"):
        codecs.encode_group([np.zeros((4, 20000, 3), np.uint8)], codec="h264", crf=16)


@pytest.mark.parametrize("codec", CRF)
def test_the_version_names_encoder_and_wheel(codec: str) -> None:
    name = {"h264": "libx264", "av1": "libsvtav1"}[codec]
    assert codecs.encoder_version(codec) == f"{name} of PyAV {av.__version__}"
