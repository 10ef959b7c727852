"""Videos and images of every kind that people have, made for tests of `infer`."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import UInt8

SIZE = (32, 48)  # height and width


def picture(number: int, *, size: tuple[int, int] = SIZE) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture without symmetry whose grey level grows with its number: bright corner, left darker."""
    y, x = np.mgrid[: size[0], : size[1]]
    level = 40 + 2 * number + x + y // 2
    level[: size[0] // 4, : size[1] // 4] = 250
    return np.repeat(level[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)


def write_video(
    path: Path,
    times: Sequence[Fraction | float],
    *,
    codec: str = "libx264",
    prepare: Callable[[VideoStream], None] = lambda stream: None,
    size: tuple[int, int] = SIZE,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video whose frame n is `picture(n)` and is shown at `times[n]` seconds, in steps of a millisecond."""
    pixels = {"gif": "rgb8", "mjpeg": "yuvj420p", "png": "rgb24", "libx264rgb": "rgb24"}.get(codec, "yuv420p")
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, size=size), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_streams(path: Path, sources: Sequence[Path], *, cover: bytes = b"", **options: str) -> Path:
    """Write the videos of several files as streams of one, after a cover picture if there is one."""
    with av.open(str(path), "w", options=options) as out:
        if cover:
            stream = out.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 640, 480, "yuvj420p"
            stream.disposition = av.stream.Disposition.attached_pic
        copies = []
        for source in sources:
            container = av.open(str(source))
            copies.append((container, out.add_stream_from_template(container.streams.video[0])))
        if cover:
            packet = av.Packet(cover)
            packet.pts = packet.dts = 0
            packet.time_base, packet.stream = Fraction(1, 1), stream
            out.mux(packet)
        for container, target in copies:
            for packet in container.demux(video=0):
                if packet.dts is not None:
                    packet.stream = target
                    out.mux(packet)
            container.close()
    return path
