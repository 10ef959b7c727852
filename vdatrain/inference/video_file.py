"""Frames of a video file as a player shows them, with times; damage costs single frames."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame as DecodedFrame
from av.video.stream import VideoStream

from vdaprep.errors import DataError
from vdaprep.storage.documents import stand_in
from vdaprep.storage.limits import MAX_FRAME_PIXELS, LimitError, check_pixels
from vdatrain.inference.presentation import Clock, Turn, believable_shape, shown_width, square_pixels
from vdatrain.inference.video import DEFAULT_FPS, Remarks, Video, VideoFrame, checked, some

_FASTEST = 1000  # frames a second; a header that says more is not believed
_USUAL = 240  # frames a second that cameras make
_FINEST = 10**6  # time bases finer than a microsecond are not carried to an output
_ONE_FRAME_A_PACKET = ("h264", "hevc")  # codecs whose every packet is a picture to show
_STILLS = ("mjpeg", "png", "bmp", "webp", "gif")  # codecs of cover pictures that are not marked as such
_PROMISING = ("mov", "matroska", "avi", "flv", "asf")  # containers whose header states the length
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ISO/IEC 23091-2
_NOTHING, _WEB_PAGE = "it is empty, or nothing but zeros; get it again", "it is a web page; get the file itself"
_STAND_INS = {
    "nothing": _NOTHING,
    "zeros": _NOTHING,
    "web page": _WEB_PAGE,
    "XML": _WEB_PAGE,
    "git-lfs pointer": "it is a git-lfs pointer; get the file itself with git lfs pull",
}
_BUFFER = 1 << 20  # bytes of a read
_HEAD = 1024  # bytes that are enough to tell what a file is
# Nothing but the file itself is opened, whatever a playlist in it says; larger pictures are not even probed.
_OPTIONS = {"protocol_whitelist": "none", "max_pixels": str(MAX_FRAME_PIXELS)}


class _Nameless:
    """A file without its name, in which FFmpeg would see protocols and patterns (`%d.png`)."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def open_video_file(path: Path) -> Video:
    """Open a video file; raises DataError if it is none, LimitError if it is too large."""
    remarks = Remarks(str(path))
    with _opened(path) as container:
        stream = _choose(container, path, remarks)
        fps = _rate(stream)
        codec = stream.codec_context
        if not codec.width or not codec.height:  # FFmpeg gives no size that is above its limit
            raise LimitError(str(path), f"has no picture size that can be read, of at most {MAX_FRAME_PIXELS} pixels.")
        check_pixels(codec.width, codec.height, where=str(path))
        shown = shown_width(codec.width, believable_shape(stream.sample_aspect_ratio))
        check_pixels(shown, codec.height, where=f"{path}, with square pixels")
        index, time_base = stream.index, Fraction(stream.time_base or 1 / fps)
        start = Fraction(max(container.start_time or 0, 0), av.time_base)
        num_frames = stream.frames or max(_duration(container) - start, Fraction(0)) * fps
    return Video(
        lambda: checked(_read(path, index, remarks), where=str(path)),
        num_frames=round(num_frames),
        fps=fps,
        time_base=time_base if time_base.denominator <= _FINEST else Fraction(1, _FINEST),
        remarks=remarks,
    )


@contextmanager
def _opened(path: Path) -> Generator[InputContainer]:
    """Open a file by its content; raises DataError for what FFmpeg refuses in the block."""
    try:
        with (
            path.open("rb") as file,
            av.open(  # titles and the like, of which none is used, are often in no Unicode
                _Nameless(file), options=_OPTIONS, buffer_size=_BUFFER, metadata_errors="replace"
            ) as container,
        ):
            yield cast("InputContainer", container)
    except (FFmpegError, OSError, EOFError) as error:
        reason = "it ends before its first frame" if isinstance(error, EOFError) else _reason(error)
        raise DataError(f"{path}: cannot be read as a video ({_what_it_is(path) or reason}).") from error


def _what_it_is(path: Path) -> str:
    """Say what a file is that is no video, and what to do; empty if its beginning does not tell."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return ""
    if found := _STAND_INS.get(stand_in(head)):
        return found
    if head.lstrip().lower().startswith((b"#extm3u", b"ffconcat")):
        return "it is a list of other files; give one of them"
    if head[4:8] == b"ftyp":
        return "it has no index that can be read, as of a recording or download that was cut off; get it again"
    return ""


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _rate(stream: VideoStream) -> Fraction:
    """Return frames a second, DEFAULT_FPS where the file states none that can be."""
    stated = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate and 0 < rate <= _FASTEST]
    # The average of a file that does not say is taken over its first packets, and may be the inverse of its clock.
    return next((rate for rate in stated if rate <= _USUAL), stated[-1] if stated else DEFAULT_FPS)


def _duration(container: InputContainer) -> Fraction:
    """Return what a container's header says of its length, in seconds, 0 where it says nothing."""
    return Fraction(max(container.duration or 0, 0), av.time_base)


