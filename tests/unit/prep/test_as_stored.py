"""Pixels as stored: what metadata, layouts and sizes of raw images and depth maps come to, through the command line."""

import dataclasses
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import OpenEXR
import pytest
from PIL import Image, ImageOps

from tests.conftest import Run
from vdaprep.errors import FrameError
from vdaprep.raw import arrays, exr, images, png
from vdaprep.raw.tree import Location
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.reader import read_record
from vdaprep.shards.records import DatasetRecord

HERE = Location("", "x")
HEIGHT, WIDTH = 24, 32


def colours() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([8 * x, 10 * y, 4 * x + 5 * y], axis=-1).astype(np.uint8)  # nothing looks the same turned


def metres() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return 1 + y / 4 + x / 64


# ------------------------------------------------------------------------------------------------------ JPEG and PNG


def encoded(ending: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(ending, pixels, options)[1].tobytes()


JPEG = encoded(".jpg", colours())
PNG = encoded(".png", colours())


def tiff(orientation: int, *, order: str = "<", kind: int = 3) -> bytes:
    head = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    value = struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", orientation)
    entries = struct.pack(f"{order}HHI4s", 0x010E, 2, 4, b"abc\0") + struct.pack(f"{order}HHI", 0x0112, kind, 1) + value
    return head + struct.pack(f"{order}H", 2) + entries + bytes(4)


def with_segments(*contents: bytes, jpeg: bytes = JPEG, marker: int = 0xE1) -> bytes:
    parts = (bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content for content in contents)
    return jpeg[:2] + b"".join(parts) + jpeg[2:]


def exif(orientation: int, **how: Any) -> bytes:
    return b"Exif\0\0" + tiff(orientation, **how)


def xmp(text: bytes) -> bytes:
    return b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + text + b"</x:xmpmeta>"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(*chunks: tuple[bytes, bytes], data: bytes = PNG) -> bytes:
    return data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:]


def at_end(*chunks: tuple[bytes, bytes]) -> bytes:
    return PNG[:-12] + b"".join(chunk(*each) for each in chunks) + PNG[-12:]


