"""Videos and folders as people have them: what is read of each, what is said of it, and what is refused."""

import io
import logging
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image

from tests.videos import SIZE, copy_streams, picture, write_video
from vdaprep.errors import VdakitError
from vdatrain.inference.presentation import Clock, Turn
from vdatrain.inference.video_reader import open_video

TENTHS = [n / 10 for n in range(8)]
VARIABLE = [0, 0.1, 0.5, 2, 3.3]
UPRIGHT = picture(0)


@dataclass(frozen=True)
class Case:
    """An input, and what is to come out of it."""

    name: str
    make: Callable[[Path], Path]
    """Makes the input in a folder and returns its path."""
    first: np.ndarray | None = None
    """The first frame."""
    seconds: list[float] | None = None
    """Times of the frames."""
    numbers: list[int] | None = None
    """Their numbers."""
    said: str = ""
    """Part of the one sentence that is logged; none is if empty."""
    whole: bool = True
    """Whether nothing is missing."""


def film(name: str, times: list[float] = TENTHS, **options) -> Callable[[Path], Path]:
    return lambda folder: write_video(folder / name, times, **options)


def laid(a: float, b: float, c: float, d: float) -> Callable[[Path], Path]:
    matrix = [round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    return film("a.mov", prepare=lambda stream: stream.set_display_matrix(matrix))


def wide(shape: Fraction) -> Callable[[VideoStream], None]:
    def prepare(stream: VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = shape

    return prepare


def jpeg(value: np.ndarray, **options) -> bytes:
    data = io.BytesIO()
    Image.fromarray(value).save(data, "JPEG", quality=98, **options)
    return data.getvalue()


def under_cover(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        cover = jpeg(np.zeros((480, 640, 3), np.uint8))
        return copy_streams(folder / name, [write_video(folder / "film.mp4", TENTHS)], cover=cover)

    return make


def titled_in_no_unicode(folder: Path) -> Path:
    def prepare(stream: VideoStream) -> None:
        stream.metadata["handler_name"] = "handler of the film"

    path = write_video(folder / "a.mp4", TENTHS, prepare=prepare)
    data = path.read_bytes()
    assert b"handler of" in data
    path.write_bytes(data.replace(b"handler of", b"h\xffndler\x8eof"))
    return path


def two_films(folder: Path) -> Path:
    small = write_video(folder / "small.mp4", TENTHS, size=(16, 24))
    return copy_streams(folder / "two.mkv", [small, write_video(folder / "large.mp4", TENTHS)])


def in_order(stream: VideoStream) -> None:
    stream.codec_context.options = {"bf": "0"}


def indexed_first(folder: Path) -> tuple[Path, list[tuple[int, int]]]:
    """Write a film of 20 frames whose index is at its beginning; return where its packets are, and their sizes."""
    path = write_video(
        folder / "a.mp4", [n / 10 for n in range(20)], prepare=in_order, options={"movflags": "faststart"}
    )
    with av.open(str(path)) as container:
        return path, [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def bad_packet(folder: Path) -> Path:
    path, packets = indexed_first(folder)
    data = bytearray(path.read_bytes())
    start, size = packets[12]
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    return path


def cut_short(folder: Path) -> Path:
    path, packets = indexed_first(folder)
    path.write_bytes(path.read_bytes()[: packets[13][0]])
    return path


def cut(name: str, share: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_video(folder / name, [n / 10 for n in range(40)])
        path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
        return path

    return make


def one_after_the_other(folder: Path) -> Path:
    data = write_video(folder / "a.ts", TENTHS).read_bytes()
    (folder / "b.ts").write_bytes(2 * data)
    return folder / "b.ts"


def called(name: str) -> Callable[[Path], Path]:
    """Return a maker of a film that is opened from its own folder by a name that looks like something else."""

    def make(folder: Path) -> Path:
        os.chdir(folder)
        write_video(folder / "a.mp4", TENTHS).rename(folder / name)
        return Path(name)

    return make


def interlaced(stream: VideoStream) -> None:
    stream.codec_context.flags |= av.codec.context.Flags.interlaced_dct


def hdr(stream: VideoStream) -> None:
    stream.codec_context.color_trc = 16


def ten_bits(stream: VideoStream) -> None:
    stream.pix_fmt = "yuv420p10le"


def transparent(stream: VideoStream) -> None:
    stream.pix_fmt = "yuva420p"


SQUARE = cv2.resize(UPRIGHT, (64, 32), interpolation=cv2.INTER_CUBIC)
FILMS = [
    Case("plain", film("a.mp4"), first=UPRIGHT, seconds=TENTHS, numbers=[*range(8)]),
    Case("a title that is no Unicode", titled_in_no_unicode, first=UPRIGHT, seconds=TENTHS),
    Case("matrix: a quarter", laid(0, 1, -1, 0), first=np.rot90(UPRIGHT, -1)),
    Case("matrix: half a turn", laid(-1, 0, 0, -1), first=np.rot90(UPRIGHT, 2)),
    Case("matrix: three quarters", laid(0, -1, 1, 0), first=np.rot90(UPRIGHT)),
    Case("matrix: mirrored", laid(-1, 0, 0, 1), first=UPRIGHT[:, ::-1]),
    Case("matrix: upside down", laid(1, 0, 0, -1), first=UPRIGHT[::-1]),
    Case("matrix: transposed", laid(0, 1, 1, 0), first=UPRIGHT.transpose(1, 0, 2)),
    Case("matrix: across", laid(0, -1, -1, 0), first=UPRIGHT.transpose(1, 0, 2)[::-1, ::-1]),
    Case("matrix: almost a quarter", laid(0.1, 0.99, -0.99, 0.1), first=np.rot90(UPRIGHT, -1)),
    Case("matrix: nothing", laid(0, 0, 0, 0), first=UPRIGHT),
    Case("variable rate", film("a.mp4", VARIABLE), seconds=VARIABLE),
    Case("variable rate, mkv", film("a.mkv", VARIABLE), seconds=VARIABLE),
    Case("variable rate, gif", film("a.gif", VARIABLE, codec="gif"), seconds=VARIABLE),
    Case("begins late", film("a.mp4", [1 + time for time in VARIABLE]), seconds=[1 + time for time in VARIABLE]),
    Case("begins before 0", film("a.mp4", [n / 10 - 0.2 for n in range(8)]), seconds=TENTHS[:6]),
    Case("pixels wider than high", film("a.mp4", prepare=wide(Fraction(4, 3))), first=SQUARE),
    Case("pixels of an absurd shape", film("a.mp4", prepare=wide(Fraction(500))), first=UPRIGHT),
    Case("a cover picture, mp4", under_cover("a.mp4"), first=UPRIGHT, numbers=[*range(8)]),
    Case("a cover picture that is not marked", under_cover("a.mkv"), first=UPRIGHT, said="stream 1 is taken, of 48x32"),
    Case("two films", two_films, first=UPRIGHT, said="has 2 videos (24x16, 48x32); stream 1 is taken, of 48x32"),
    Case("interlaced", film("a.mp4", prepare=interlaced), first=UPRIGHT, said="is interlaced"),
    Case("HDR", film("a.mp4", prepare=hdr), said="is HDR (PQ)"),
    Case("ten bits", film("a.mp4", prepare=ten_bits), first=UPRIGHT),
    Case("alpha", film("a.webm", codec="libvpx-vp9", prepare=transparent), first=UPRIGHT),
    Case("odd sides", film("a.mkv", codec="ffv1", size=(31, 47)), first=picture(0, size=(31, 47))),
    Case("one frame", film("a.mp4", [0]), first=UPRIGHT, seconds=[0]),
    Case("no times", film("a.h264", VARIABLE), seconds=[n / 25 for n in range(5)], said="5 of 5 frames have no time"),
    Case(
        "a bad packet", bad_packet, numbers=[*range(12), *range(13, 20)], whole=False, said="frame 12 (1.200 s) cannot"
    ),
    Case("cut, its index first", cut_short, numbers=[*range(13)], whole=False, said="after 13 of 20 frames"),
    Case("cut, mkv", cut("a.mkv", 0.9), first=UPRIGHT, whole=False, said="of the 4.00 s that its header promises"),
    Case("two recordings", one_after_the_other, numbers=[*range(16)], said="the times go back (1 x)"),
    *(
        Case(f"called {name}", called(name), first=UPRIGHT)
        for name in ("a:b.mp4", "-a.mp4", "%d.mp4", "%03d.png.mp4", "http:a.mp4", "file", "pipe:", "a?b#c.mp4", "c:a|b")
    ),
]


@pytest.fixture(autouse=True)
def _back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())


@pytest.mark.parametrize("case", FILMS, ids=lambda case: case.name)
def test_films(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(case, tmp_path, caplog)


def check(case: Case, folder: Path, caplog: pytest.LogCaptureFixture, *, tolerance: float = 4) -> None:
    with caplog.at_level(logging.WARNING):
        video = open_video(case.make(folder))
        frames = list(video.frames())
        assert len(list(video.frames())) == len(frames)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("vdatrain")]
    assert len(said) == bool(case.said), said
    assert case.said in "".join(said)
    assert video.remarks.is_complete == case.whole
    seconds = [float(frame.seconds) for frame in frames]
    assert (np.diff(seconds) > 0).all()
    if case.first is not None:
        assert frames[0].rgb.shape == case.first.shape
        assert np.abs(frames[0].rgb.astype(int) - case.first).mean() < tolerance
    if case.seconds is not None:
        assert seconds == pytest.approx(case.seconds, abs=1e-9)
    if case.numbers is not None:
        assert [frame.number for frame in frames] == case.numbers


def test_times_that_do_not_grow_are_moved() -> None:
    tenth = Fraction(1, 10)
    clock = Clock(tenth)
    stated = [0, 0.5, 0.5, 0.4, None, 1, 7, 0, 0.5]
    found = [clock.time_of(None if time is None else Fraction(time).limit_denominator(10)) for time in stated]
    assert [float(time) for time in found] == pytest.approx([0, 0.5, 0.501, 0.502, 0.602, 1, 7, 7.1, 7.6])
    assert (clock.missing, clock.repeated, clock.set_back) == (1, 2, 1)


def test_a_display_matrix_that_is_cut_off_turns_nothing() -> None:
    assert Turn.of_display_matrix(b"") == Turn.of_display_matrix(bytes(36)) == Turn()


# ------------------------------------------------------------------------------------------------------------ folders


def save(path: Path, number: int, **options) -> None:
    Image.fromarray(picture(number)).save(path, **options)


def images(*names: str, more: Callable[[Path], object] = lambda folder: None, **options) -> Callable[[Path], Path]:
    """Return a maker of a folder of images whose numbers in order of `names` are 0, 1, ..."""

    def make(folder: Path) -> Path:
        folder /= "images"
        folder.mkdir()
        for number, name in enumerate(names):
            save(folder / name, number, **options)
        more(folder)
        return folder

    return make


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def every_kind(folder: Path) -> None:
    grey = picture(0)
    cv2.imwrite(str(folder / "1.png"), grey.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "2.png"), grey[..., 0].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "3.png"), np.dstack([grey, np.zeros(SIZE, np.uint8)]))
    for number, mode in enumerate(("L", "LA", "P", "RGBA"), 4):
        Image.fromarray(grey).convert(mode).save(folder / f"{number}.png")
    for number, ending in enumerate(("tif", "bmp", "gif", "ppm", "jp2"), 8):
        Image.fromarray(grey).save(folder / f"{number}.{ending}")
    Image.fromarray(grey).save(folder / "13.webp", lossless=True)
    Image.fromarray(grey).convert("CMYK").save(folder / "14.jpg", quality=98)


def moving(folder: Path) -> Path:
    pictures = [Image.fromarray(picture(30 * number)) for number in range(3)]
    for name in ("5.gif", "5.webp"):
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=[100, 300, 200])
    return folder


LINKS = (("dangling", "nowhere"), ("a circle", "3.png"))
FOLDERS = [
    Case("as numbers", images("1.png", "2.png", "10.png", "11.png"), said="out in 1 place, between 2.png"),
    Case("two numbers", images("img-1_2.png", "img-1_10.png", "img-2_1.png")),
    Case("mixed padding", images("1.jpg", "02.jpg", "003.jpg", "4.JPG", quality=98)),
    Case("two endings", images("1.png", "2.bmp", "3.png")),
    Case("every fifth", images("a0.png", "a5.png", "a10.png"), numbers=[0, 1, 2]),
    Case("a gap", images("8.png", "9.png", "11.png", "12.png"), numbers=[0, 1, 3, 4], said="between 9.png and 11"),
    Case("two forms", images("left2.png", "left10.png", "right1.png"), said="names its images in 2 forms"),
    Case("decimal fractions", images("0.3.png", "0.4.png", "0.05.png"), said="not as decimal fractions"),
    Case("time stamps", images("1305031102.175304.png", "1305031102.211214.png")),
    Case("hidden files", images("1.png", "2.png", more=lambda f: [(f / n).touch() for n in ("._1.png", ".DS_Store")])),
    Case("others", images("1.png", more=lambda f: (f / "a.txt").touch()), said="1 of its files are no images"),
    Case("folders", images("1.png", more=lambda f: (f / "2.png").mkdir()), said="folders are not looked into (2.png)"),
    *(
        Case(name, images("1.png", "2.png", more=lambda f, to=to: (f / "3.png").symlink_to(to)), whole=False,
             said="3.png is a link that leads nowhere")
        for name, to in LINKS
    ),
    Case("a link", images("1.png", "2.png", more=lambda f: (f / "3.png").symlink_to("1.png")), numbers=[0, 1, 2]),
    Case("a pipe", images("1.png", more=lambda f: os.mkfifo(f / "2.png")), whole=False, said="2.png is no file"),
    *(
        Case(f"broken: {data[:9]!r}", images("1.png", "3.png", more=lambda f, data=data: holding("2.png", data)(f)),
             numbers=[0, 2], whole=False, said="2.png is no image that can be read")
        for data in (b"", b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n", bytes(200), b"BM" + bytes(20), b"GIF89a")
    ),
    Case(
        "cut", images("1.png", "2.png", more=lambda f: (f / "2.png").write_bytes((f / "2.png").read_bytes()[:90])),
        numbers=[0], whole=False, said="2.png is no image",
    ),
    Case("moving ones", images("1.png", more=lambda f: moving(f) and (f / "5.webp").unlink()), whole=False,
         said="5.gif has 3 pictures"),
    Case("every kind", images(more=every_kind), numbers=[*range(14)], first=UPRIGHT),
    Case("EXIF: a quarter", images("1.jpg", exif=turned(6), quality=98), first=np.rot90(UPRIGHT, -1)),
    Case("EXIF: mirrored", images("1.jpg", exif=turned(2), quality=98), first=UPRIGHT[:, ::-1]),
    Case("EXIF: transposed", images("1.png", exif=turned(5)), first=UPRIGHT.transpose(1, 0, 2)),
    Case("EXIF: a WebP", images("1.webp", exif=turned(8), lossless=True), first=np.rot90(UPRIGHT)),
    Case("EXIF: a TIFF", images("1.tif", exif=turned(3)), first=np.rot90(UPRIGHT, 2)),
    Case("one image", lambda f: images("1.jpg", exif=turned(6), quality=98)(f) / "1.jpg", first=np.rot90(UPRIGHT, -1)),
    Case("a moving WebP", lambda f: moving(f) / "5.webp", seconds=[0, 0.1, 0.4]),
    Case("a moving GIF", lambda f: moving(f) / "5.gif", seconds=[0, 0.1, 0.4]),
]  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS, ids=lambda case: case.name)
def test_folders(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(case, tmp_path, caplog)


@pytest.mark.parametrize(
    "names", [("1.png", "2.png", "10.png"), ("a9b1.png", "a9b20.png", "a10b3.png"), ("08.png", "9.png", "010.png")]
)
def test_images_are_in_the_order_of_their_numbers(names: tuple[str, ...], tmp_path: Path) -> None:
    frames = list(open_video(images(*names)(tmp_path)).frames())
    assert [int(frame.rgb[-1, -1, 0]) for frame in frames] == [int(picture(n)[-1, -1, 0]) for n in range(len(names))]


# ------------------------------------------------------------------------------------------------------------ refused


def png_bomb(width: int, height: int) -> bytes:
    """Return a PNG of one bit a pixel that states, and has, so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(width // 8 + 1)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    data = bytearray(jpeg(UPRIGHT))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 30000, 30000)
    return bytes(data)


def holding(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def sound(folder: Path) -> Path:
    with av.open(str(folder / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    return folder / "a.mkv"


SUBTITLES = b"1\n00:00:00,000 --> 00:00:02,000\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nYou\n"


def subtitles(folder: Path) -> Path:
    with (
        av.open(str(holding("a.srt", SUBTITLES)(folder))) as texts,
        av.open(str(folder / "a.mkv"), "w") as container,
    ):
        stream = container.add_stream_from_template(texts.streams[0])
        for packet in texts.demux():
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return folder / "a.mkv"


def without_frames(name: str, codec: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            container.start_encoding()
        return folder / name

    return make


def only_a_cover(folder: Path) -> Path:
    return copy_streams(folder / "a.mp4", [], cover=jpeg(np.zeros((480, 640, 3), np.uint8)))


def a_list(text: str, name: str = "a.mp4") -> Callable[[Path], Path]:
    """Return a maker of a playlist of a film that is there, which FFmpeg would open."""

    def make(folder: Path) -> Path:
        write_video(folder / "film.ts", TENTHS)
        return holding(name, text.encode())(folder)

    return make


def in_a_film(folder: Path) -> Path:
    """Write a film whose only picture says that it has 30000x30000 pixels."""
    path = folder / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        packet = av.Packet(jpeg_bomb())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
        container.mux(packet)
    return path


REFUSED = [
    ("empty", holding("a.mp4", b""), "it is empty, or nothing but zeros"),
    ("zeros", holding("a.mp4", bytes(5000)), "it is empty, or nothing but zeros"),
    ("a web page", holding("a.mp4", b"\n<!DOCTYPE html><html></html>"), "it is a web page; get the file itself"),
    ("git-lfs", holding("a.mov", b"version https://git-lfs.github.com/spec/v1\n"), "it is a git-lfs pointer"),
    ("text", holding("a.mp4", b"no video at all"), "cannot be read as a video"),
    ("without its index", lambda f: cut("a.mp4", 0.5)(f), "it has no index that can be read"),
    ("HLS", a_list("#EXTM3U\n#EXTINF:1,\nfilm.ts\n#EXT-X-ENDLIST\n"), "it is a list of other files"),
    ("concat", a_list("ffconcat version 1.0\nfile 'film.ts'\n"), "it is a list of other files"),
    ("sound", sound, "has no video stream (only audio)"),
    ("subtitles", subtitles, "has no video stream (only subtitle)"),
    ("subtitles called a film", holding("a.mp4", SUBTITLES), "has no video stream (only subtitle)"),
    ("no frames, mkv", without_frames("a.mkv", "ffv1"), "cannot be read as a video (it ends before its first frame)"),
    ("no frames, mp4", without_frames("a.mp4", "libx264"), "has no video stream (it is a container of nothing)"),
    ("no frames, avi", without_frames("a.avi", "mjpeg"), "holds no frame of video that can be read"),
    ("no frames, y4m", holding("a.y4m", b"YUV4MPEG2 W64 H48 F25:1 C420jpeg\n"), "holds no frame of video that can be"),
    ("only a cover", only_a_cover, "has no video stream (only a cover picture)"),
    ("a pipe", lambda f: os.mkfifo(f / "a.mp4") or f / "a.mp4", "is no file; give a video file"),
    ("not there", lambda f: f / "a.mp4", "there is no such video"),
    ("no images", lambda f: f, "has no images; looked for"),
    ("images one below", lambda f: images("1.png")(f).parent, "Its folders have some (images): give one of them"),
    ("one number twice", images("1.png", "01.png"), "01.png and 1.png have one number; keep one file a frame"),
    ("two endings of one number", images("1.png", "1.bmp", "2.png", "2.bmp"), "have one number, and so have 1 others"),
    ("two sizes", images("1.png", more=lambda f: Image.new("RGB", (20, 48)).save(f / "2.png")), "2.png: is 20x48"),
    ("two ways up", images("1.jpg", more=lambda f: save(f / "2.jpg", 0, exif=turned(6))), "2.jpg: is 32x48 pixels"),
    ("a strip", holding("a.png", png_bomb(2000, 20)), "is 2000x20 pixels; expected a long side of at most 16 times"),
    ("nothing usable", images(more=lambda f: (f / "1.png").touch()), "holds no frame of video that can be read"),
    ("a huge PNG", holding("a.png", png_bomb(30000, 30000)), "has more than 67108864 pixels by its header"),
    ("a large PNG", holding("a.png", png_bomb(9000, 9000)), "is 9000x9000 pixels by its header, expected at most"),
    ("a huge JPEG", holding("a.jpg", jpeg_bomb()), "has more than 67108864 pixels by its header"),
    ("a huge film", holding("a.y4m", b"YUV4MPEG2 W30000 H30000 F25:1 C420jpeg\nFRAME\n" + bytes(99)), "a.y4m: "),
    ("a film of huge pictures", in_a_film, "holds no frame of video that can be read"),
    ("huge pictures one after the other", holding("a.mjpeg", 3 * jpeg_bomb()), "has no picture size that can be read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "sentence"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_no_video_is_a_sentence(name: str, make, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(VdakitError) as refused:
        list(open_video(make(tmp_path)).frames())
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 1


@pytest.mark.slow
def test_what_is_too_large_takes_no_memory(tmp_path: Path) -> None:
    """The largest of a process that opens all of them, less what it needs without: what they cost."""
    makers = (holding("a.png", png_bomb(30000, 30000)), holding("a.mjpeg", 3 * jpeg_bomb()), in_a_film)
    paths = [str(make(tmp_path)) for make in makers]
    program = (
        "import sys\n"
        "from tests.memory import peak_kib\n"
        "from vdaprep.errors import VdakitError\n"
        "from vdatrain.inference.video_reader import open_video\n"
        "before = peak_kib()\n"
        "for path in sys.argv[1:]:\n"
        "    try: list(open_video(path).frames())\n"
        "    except VdakitError: print('refused')\n"
        "print(peak_kib() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    *refused, kilobytes = done.stdout.split()
    assert refused == 3 * ["refused"]
    assert int(kilobytes) < 200_000
