"""A clip as others store depth videos, by the calls and settings that they publish.

WebDataset      a tar of a JPEG and a 16-bit PNG a frame; the PNG holds our log codes, since a millimetre's ends at 65 m
LeRobot         its defaults: frames in AV1 (SVT, preset 12, crf 30, 2 frames a group), depth as 12-bit codes, even in
                log(depth + 3.5 m), in HEVC (yuv420p12le, crf 30, 2 a group), or in FFV1 (gray12le) as its archive
                setting; `depth_max` is the clip's farthest depth in place of 10 m
MapAnything     depth as EXR of half floats, zip-compressed; its frames are JPEGs here
cvdpack 0.7.0   its preset `tartanair_quantized`: frames in FFV1, depth as 16-bit codes, even in 1 / depth from 0.5 to
                1000 m, in FFV1 (gray16le, every frame alone); nearer and farther is unknown. It starts the program
                `ffmpeg`, which does not come with it; here PyAV makes the same streams

A video is decoded from its start to its end, which is the best that its readers can do.
"""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import OpenEXR
import webdataset
from jaxtyping import Float32, UInt8, UInt16

from vdaprep.shards import codec, depth_codes
from vdaprep.shards.metadata import DepthSpec

Rgb = UInt8[np.ndarray, "t h w 3"]
Depth = Float32[np.ndarray, "t h w"]
Codes = UInt16[np.ndarray, "t h w"]
JPEG_QUALITY = 95
_LEROBOT_MIN_M, _LEROBOT_SHIFT_M, _LEROBOT_MAX = 0.01, 3.5, 4095
_CVDPACK_M, _CVDPACK_MAX = (0.5, 1000.0), 65534
_CODES = DepthSpec("log", 0.0005, near_m=0.1, far_m=1000.0)
_FFV1 = {"level": "3", "g": "1", "slices": "4", "slicecrc": "1"}  # as cvdpack says


@dataclass(frozen=True)
class Stored:
    """A clip as a peer stores it."""

    rgb: Sequence[bytes]
    """A member a frame, or the one of a video."""
    depth: Sequence[bytes]
    """Likewise."""
    total: int
    """Bytes, with what its container needs."""


@dataclass(frozen=True)
class Peer:
    """How a peer stores frames and depth."""

    name: str
    """What it is called in tables."""
    encode: Callable[[Rgb, Depth], Stored]
    """Encodes a clip."""
    decode: Callable[[Stored], tuple[Rgb, Depth]]
    """Decodes it: depth in metres, nan unknown, inf sky."""


def peers(depth_m: Depth, scratch: Path) -> list[Peer]:
    """Return the peers, with what they have to know of a clip's depth."""
    finite = depth_m[np.isfinite(depth_m)]
    far_m = float(finite.max())
    return [
        Peer("WebDataset, JPEG + PNG", _encode_tar, lambda stored: (_jpegs(stored.rgb), _pngs(stored.depth))),
        _lerobot("LeRobot, HEVC 12 bit", _Video("libx265", "yuv420p12le", _HEVC), far_m),
        _lerobot("LeRobot, FFV1 gray12", _Video("ffv1", "gray12le", {}), far_m),
        _map_anything(scratch),
        _cvdpack(),
    ]


# --------------------------------------------------------------------------------------------------- images one by one


def _encode_jpegs(rgb: Rgb) -> list[bytes]:
    return [codec.encode_rgb(frame, quality=JPEG_QUALITY) for frame in rgb]


def _jpegs(members: Sequence[bytes]) -> Rgb:
    return np.stack([codec.decode_rgb(data) for data in members])


def _encode_tar(rgb: Rgb, depth_m: Depth) -> Stored:
    codes = [depth_codes.code_depth(frame, _CODES)[0] for frame in depth_m]
    images, maps = _encode_jpegs(rgb), [cv2.imencode(".png", frame)[1].tobytes() for frame in codes]
    file = io.BytesIO()
    with webdataset.TarWriter(file) as tar:
        for number, (image, depth) in enumerate(zip(images, maps, strict=True)):
            tar.write({"__key__": f"{number:06d}", "jpg": image, "depth.png": depth})
    return Stored(images, maps, len(file.getvalue()))


def _pngs(members: Sequence[bytes]) -> Depth:
    codes = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in members]
    return np.stack([depth_codes.metres_of(frame.astype(np.uint16, copy=False), _CODES) for frame in codes])


def _map_anything(scratch: Path) -> Peer:
    path = scratch / "frame.exr"
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}

    def encode(rgb: Rgb, depth_m: Depth) -> Stored:
        images, maps = _encode_jpegs(rgb), []
        for frame in depth_m:
            halves = np.ascontiguousarray(np.nan_to_num(frame, nan=0, posinf=np.inf).astype(np.float16))
            OpenEXR.File(header, {"Y": halves}).write(str(path))
            maps.append(path.read_bytes())
        return Stored(images, maps, sum(map(len, [*images, *maps])))

    def decode(stored: Stored) -> tuple[Rgb, Depth]:
        frames: list[np.ndarray] = []
        for data in stored.depth:
            path.write_bytes(data)
            with OpenEXR.File(str(path)) as file:
                frames.append(file.channels()["Y"].pixels.astype(np.float32))
        depth_m = np.stack(frames)
        return _jpegs(stored.rgb), np.where(depth_m > 0, depth_m, np.float32(np.nan))

    return Peer("MapAnything, EXR half", encode, decode)