JPEGS = {
    **{f"exif-{n}": with_segments(exif(n)) for n in range(10)},
    **{f"big-endian-{n}": with_segments(exif(n, order=">")) for n in (2, 6)},
    "four-bytes": with_segments(exif(8, kind=4)),
    "not-exif-at-all": with_segments(b"Exif\0\0garbage"),
    "prefix-twice": with_segments(b"Exif\0\0" + exif(3)),
    "exif-twice": with_segments(exif(1), exif(6)),
    "exif-cut": with_segments(exif(6)[:-14]),
    "xmp-attribute": with_segments(xmp(b'<rdf tiff:Orientation="6"/>')),
    "xmp-element": with_segments(xmp(b"<tiff:Orientation> 3 </tiff:Orientation>")),
    "behind-jfif": JPEG[:20] + with_segments(exif(5))[2 : -len(JPEG) + 2] + JPEG[20:],
    "fill-bytes": with_segments(exif(7)).replace(b"\xff\xe1", b"\xff\xff\xff\xe1", 1),
    "progressive": with_segments(exif(6), jpeg=encoded(".jpg", colours(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "restarts": with_segments(exif(6), jpeg=encoded(".jpg", colours(), cv2.IMWRITE_JPEG_RST_INTERVAL, 1)),
    "thumbnail": with_segments(exif(6) + encoded(".jpg", colours()[::4, ::4])),
    "colour-profile": with_segments(b"ICC_PROFILE\0\1\1" + bytes(range(200)), marker=0xE2),
    "bytes-behind": with_segments(exif(6)) + JPEG,
}
UPRIGHT = {"exif-1", "colour-profile"}  # passed through as they are
PNGS = {
    **{f"exif-{n}": with_chunks((b"eXIf", tiff(n))) for n in (1, 2, 3, 6, 8)},
    "exif-at-the-end": at_end((b"eXIf", tiff(6, order=">"))),
    "gamma": with_chunks((b"gAMA", struct.pack(">I", 20000))),
    "profile": with_chunks((b"iCCP", b"odd\0\0" + zlib.compress(bytes(200)))),
    "srgb": with_chunks((b"sRGB", b"\0"), (b"cHRM", bytes(32))),
    "video-colours": with_chunks((b"cICP", b"\x09\x10\0\1")),
    "transparent-colour": with_chunks((b"tRNS", struct.pack(">3H", 8, 10, 9))),
    "significant-bits": with_chunks((b"sBIT", b"\3\3\3")),
    "animated": with_chunks((b"acTL", struct.pack(">II", 1, 0))),
    "background": with_chunks((b"bKGD", bytes(6))),
    "alpha": encoded(".png", np.dstack([colours(), colours()[..., 0]])),
    "16-bits": encoded(".png", colours().astype(np.uint16) * 257),
}


def video(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder, with a camera."""
    for name, data in {**files, "intrinsics.txt": b"30 30 15.5 11.5\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def npy(values: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, **options)
    return stream.getvalue()


def stored_jpeg(vdaprep: Run, folder: Path, name: str, data: bytes) -> bytes:
    raw = video(folder / "raw", {name: data, "depth/000000.npy": npy(metres())})
    outcome = vdaprep("convert", "custom", "--raw", raw, "--out", folder, "--workers", "1", "--strict")
    assert outcome.code == 0, outcome.err
    [clip] = open_shards(folder).clips()
    [frame] = clip.frames()
    return bytes(frame.members["rgb.jpg"])


def seen(jpeg: bytes) -> dict[str, np.ndarray]:
    """Return what readers make of a JPEG that do what its metadata says."""
    pil = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg)))
    return {"cv2": cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB), "PIL": np.array(pil)}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_is_stored_unturned_for_every_reader(vdaprep: Run, tmp_path: Path, name: str) -> None:
    stored = stored_jpeg(vdaprep, tmp_path, "rgb/000000.jpg", JPEGS[name])
    plain = JPEG if name != "progressive" else encoded(".jpg", colours(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    for reader, pixels in seen(plain).items():
        assert np.array_equal(seen(stored)[reader], pixels), reader
    assert (stored == JPEGS[name]) == (name in UPRIGHT)


@pytest.mark.parametrize("name", PNGS)
def test_a_png_is_stored_unturned_and_in_its_colours(vdaprep: Run, tmp_path: Path, name: str) -> None:
    stored = stored_jpeg(vdaprep, tmp_path / name, "rgb/000000.png", PNGS[name])
    assert stored == stored_jpeg(vdaprep, tmp_path / "plain", "rgb/000000.png", PNG)


# --------------------------------------------------------------------------------------------------------------- depth


def units() -> np.ndarray:
    return np.round(metres() * 1000).astype(np.uint16)


PNG16 = encoded(".png", units())
PNG16S = {
    "exif": with_chunks((b"eXIf", tiff(6)), data=PNG16),
    "gamma": with_chunks((b"gAMA", struct.pack(">I", 100000)), data=PNG16),
    "transparent": with_chunks((b"tRNS", struct.pack(">H", int(units()[3, 4]))), data=PNG16),
    "significant-bits": with_chunks((b"sBIT", b"\x0c"), data=PNG16),
}


def decoded(vdaprep: Run, folder: Path, name: str, data: bytes, *options: str) -> np.ndarray:
    raw = video(folder / "raw", {"rgb/000000.png": PNG, name: data})
    outcome = vdaprep("convert", "custom", "--raw", raw, "--out", folder, "--workers", "1", "--strict", *options)
    assert outcome.code == 0, outcome.err
    [clip] = open_shards(folder).clips()
    return next(iter(clip.frames())).depth_m()


@pytest.mark.parametrize("name", PNG16S)
def test_depth_in_png_is_taken_as_stored(vdaprep: Run, tmp_path: Path, name: str) -> None:
    found = decoded(vdaprep, tmp_path, "depth/000000.png", PNG16S[name], "--depth-unit", "0.001")
    assert np.array_equal(found, (units() * 0.001).astype(np.float32))


ODD = metres()
ODD[0, :6] = [-0.0, 1e-42, 1e38, -1, np.nan, np.inf]
ODD_EXPECTED = [np.nan, 0.1, np.inf, np.nan, np.nan, np.inf]  # unknown, the near end, beyond the far end
NPYS = {
    "fortran": npy(np.asfortranarray(metres())),
    "big-endian": npy(metres().astype(">f4")),
    "half": npy(metres().astype(np.float16)),
    "double": npy(metres().astype(np.float64)),
    "big-endian-fortran-double": npy(np.asfortranarray(metres().astype(">f8"))),
    "one-channel-last": npy(metres()[..., None]),
    "one-channel-last-fortran": npy(np.asfortranarray(metres()[..., None])),
    "one-channel-first": npy(metres()[None]),
    "version-2": npy(metres(), version=(2, 0)),
    "version-3": npy(metres(), version=(3, 0)),
    "double-quotes": npy(metres()).replace(b"'", b'"', 8),
    "python-2-longs": npy(metres()).replace(b"(24, 32), }", b"(24L,32L),}"),
}


@pytest.mark.parametrize("name", NPYS)
def test_depth_in_npy_is_taken_as_stored(vdaprep: Run, tmp_path: Path, name: str) -> None:
    found = decoded(vdaprep, tmp_path, "depth/000000.npy", NPYS[name])
    assert np.abs(found / metres() - 1).max() < (2e-3 if name == "half" else 5.1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_odd_numbers_are_unknown_near_or_beyond(vdaprep: Run, tmp_path: Path, dtype: type) -> None:
    values = ODD.astype(dtype)
    values[0, 2] = 1e38 if dtype is np.float32 else 1e300
    found = decoded(vdaprep, tmp_path, "depth/000000.npy", npy(values))
    assert np.allclose(found[0, :6], ODD_EXPECTED, equal_nan=True)


def test_depth_beyond_the_code_is_counted(vdaprep: Run, tmp_path: Path) -> None:
    far = metres()
    far[:2, :3], far[5] = 2000.0, np.inf
    raw = video(tmp_path / "raw", {f"rgb/00000{i}.png": PNG for i in range(2)})
    video(raw, {"depth/000000.npy": npy(far), "depth/000001.npy": npy(metres())})
    convert = ("convert", "custom", "--raw", raw, "--out", tmp_path, "--workers", "1")
    for _ in range(2):  # the second reads what the first has written
        outcome = vdaprep(*convert)
        assert (outcome.code, outcome.err) == (0, "")
        assert "6 depth pixels were farther than the depth code reaches; stored as sky." in outcome.out
    assert read_record(tmp_path / "custom/train/shard-0001.tar").clamped_far == {"raw": 6}
    assert vdaprep("verify", tmp_path).code == 0
    assert vdaprep("repair", "custom", "--raw", raw, "--out", tmp_path).code == 0
    folder = tmp_path / "custom"
    older = read_record(folder / "train/shard-0001.tar")
    data = dataclasses.replace(older, clamped_far={}).to_bytes()
    (folder / "train/shard-0001.json").write_bytes(data)
    listed = DatasetRecord.from_bytes((folder / "dataset.json").read_bytes(), where="")
    totals = {name: value for name, value in listed.totals.items() if name != "clamped_far"}
    shards = (dataclasses.replace(listed.shards[0], record_sha256=hashlib.sha256(data).hexdigest()),)
    (folder / "dataset.json").write_bytes(dataclasses.replace(listed, totals=totals, shards=shards).to_bytes())
    (folder / "train/shard-0001.tar").write_bytes(b"")
    assert vdaprep("repair", "custom", "--raw", raw, "--out", tmp_path, "--workers", "1").code == 0
    assert read_record(folder / "train/shard-0001.tar") == older
    assert vdaprep("verify", tmp_path).code == 0


def test_statistics_say_loudly_that_no_depth_is_known(vdaprep: Run, tmp_path: Path) -> None:
    files = {f"rgb/00000{i}.png": PNG for i in range(3)} | {
        f"depth/00000{i}.npy": npy(metres() * 1e4) for i in range(3)
    }
    raw = video(tmp_path / "raw", files)
    outcome = vdaprep("convert", "custom", "--raw", raw, "--out", tmp_path, "--workers", "1")
    assert "looks wrong: raw: has no known depth: 0% of its pixels are unknown, 100% are sky" in outcome.err
    assert "--depth-unit 0.001 for PNGs, or multiply the npy files by 0.001" in outcome.err
    said = vdaprep("stats", tmp_path)
    assert "custom: 1 of 1 clips that were read have NO KNOWN DEPTH" in said.out
    assert "custom: 2,304 depth pixels were beyond the depth code's far end; stored as sky" in said.out
    [found] = json.loads(vdaprep("stats", tmp_path, "--json").out)
    assert (found["without_depth"], found["clamped_far"]) == ({"raw": 1}, 2304)
    assert "raw: no depth is known in any of its 1 clips" in vdaprep("verify", tmp_path, "--deep").err


def exr_bytes(values: np.ndarray, *, data: tuple[int, int, int, int], display: tuple[int, int, int, int]) -> bytes:
    windows = {"dataWindow": data, "displayWindow": display}
    header: dict[str, Any] = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
        **{name: (np.array(box[:2], np.int32), np.array(box[2:], np.int32)) for name, box in windows.items()},
    }
    stream = io.BytesIO()
    OpenEXR.File(header, {"Y": np.ascontiguousarray(values)}).write(stream)
    return stream.getvalue()


WHOLE = (0, 0, 31, 23)
WINDOWS = {  # what is stored, of what image; rows and columns of the image that are known, and of the values there
    "equal": (WHOLE, WHOLE, np.s_[:, :], np.s_[:, :]),
    "both-shifted": ((5, -7, 36, 16), (5, -7, 36, 16), np.s_[:, :], np.s_[:, :]),
    "stored-a-part": ((4, 2, 35, 25), (0, 0, 39, 29), np.s_[2:26, 4:36], np.s_[:, :]),
    "stored-more": ((-4, -2, 27, 21), (0, 0, 19, 9), np.s_[:, :], np.s_[2:12, 4:24]),
    "shifted-as-large": ((3, 1, 34, 24), WHOLE, np.s_[1:, 3:], np.s_[:-1, :-3]),
    "apart": ((100, 100, 131, 123), WHOLE, np.s_[:0, :0], np.s_[:0, :0]),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_an_exr_shows_what_lies_in_its_display_window(name: str, dtype: type) -> None:
    stored, shown, place, part = WINDOWS[name]
    values = metres().astype(dtype)
    found = exr.parse_exr(exr_bytes(values, data=stored, display=shown), HERE)
    assert found.shape == (shown[3] - shown[1] + 1, shown[2] - shown[0] + 1)
    assert np.array_equal(found[place], values[part])
    assert np.isfinite(found).sum() == values[part].size


# ------------------------------------------------------------------------------------------------------------ refusals


def png_header(width: int, height: int, *, bits: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    stream = zlib.compress(bytes(1 << 16))
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def resized_jpeg(width: int, height: int) -> bytes:
    start = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:start] + struct.pack(">HH", height, width) + JPEG[start + 4 :]


def resized_exr(right: int, bottom: int) -> bytes:
    data = exr.encode_exr(metres().astype(np.float16))
    start = data.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    return data[:start] + struct.pack("<4i", 0, 0, right, bottom) + data[start + 16 :]


def npy_with(header: str, *, version: int = 1, room: int = 3072) -> bytes:
    text = header.encode("latin-1")
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + bytes(room)
    )


def plain(shape: str, descr: str = "'<f4'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


class Refused(NamedTuple):
    name: str
    kind: str
    data: bytes
    sentence: str


BUDGET = "pixels by its header, expected at most 67108864 pixels a frame; make it smaller, or leave it out"
CMYK = b"\xff\xd8\xff\xc0\x00\x14\x08\x00\x18\x00\x20\x04" + bytes(12) + b"\xff\xd9"
EXR_CUT = exr.encode_exr(np.ones((4, 4), np.float16)).replace(b"displayWindow", b"displayWindxx")
BARE = resized_jpeg(32000, 32000).replace(b"\xff\xc0", b"\xff\x01\xff\xc0", 1)
SMOOTH = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8), (0, 0), 2)
WHOLE_JPEGS = {
    "plain": encoded(".jpg", SMOOTH),
    "optimised": encoded(".jpg", SMOOTH, cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "progressive": encoded(".jpg", SMOOTH, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": encoded(".jpg", SMOOTH, cv2.IMWRITE_JPEG_RST_INTERVAL, 8),
    "grey": encoded(".jpg", SMOOTH[..., 0]),
    "black, all zeros but its header": encoded(".jpg", np.zeros((240, 320, 3), np.uint8), cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "a byte of filling": encoded(".jpg", SMOOTH)[:-2] + b"\0\xff\xd9",
}
HOLES = {  # in the middle of the scan; the end marker is there
    f"{kind}-{hole}": spoil(WHOLE_JPEGS[kind], len(WHOLE_JPEGS[kind]) // 2)
    for kind in ("plain", "optimised", "progressive", "restarts", "grey")
    for hole, spoil in {
        "zeros": lambda data, at: data[:at] + bytes(512) + data[at + 512 :],
        "dropped": lambda data, at: data[:at] + data[at + 512 :],
        "zeros-to-its-end": lambda data, at: data[:at] + bytes(len(data) - at - 2) + data[-2:],
    }.items()
}
REFUSED = [
    Refused("jpeg-huge", "jpeg", resized_jpeg(32000, 32000), f"is 32000x32000 {BUDGET}"),
    Refused("jpeg-wide", "jpeg", resized_jpeg(65535, 1025), f"is 65535x1025 {BUDGET}"),
    Refused("jpeg-huge-behind-a-bare-marker", "jpeg", BARE, f"is 32000x32000 {BUDGET}"),
    Refused("jpeg-no-height", "jpeg", resized_jpeg(32, 0), "is 32x0 pixels by its header"),
    Refused("jpeg-cmyk", "jpeg", CMYK, r"is a JPEG of 4 colours \(4 is CMYK\), expected grey or RGB"),
    Refused("jpeg-header-cut", "jpeg", b"\xff\xd8\xff\xc0\x00\x04\x08\x00\xff\xd9", "is 0x0 pixels by its header"),
    Refused("jpeg-colours-cut", "jpeg", b"\xff\xd8\xff\xc2\x00\x07\x08\0\1\0\1\xff\xd9", "is a JPEG of 0 colours"),
    Refused("jpeg-no-frame", "jpeg", b"\xff\xd8\xff\xd9", "the image cannot be decoded"),
    Refused("jpeg-12-bits", "jpeg", JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "cannot be decoded"),
    *(Refused(f"jpeg-{name}", "jpeg", data, r"the JPEG is damaged \(.*\); get") for name, data in HOLES.items()),
    Refused("png-1-bit-huge", "png", png_header(32000, 32000, bits=1, colour=0), f"is 32000x32000 {BUDGET}"),
    Refused("png-interlaced-huge", "png", png_header(16000, 16000, interlaced=1), f"is 16000x16000 {BUDGET}"),
    Refused("png-no-width", "png", png_header(0, 10), "is 0x10 pixels by its header"),
    Refused("png-of-xcode", "png", PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:], "does not begin with a header"),
    Refused("png-unknown-chunk", "png", with_chunks((b"ABCD", b"")), "has a chunk 'ABCD', which no PNG has"),
    Refused("png16-of-8-bits", "png16", PNG, "is a PNG of 3 channels of 8 bits, expected one channel of 16 bits"),
    Refused("exr-huge", "exr", resized_exr(10**9, 10**9), f"is 1000000001x1000000001 {BUDGET}"),
    Refused("exr-inside-out", "exr", resized_exr(-5, 23), "is -4x24 pixels by its header"),
    Refused("exr-no-display", "exr", EXR_CUT, "header lacks 'displayWindow'"),
    Refused("npy-huge", "npy", npy_with(plain("(1000000, 1000000)")), f"is 1000000x1000000 {BUDGET}"),
    Refused("npy-lies", "npy", npy_with(plain("(4096, 4096)")), r"has 3072 bytes of numbers for float32"),
    Refused("npy-negative", "npy", npy_with(plain("(-24, -32)")), "its header says neither order nor shape"),
    Refused("npy-empty", "npy", npy_with(plain("(0, 0)"), room=0), "is 0x0 pixels by its header"),
    Refused("npy-bool", "npy", npy(np.ones((4, 4), bool)), r"holds bool \(4, 4\), expected floats, such"),
    Refused("npy-integers", "npy", npy(units()), r"holds uint16 \(24, 32\), expected floats, such"),
    Refused("npy-complex", "npy", npy(np.ones((4, 4), complex)), "holds complex128"),
    Refused("npy-objects", "npy", npy(np.array([[None]], object)), "holds pickled objects"),
    Refused("npy-fields", "npy", npy(np.ones((4, 4), [("d", "<f4")])), "or fields; expected numbers"),
    Refused("npy-text", "npy", npy(np.array([["a"]])), r"holds <U1 \(1, 1\)"),
    Refused("npy-dates", "npy", npy(np.zeros((2, 2), "M8[s]")), r"holds datetime64\[s\]"),
    Refused("npy-no-dtype", "npy", npy_with(plain("(24, 32)", descr="'???'")), r'holds "\?\?\?" \(24, 32\)'),
    Refused("npy-one-number", "npy", npy(np.array(1.0)), r"holds float64 \(\), expected floats"),
    Refused("npy-three-channels", "npy", npy(np.ones((4, 4, 3), np.float32)), r"holds float32 \(4, 4, 3\), expected"),
    Refused("npy-tokens", "npy", npy_with("{'descr': '<f4', 'shape': (((("), "is not a whole .npy"),
    Refused("npy-nested", "npy", npy_with("(" * 9000, version=2), "is not a whole .npy"),
    Refused("npy-long-header", "npy", npy_with(" " * 60000 + plain("(24, 32)")), "is not a whole .npy"),
    Refused("npy-long-numbers", "npy", npy_with(plain(f"({'9' * 5000}, 2)")), "is not a whole .npy"),
    Refused("npy-header-beyond", "npy", npy(metres())[:40], "is not a whole .npy"),
    Refused("npy-version-9", "npy", npy_with(plain("(24, 32)"), version=9), "is not a whole .npy"),
    Refused("npz", "npy", b"PK\x03\x04" + bytes(90), r"is not a whole .npy \(it is a zip or .npz: rename or conv"),
    Refused("npy-pickle", "npy", metres().dumps(), r"is not a whole .npy \(it is a pickle"),
    Refused("npy-html", "npy", b"<!DOCTYPE html>", r"is not a whole .npy \(it is a web page, which a server sent"),
    Refused("png-lfs", "png", b"version https://git-lfs.github.com/spec/v1\n", r"is not a PNG \(it is a pointer of g"),
    Refused("png-empty", "png", b"", r"is not a PNG \(it is empty"),
    Refused("png-zeros", "png16", bytes(4000), r"is not a PNG \(holds nothing but zeros: it was not downloaded"),
    Refused("png-is-jpeg", "png", JPEG, r"is not a PNG \(it is a JPEG: rename or convert it\)"),
    Refused("png-is-tiff", "png16", encoded(".tiff", units()), r"is not a PNG \(it is a TIFF"),
    Refused("jpeg-is-png", "jpeg", PNG, r"is not a JPEG \(it is a PNG"),
    Refused("jpeg-is-webp", "jpeg", encoded(".webp", colours()), r"is not a JPEG \(it is a WebP"),
    Refused("jpeg-noise", "jpeg", b"noise", "is not a JPEG$"),
    Refused("exr-is-pfm", "exr", b"Pf\n32 24\n-1.0\n", r"is not an EXR \(it is a PFM"),
    Refused("exr-is-xml", "exr", b"<?xml version='1.0'?><Error/>", r"is not an EXR \(it is a message of a server"),
    Refused("nul", "npy", npy_with(plain("(24,\0 32)")), "is not a whole .npy"),
]  # fmt: skip
PARSERS = {
    "jpeg": images.parse_jpeg,
    "png": png.parse_png,
    "png16": png.parse_png16,
    "exr": exr.parse_exr,
    "npy": arrays.parse_npy,
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_is_no_frame_costs_one_sentence(case: Refused) -> None:
    with pytest.raises(FrameError, match=f"^x: .*{case.sentence}") as caught:
        PARSERS[case.kind](case.data, HERE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("case", WHOLE_JPEGS)
def test_a_whole_jpeg_is_taken_and_others_may_write_to_stderr(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    decode = images.decode_image

    def talking(*given: Any) -> np.ndarray:
        os.write(2, b"of another thread\n")
        return decode(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "decode_image", talking)
        assert images.parse_jpeg(WHOLE_JPEGS[case], HERE).jpeg == WHOLE_JPEGS[case]
    assert capfd.readouterr().err == "of another thread\n"


@pytest.mark.parametrize("name", ["rgb/000000.jpg", "depth/000000.npy"])
def test_a_refused_frame_is_named_and_strict_fails(vdaprep: Run, tmp_path: Path, name: str) -> None:
    bad = {"rgb/000000.jpg": resized_jpeg(32000, 32000), "depth/000000.npy": npy_with("{'descr': '<f4', ((((")}
    good = {f"rgb/00000{i}.jpg": JPEG for i in range(3)} | {f"depth/00000{i}.npy": npy(metres()) for i in range(3)}
    raw = video(tmp_path / "raw", {**good, name: bad[name]})
    outcome = vdaprep("convert", "custom", "--raw", raw, "--out", tmp_path, "--workers", "1", "--strict")
    assert outcome.code == 1
    assert f"{name}: is " in outcome.err
    assert "Traceback" not in outcome.err
    assert open_shards(tmp_path).clips()[0].meta.frame_ids == (1, 2)


MEASURE = """
from tests.memory import peak_kib
from tests.unit.prep.test_as_stored import FrameError, HERE, LARGE, PARSERS
before = peak_kib()
for case in LARGE:
    try:
        PARSERS[case.kind](case.data, HERE)
        print("taken:", case.name)
    except FrameError:
        pass
print(peak_kib() - before)
"""
LARGE = [case for case in REFUSED if "huge" in case.name or "lies" in case.name]


def test_sizes_that_lie_take_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 << 10  # KiB
