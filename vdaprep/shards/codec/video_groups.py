"""Frames to groups of video and back: MP4s that any player shows, each decoded alone.

Colours are those of JPEG: the BT.601 matrix at full range, chroma averaged over 2x2 pixels, and the stream says so.
H.264 and AV1 leave decoders no choice, and colours are converted here in whole numbers, so a group decodes to the same
pixels everywhere; FFmpeg's own conversion rounds as the processor's instructions make it.

4:2:0 needs even sides, and encoders at least 4 pixels: the last row and column are repeated up to there, players show
those, and `decode_group` cuts them off. A device takes what `decode_planes` gives, half the bytes of RGB.

The file is read by `mp4`, not by FFmpeg, and sizes and counts are compared before anything is decoded.

A GPU's decoder (NVDEC) is not used, as none was there to try it: PyAV gives it as `CodecContext.create("h264", "r",
hwaccel=HWAccel("cuda"))` (`av.codec.hwaccel`), and its frames come back as NV12: the same luma, both chromas in one
plane. It pays where frames stay on the card, and where one decoder is kept for many groups, as opening one takes long.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.codec import Codec, CodecContext
from av.codec.codec import UnknownCodecError
from av.codec.context import Flags
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from jaxtyping import UInt8

from vdaprep.errors import ShardError, VdakitError
from vdaprep.shards.codec.mp4 import Mp4Error, check_coded, parse_mp4
from vdaprep.shards.codec.zstd import Data
from vdaprep.storage.limits import check_pixels, check_window

_FULL_RANGE, _BT601, _BT709_PRIMARIES, _SRGB = 2, 5, 1, 13  # as ITU-T H.273 numbers them, the range as FFmpeg does
_FRAMES_PER_SECOND = 30  # of a player; the data set's own rate is not known
_LEAST_SIDE = 4  # of SVT-AV1
_MARGIN = 64  # pixels that a decoder adds to a side for itself
_LAYOUTS = ("yuv420p", "yuvj420p")
_CODED = 2  # pictures in AV1 for each shown one: itself, hidden at first, and the word to show it


@dataclass(frozen=True)
class _Codec:
    """A way to code groups."""

    encoder: str
    """FFmpeg's name of the encoder."""
    decoder: str
    """FFmpeg's name of the decoder."""
    options: dict[str, str]
    """Options of the encoder; one thread, since the number of threads changes what it writes."""
    entry: bytes
    """Type of the sample entry in an MP4."""
    settings: bytes
    """Type of the box in it that the decoder has to know."""
    bitstream_filter: str | None
    """Removes the encoder's description of itself."""