# --------------------------------------------------------------------------------------------------------------- video


@dataclass(frozen=True)
class _Video:
    """How a stream is encoded."""

    encoder: str
    pixels: str
    options: Mapping[str, str]

    def encode(self, frames: Sequence[np.ndarray]) -> bytes:
        """Encode RGB, or codes as luma, as Matroska."""
        os.environ.setdefault("SVT_LOG", "1")  # else SVT-AV1 writes its settings to stderr
        file = io.BytesIO()
        with av.open(file, "w", format="matroska") as container:
            stream = container.add_stream(self.encoder, rate=30, options=dict(self.options))
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.codec_context.thread_count = self.pixels, 1
            for number, pixels in enumerate(frames):
                frame = self._frame(pixels)
                frame.pts, frame.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return file.getvalue()

    def _frame(self, pixels: np.ndarray) -> av.VideoFrame:
        if pixels.ndim == 3:
            return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=self.pixels)
        height, width = pixels.shape
        frame = av.VideoFrame(width, height, self.pixels)
        for number, plane in enumerate(frame.planes):
            rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
            rows[:, : plane.width] = pixels if number == 0 else _NO_COLOUR
        return frame


_NO_COLOUR = 2048  # of both chroma planes, of 12 bits
_AV1 = _Video("libsvtav1", "yuv420p", {"preset": "12", "crf": "30", "g": "2", "svtav1-params": "fast-decode=0:lp=1"})
_HEVC = {"crf": "30", "g": "2", "x265-params": "log-level=none:pools=none:frame-threads=1"}
_FFV1_RGB, _FFV1_CODES = _Video("ffv1", "bgr0", _FFV1), _Video("ffv1", "gray16le", _FFV1)


def _frames(data: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return list(container.decode(stream))


def _rgb(data: bytes) -> Rgb:
    return np.stack([frame.to_ndarray(format="rgb24") for frame in _frames(data)])


def _luma(data: bytes) -> Codes:
    """Return the first planes, of two bytes a pixel."""
    planes = [(frame.planes[0], frame.width) for frame in _frames(data)]
    return np.stack(
        [np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, :width].copy() for plane, width in planes]
    )


def _lerobot(name: str, video: _Video, far_m: float) -> Peer:
    low, high = np.log(_LEROBOT_MIN_M + _LEROBOT_SHIFT_M), np.log(far_m + _LEROBOT_SHIFT_M)

    def encode(rgb: Rgb, depth_m: Depth) -> Stored:
        metres = np.nan_to_num(depth_m, nan=0, posinf=far_m)
        levels = (np.log(metres + np.float32(_LEROBOT_SHIFT_M)) - low) / (high - low) * _LEROBOT_MAX
        codes = np.rint(levels).clip(0, _LEROBOT_MAX).astype(np.uint16)
        return _stored(_AV1.encode(list(rgb)), video.encode(list(codes)))

    def decode(stored: Stored) -> tuple[Rgb, Depth]:
        codes = _luma(stored.depth[0]).astype(np.float32)
        depth_m = np.exp(codes * np.float32((high - low) / _LEROBOT_MAX) + np.float32(low)) - np.float32(
            _LEROBOT_SHIFT_M
        )
        return _rgb(stored.rgb[0]), depth_m.clip(_LEROBOT_MIN_M, far_m)

    return Peer(name, encode, decode)


def _cvdpack() -> Peer:
    near_m, far_m = _CVDPACK_M
    low, high = 1 / far_m, 1 / near_m

    def encode(rgb: Rgb, depth_m: Depth) -> Stored:
        levels = (1 / depth_m - low) / (high - low)
        unknown = ~((levels >= 0) & (levels <= 1))
        codes = (np.where(unknown, 0, levels) * _CVDPACK_MAX).astype(np.uint16)
        codes[unknown] = _CVDPACK_MAX + 1
        return _stored(_FFV1_RGB.encode(list(rgb)), _FFV1_CODES.encode(list(codes)))

    def decode(stored: Stored) -> tuple[Rgb, Depth]:
        codes = _luma(stored.depth[0])
        levels = np.where(codes > _CVDPACK_MAX, np.nan, codes.astype(np.float64) / _CVDPACK_MAX)
        return _rgb(stored.rgb[0]), (1 / (levels * (high - low) + low)).astype(np.float32)

    return Peer("cvdpack, quantised", encode, decode)


def _stored(rgb: bytes, depth: bytes) -> Stored:
    return Stored([rgb], [depth], len(rgb) + len(depth))