def _choose(container: InputContainer, path: Path, remarks: Remarks) -> VideoStream:
    """Return the stream of most pixels, the default one of several; a cover picture is none."""
    covers = [stream for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
    films = [stream for stream in container.streams.video if stream not in covers]
    usable = [stream for stream in films if getattr(stream, "codec_context", None) is not None]
    if not usable:
        found = ", ".join(sorted({stream.type or "data" for stream in container.streams}))
        what = f"only {found}" if found else "it is a container of nothing"
        if films or covers:
            what = "its codec is unknown, or the file was cut off" if films else "only a cover picture"
        raise DataError(f"{path}: has no video stream ({what}).")
    best = max(
        usable,
        key=lambda stream: (
            stream.codec_context.name not in _STILLS,
            stream.codec_context.width * stream.codec_context.height,
            bool(stream.disposition & Disposition.default),
            -stream.index,
        ),
    )
    if len(usable) > 1:
        sizes = ", ".join(f"{one.codec_context.width}x{one.codec_context.height}" for one in usable)
        remarks.add(
            f"has {len(usable)} videos ({sizes}); stream {best.index} is taken, of "
            f"{best.codec_context.width}x{best.codec_context.height} pixels."
        )
    return best


# ----------------------------------------------------------------------------------------------------------- decoding


@dataclass
class _Progress:
    """What has been met in a file so far."""

    packets: int = 0
    """Packets of the video."""
    end: Fraction = Fraction(0)
    """When the latest packet of any stream ends, in seconds."""
    reason: str = ""
    """Why something could not be decoded."""
    errors: int = 0
    """Packets that the decoder refused."""
    lost: list[str] = field(default_factory=list)
    """Frames that were left out."""
    mended: list[str] = field(default_factory=list)
    """Frames of which the decoder had to guess a part."""
    waiting: set[int] = field(default_factory=set)
    """Time stamps of packets whose frames have not come yet."""
    decode_time: int | None = None
    """Stamp of the latest packet."""
    is_one_film: bool = True
    """Whether these stamps grow, as they do not where one recording follows another."""


def _read(path: Path, index: int, remarks: Remarks) -> Iterator[tuple[str, VideoFrame]]:
    with _opened(path) as container:
        stream = cast("VideoStream", container.streams[index])
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        progress, clock = _Progress(), Clock(1 / _rate(stream))
        present = _Presenter(believable_shape(stream.sample_aspect_ratio), remarks)
        number = count = 0
        for decoded in _decode(container, stream, progress):
            missing = _missing(decoded, stream, progress, number=number)
            number += missing
            time = None if decoded.pts is None else decoded.pts * Fraction(decoded.time_base or stream.time_base or 1)
            seconds = clock.time_of(time)
            if decoded.is_corrupt:
                progress.mended.append(f"{number} ({float(seconds):.3f} s)")
            yield f"{path}, frame {number}", VideoFrame(number, present(decoded), seconds)
            number, count = number + 1, count + 1
        if progress.errors > len(progress.lost):
            progress.lost += [f"{number}"] * bool(progress.waiting or not progress.lost)
        _report(progress, remarks)
        for sentence in clock.sentences(count):
            remarks.add(sentence)
        _compare_with_promise(container, stream, progress, count, remarks)


def _decode(container: InputContainer, stream: VideoStream, progress: _Progress) -> Iterator[DecodedFrame]:
    """Yield frames in the order shown; what cannot be decoded is counted and left out."""
    for packet in _packets(container, progress):
        time_base = packet.time_base
        if packet.pts is not None and time_base:
            progress.end = max(progress.end, (packet.pts + (packet.duration or 0)) * Fraction(time_base))
        if packet.stream.index != stream.index:  # `stream_index` is 0 at the end of any stream
            continue
        progress.packets += packet.size > 0
        _see_stamp(packet, progress)
        if packet.pts is not None and packet.size and not packet.is_discard:
            progress.waiting.add(packet.pts)
        try:
            frames = cast("list[DecodedFrame]", packet.decode())
        except (FFmpegError, EOFError) as error:
            progress.errors, progress.reason = progress.errors + 1, _reason(error)
            continue
        yield from frames


def _see_stamp(packet: Packet, progress: _Progress) -> None:
    if packet.dts is not None:
        progress.is_one_film &= progress.decode_time is None or packet.dts >= progress.decode_time
        progress.decode_time = packet.dts


def _packets(container: InputContainer, progress: _Progress) -> Iterator[Packet]:
    """Yield packets of all streams up to the file's end, or up to where no more can be read."""
    try:
        yield from container.demux()
    except (FFmpegError, OSError, EOFError) as error:
        progress.reason = _reason(error)


def _missing(decoded: DecodedFrame, stream: VideoStream, progress: _Progress, *, number: int) -> int:
    """Return how many frames before this one have not come, and name them.

    A packet that is stamped with an earlier time has had its turn. Without an error it counts only where each
    packet is a picture: other codecs have packets that show none.
    """
    if decoded.pts is None:
        return 0
    pts = decoded.pts
    passed = sorted(one for one in progress.waiting if one < pts)
    progress.waiting.difference_update(passed, (pts,))
    if stream.codec_context.name not in _ONE_FRAME_A_PACKET or not progress.is_one_film:
        passed = passed[: progress.errors - len(progress.lost)]
    base = Fraction(stream.time_base or 1)
    progress.lost += [f"{number + i} ({float(one * base):.3f} s)" for i, one in enumerate(passed)]
    return len(passed)


def _report(progress: _Progress, remarks: Remarks) -> None:
    why = f" ({progress.reason})" if progress.reason else ""
    if progress.lost:
        remarks.add(
            f"{_frames(progress.lost)} cannot be decoded{why}; what could be read is there, without them.", lost=True
        )
    elif progress.reason:
        remarks.add(f"cannot be read to its end{why}; what could be read is there.", lost=True)
    if progress.mended:
        remarks.add(f"{_frames(progress.mended)} are damaged and shown as far as they could be decoded.", lost=True)


def _frames(names: list[str]) -> str:
    return f"frame{'s' * (len(names) > 1)} {some(names)}"


def _compare_with_promise(
    container: InputContainer, stream: VideoStream, progress: _Progress, count: int, remarks: Remarks
) -> None:
    """Say if the file ends before its header's end; frames that are hidden count."""
    if not any(name in container.format.name for name in _PROMISING):
        return
    short = _duration(container) - progress.end
    step = 1 / _rate(stream)
    # The index of an MP4 lists what there is to read; elsewhere only a count and the length are known.
    promised = len(stream.index_entries) if "mov" in container.format.name else stream.frames * (short > step / 2)
    if promised > progress.packets:
        remarks.add(f"ends early, after {count} of {promised} frames that its header promises.", lost=True)
    elif short > max(2 * step, Fraction(1, 10)):
        remarks.add(
            f"ends early, at {float(progress.end):.2f} of the {float(_duration(container)):.2f} s that its header "
            "promises.",
            lost=True,
        )


# ------------------------------------------------------------------------------------------------------- presentation


class _Presenter:
    """Makes what is shown of a decoded frame: RGB, square pixels, upright, of one size."""

    def __init__(self, pixel_shape: Fraction, remarks: Remarks) -> None:
        self._pixel_shape = pixel_shape
        self._remarks = remarks
        self._size: tuple[int, int] | None = None

    def __call__(self, decoded: DecodedFrame) -> np.ndarray:
        self._say_what_is_special(decoded)
        matrix = decoded.side_data.get("DISPLAYMATRIX")
        turn = Turn.of_display_matrix(bytes(matrix)) if matrix is not None else Turn()
        stored = decoded.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        picture = turn.apply(square_pixels(stored, self._pixel_shape))
        height, width = picture.shape[:2]
        self._size = self._size or (width, height)
        if self._size != (width, height):
            self._remarks.add(
                f"changes its size from {self._size[0]}x{self._size[1]} to {width}x{height} pixels; all frames get the "
                "first one's."
            )
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return picture

    def _say_what_is_special(self, decoded: DecodedFrame) -> None:
        if decoded.interlaced_frame:
            self._remarks.add("is interlaced and taken as it is, both fields in a frame; deinterlace it first.")
        if (hdr := _HDR.get(int(decoded.color_trc))) is not None:
            self._remarks.add(f"is HDR ({hdr}), which is not tone-mapped: the model sees flatter colours.")