# CAVLC, no deblocking and no 8x8 transform decode in 0.55 to 0.65 of the time, for 10 to 13 % more bytes, on real and
# rendered frames. `cpu-independent` keeps x264 from choosing by the processor, `chromaloc` says where chroma lies.
# AV1's low delay (`pred-struct=1`) takes a quarter more bytes and decodes no faster.
_CODECS = {
    "h264": _Codec(
        "libx264", "h264",
        {
            "preset": "fast",
            "x264-params": "threads=1:lookahead-threads=1:cpu-independent=1:scenecut=0:open-gop=0:chromaloc=1:"
            "cabac=0:8x8dct=0:no-deblock=1",
        },
        b"avc1", b"avcC", "filter_units=remove_types=6",
    ),
    "av1": _Codec(
        "libsvtav1", "libdav1d",
        {"preset": "8", "svtav1-params": "lp=1:pred-struct=2"},
        b"av01", b"av1C", None,
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ encoding


def encode_group(frames: Sequence[UInt8[np.ndarray, "h w 3"]], *, codec: str, crf: int) -> bytes:
    """Encode frames of one size as an MP4 that decodes alone; equal frames give equal bytes.

    Args:
        frames: One or more frames, RGB.
        codec: `h264` or `av1`.
        crf: Constant rate factor: 0 (best) to 51 of `h264`, to 63 of `av1`.

    Raises:
        VdakitError: The installed PyAV has no such encoder, or it does not take this size.
    """
    chosen = _CODECS[codec]
    height, width = (_padded(side) for side in frames[0].shape[:2])
    file = io.BytesIO()
    try:
        _need_encoder(codec)
        with _opened(file) as container:
            stream = container.add_stream(chosen.encoder, rate=_FRAMES_PER_SECOND, options=_options(chosen, crf))
            context = stream.codec_context
            context.width, context.height, context.pix_fmt = width, height, "yuv420p"
            context.gop_size, context.thread_count = len(frames), 1
            context.flags |= Flags.bitexact
            context.color_primaries, context.color_trc = _BT709_PRIMARIES, _SRGB
            _tag(context)
            for packet in _kept(_packets(context, frames), stream, chosen.bitstream_filter):
                packet.stream = stream
                container.mux(packet)
    except FFmpegError as error:
        raise VdakitError(
            f"{width}x{height} pixels: {chosen.encoder} cannot encode them with crf {crf} ({error.strerror}); "
            "choose another --rgb."
        ) from error
    return file.getvalue()


def encoder_version(codec: str) -> str:
    """Name what decides a group's bytes: encoder and wheel; raises as `encode_group`."""
    _need_encoder(codec)
    return f"{_CODECS[codec].encoder} of PyAV {av.__version__}"


def missing_encoder(codec: str) -> str | None:
    """Say what to do where the installed PyAV cannot encode frames; None if it can."""
    try:
        if codec in _CODECS:
            Codec(_CODECS[codec].encoder, "w")
    except UnknownCodecError:
        return (
            f"PyAV {av.__version__}: has no encoder {_CODECS[codec].encoder}, which PyAV's own wheels carry; install "
            "one of those (pip install av), or choose another --rgb."
        )
    return None


def _need_encoder(codec: str) -> None:
    if missing := missing_encoder(codec):
        raise VdakitError(missing)


def _options(codec: _Codec, crf: int) -> dict[str, str]:
    os.environ.setdefault("SVT_LOG", "1")  # else SVT-AV1 writes its settings to stderr, group by group
    return {**codec.options, "crf": str(crf)}


def _tag(coded: Any) -> None:
    coded.color_range, coded.colorspace = _FULL_RANGE, _BT601


def _opened(file: io.BytesIO) -> Any:  # partly typed
    return av.open(file, "w", format="mp4", options={"fflags": "+bitexact"})  # it does not note FFmpeg's version


def _kept(packets: Iterator[Any], stream: Any, bitstream_filter: str | None) -> Iterator[Any]:
    if bitstream_filter is None:
        yield from packets
        return
    keep: Any = BitStreamFilterContext(bitstream_filter, stream)
    for packet in packets:
        yield from keep.filter(packet)


def _packets(context: Any, frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Iterator[Any]:
    for number, rgb in enumerate(frames):
        frame = VideoFrame.from_ndarray(_to_planes(rgb), format="yuv420p")
        frame.pts = number
        _tag(frame)
        yield from context.encode(frame)
    yield from context.encode()


def _padded(side: int) -> int:
    return max(_LEAST_SIDE, side + side % 2)


def _to_planes(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "ph pw"]:
    """Convert to luma and, below it, both chroma planes of a quarter each, padded."""
    height, width, _ = rgb.shape
    rows, columns = _padded(height), _padded(width)
    if (rows, columns) != (height, width):
        rgb = np.pad(rgb, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
    luma, red, blue = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    half = (columns // 2, rows // 2)
    chroma = [cv2.resize(plane, half, interpolation=cv2.INTER_AREA).ravel() for plane in (blue, red)]
    return np.concatenate([luma.ravel(), *chroma]).astype(np.uint8, copy=False).reshape(rows * 3 // 2, columns)


# ------------------------------------------------------------------------------------------------------------ decoding


def decode_group(
    data: Data, *, codec: str, size: tuple[int, int], count: int, frames: range | None = None, where: str = "frames"
) -> UInt8[np.ndarray, "t h w 3"]:
    """Decode frames of a group; uses one thread, and others may run meanwhile.

    Args:
        data: The member.
        codec: `h264` or `av1`, as the clip's metadata says; a group of another is refused.
        size: Height and width of a frame, as the metadata says.
        count: Frames of the group, likewise.
        frames: Which of them to return, one after the other; None: all. Those before are decoded, too, but not
            converted to RGB; those behind are not decoded.
        where: Shard, clip and frames, with which an error begins.

    Returns:
        uint8 RGB.

    Raises:
        ShardError: The bytes are no such group, or damaged.
        LimitError: The frames take more memory than a window may.
    """
    frames = range(count) if frames is None else frames
    height, width = size
    check_pixels(width, height, where=where)
    check_window(len(frames) * height * width * 3, where=where)
    out = np.empty((len(frames), height, width, 3), np.uint8)
    wanted = {number: out[number - frames.start] for number in frames}
    for rgb, planes in _wanted(wanted, _decoded(data, codec=codec, size=size, count=count, where=where)):
        _to_rgb(*planes, rgb)
    return out


def decode_planes(
    data: Data,
    *,
    codec: str,
    size: tuple[int, int],
    count: int,
    out: Mapping[int, UInt8[np.ndarray, "rows columns"]],
    where: str = "frames",
) -> None:
    """Decode frames of a group, as `decode_group`, without converting them to RGB.

    `out` has an array of `planes_size(size)` for each frame that is asked for, by its number. Luma and chroma are
    written to it as decoders lay them out (I420): the luma, below it blue and then red chroma, a quarter of its size
    each, two of their rows to one of these.
    """
    height, width = size
    check_pixels(width, height, where=where)
    for target, planes in _wanted(out, _decoded(data, codec=codec, size=size, count=count, where=where)):
        for part, plane in zip(_split(target), planes, strict=True):
            part[...] = plane


def _wanted(out: Mapping[int, np.ndarray], decoded: Iterator["_Planes"]) -> Iterator[tuple[np.ndarray, "_Planes"]]:
    """Yield each wanted frame's array and planes; none behind the last is decoded."""
    for number, planes in zip(range(max(out) + 1), decoded, strict=False):
        if number in out:
            yield out[number], planes


def planes_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns that the planes of a frame of `size` (height, width) take."""
    return _padded(size[0]) * 3 // 2, _padded(size[1])


def _split(planes: UInt8[np.ndarray, "rows columns"]) -> "_Planes":
    """Return luma, blue and red chroma, which share the memory of `planes`."""
    rows, columns = planes.shape
    height = rows * 2 // 3
    blue, red = planes[height:].reshape(2, height // 2, columns // 2)
    return planes[:height], blue, red


_Planes = tuple[UInt8[np.ndarray, "ph pw"], UInt8[np.ndarray, "ch cw"], UInt8[np.ndarray, "ch cw"]]


def _decoded(data: Data, *, codec: str, size: tuple[int, int], count: int, where: str) -> Iterator[_Planes]:
    """Yield exactly `count` frames as padded planes: luma, blue and red chroma."""
    chosen = _CODECS[codec]
    height, width = _padded(size[0]), _padded(size[1])
    try:
        settings, packets = parse_mp4(
            data, entry=chosen.entry, settings=chosen.settings, size=(height, width), count=count
        )
        if codec == "av1":
            check_coded(packets, most=_CODED * count)
        found = 0
        for frame in _frames(chosen, settings, packets, pixels=(height + _MARGIN) * (width + _MARGIN)):
            if (frame.height, frame.width) != (height, width) or frame.format.name not in _LAYOUTS:
                said = f"{frame.width}x{frame.height} pixels of {frame.format.name}"
                raise Mp4Error(f"its pictures are {said}, expected {width}x{height} of yuv420p")
            found += 1
            if frame.is_corrupt or found > count:
                raise Mp4Error(f"picture {found} is damaged, or there are more than {count}")
            yield cast("_Planes", tuple(map(_pixels, frame.planes)))
        if found < count:
            raise Mp4Error(f"{found} of {count} pictures can be decoded")
    except FFmpegError as error:
        raise ShardError(f"{where}: cannot be decoded as {codec} ({error.strerror}); {_MEND}") from error
    except Mp4Error as error:
        raise ShardError(f"{where}: no group of {count} frames in {codec}: {error}; {_MEND}") from error


_MEND = "the shard is damaged: vdaprep repair makes it again."


def _frames(codec: _Codec, settings: bytes, packets: Sequence[Data], *, pixels: int) -> Iterator[VideoFrame]:
    """Decode packets; damage is an error, not concealed, as is a picture over `pixels`."""
    context: Any = CodecContext.create(codec.decoder, "r")
    context.extradata = settings
    context.thread_count = 1
    context.options = {"err_detect": "explode", "ec": "0", "max_pixels": str(pixels)}
    for packet in packets:
        yield from context.decode(Packet(bytes(packet)))
    yield from context.decode(None)


def _pixels(plane: Any) -> UInt8[np.ndarray, "ph pw"]:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def rgb_of_planes(planes: UInt8[np.ndarray, "rows columns"], *, out: UInt8[np.ndarray, "h w 3"]) -> None:
    """Convert planes to RGB.

    Chroma lies amid the four pixels that it was averaged over, as in a JPEG.

    A pixel's chroma is (9 a + 3 b + 3 c + d + 8) >> 4 of the nearest sample, a, its neighbours in the row and the
    column, and the one beyond both. Of that less 128, what is added to luma is in units of 2^-14, rounded half up:

        red    luma + 22987 red
        green  luma - 11698 red - 5636 blue
        blue   luma + 29049 blue
    """
    _to_rgb(*_split(planes), out)


def _to_rgb(
    luma: UInt8[np.ndarray, "ph pw"],
    blue: UInt8[np.ndarray, "ch cw"],
    red: UInt8[np.ndarray, "ch cw"],
    out: UInt8[np.ndarray, "h w 3"],
) -> None:
    size = luma.shape[1], luma.shape[0]
    chroma = [cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR_EXACT) for plane in (red, blue)]
    whole = cv2.merge([luma, *chroma])
    height, width, _ = out.shape
    if (width, height) == size:
        cv2.cvtColor(whole, cv2.COLOR_YCrCb2RGB, dst=out)
    else:
        out[:] = cv2.cvtColor(whole, cv2.COLOR_YCrCb2RGB)[:height, :width]
