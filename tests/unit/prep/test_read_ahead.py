"""Files are read before they are asked for, a few of them, and with the same outcome."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RawTree
from vdaprep import sources
from vdaprep.conversion.encode.encoder import _FRAMES_AHEAD, ClipEncoder
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import make_plan
from vdaprep.errors import FrameError
from vdaprep.raw.prefetch import ReadAhead
from vdaprep.raw.tree import Location, Reader
from vdaprep.shards.records import Rejection
from vdaprep.shards.writer import EncodedClip
from vdaprep.sources import _manifest

FILES = [Location("", f"{number}.png") for number in range(6)]


class Recorder(Reader):
    """Says of every file who reads it and when; those in `missing` are not there."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.names: list[str] = []
        self.threads: set[int] = set()
        self.missing: set[str] = set()

    def read(self, location: Location) -> bytes:
        self.names.append(location.member)
        self.threads.add(threading.get_ident())
        if location.member in self.missing:
            raise FrameError(str(location), "is missing")
        return location.member.encode() if location in FILES else super().read(location)

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.names) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.fixture
def ahead(recorder: Recorder) -> Iterator[ReadAhead]:
    with ReadAhead(recorder) as reader:
        yield reader


def test_what_is_expected_is_read_in_order_in_one_other_thread(recorder: Recorder, ahead: ReadAhead) -> None:
    ahead.expect(FILES[:3])
    recorder.wait_for(3)
    assert [ahead.read(file) for file in FILES[:4]] == [b"0.png", b"1.png", b"2.png", b"3.png"]
    assert recorder.names == ["0.png", "1.png", "2.png", "3.png"]
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads


def test_what_is_still_expected_is_not_read_again(recorder: Recorder, ahead: ReadAhead) -> None:
    ahead.expect(FILES[:2])
    ahead.expect(FILES[1:4])
    assert [ahead.read(file) for file in FILES[1:4]] == [b"1.png", b"2.png", b"3.png"]
    assert [name for name in recorder.names if name != "0.png"] == ["1.png", "2.png", "3.png"]


def test_errors_come_when_the_file_is_asked_for(recorder: Recorder, ahead: ReadAhead) -> None:
    recorder.missing.add("1.png")
    ahead.expect(FILES[:3])
    recorder.wait_for(3)
    assert ahead.read(FILES[0]) == b"0.png"
    with pytest.raises(FrameError, match=r"^1.png: is missing"):
        ahead.read(FILES[1])
    assert ahead.read(FILES[2]) == b"2.png"


def test_it_rests_and_goes_on(recorder: Recorder, ahead: ReadAhead) -> None:
    before = set(threading.enumerate())
    ahead.expect(FILES[:2])
    assert len(set(threading.enumerate()) - before) == 1
    ahead.rest()
    assert set(threading.enumerate()) <= before
    ahead.rest()
    assert ahead.read(FILES[5]) == b"5.png"
    ahead.close()
    assert set(threading.enumerate()) <= before


class Clips:
    """The toy data set's plan, and its clips encoded through a Recorder, one at a time."""

    def __init__(self, raw: RawTree) -> None:
        plan = make_plan("tartanair", raw=raw.root, settings=Settings(clip_frames=7), selection=Selection())
        self.planned = [(shard.split, clip) for shard in plan.shards for clip in shard.clips]
        self.rejected: list[Rejection] = []
        self.recorder = Recorder(raw.root)
        self.encoder = ClipEncoder(
            dataset=plan.dataset,
            source=sources.load(plan.dataset),
            reader=self.recorder,
            options=plan.settings.source,
            encoding=plan.settings.encoding(_manifest.load(plan.dataset)),
        )

    def encode(self, *, on_frame: Callable[[], None] = lambda: None) -> Iterator[EncodedClip]:
        for split, clip in self.planned:
            yield from self.encoder.encode(clip, split=split, rejected=self.rejected, on_frame=on_frame)


def test_clips_and_rejections_do_not_depend_on_it(raw: RawTree, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = raw.root / "abandonedfactory/Easy/P000"
    (folder / "image_left/000003_left.png").write_bytes(b"no PNG")
    (folder / "depth_left/000008_left_depth.npy").unlink()
    ahead = Clips(raw)
    (folder / "depth_left/000009_left_depth.npy").unlink()  # after the plan was made
    found = list(ahead.encode())
    monkeypatch.setattr(ReadAhead, "expect", lambda self, locations: None)
    monkeypatch.setattr(ReadAhead, "read", lambda self, location: self._reader.read(location))
    plain = Clips(raw)
    plain.planned = ahead.planned
    assert found == list(plain.encode())
    assert ahead.rejected == plain.rejected
    assert [item.file.rpartition("/")[2] for item in plain.rejected] == [
        "000003_left.png",
        "000008_left.png",
        "000009_left_depth.npy",
    ]


def test_no_more_is_read_ahead_than_a_few_frames(raw: RawTree) -> None:
    clips = Clips(raw)
    done = 0

    def on_frame() -> None:
        nonlocal done
        done += 1
        time.sleep(0.005)  # the reading thread could have gone through all of it
        frames = {name for name in clips.recorder.names if "image" in name}
        assert len(frames) <= done + _FRAMES_AHEAD + len(clips.planned)  # before each clip is a frame of another

    list(clips.encode(on_frame=on_frame))
    assert done == sum(clip.num_frames for _, clip in clips.planned)


def test_the_next_frames_are_read_while_one_is_encoded(raw: RawTree) -> None:
    clips = Clips(raw)
    first = 0

    def on_frame() -> None:
        nonlocal first
        first += 1
        if first == 1:  # its own files, those of the next ones, and the poses
            clips.recorder.wait_for(2 * (1 + _FRAMES_AHEAD) + 1)

    list(clips.encode(on_frame=on_frame))


def test_no_thread_outlives_a_clip(raw: RawTree) -> None:
    before = set(threading.enumerate())  # those of other tests may end meanwhile
    clips = Clips(raw)
    started = clips.encode(on_frame=lambda: None)
    next(started)
    started.close()
    assert set(threading.enumerate()) <= before

    def fail() -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        list(clips.encode(on_frame=fail))
    assert set(threading.enumerate()) <= before
