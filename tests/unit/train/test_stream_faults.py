"""What can be wrong with shards while they are read: one sentence that names shard and clip, never a hang."""

import io
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import zstandard

from vdaprep.errors import ShardError, UsageError, VdakitError
from vdaprep.shards import codec
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip
from vdaprep.shards.records import ClipEntry
from vdaprep.storage.range_reader import LocalFile
from vdatrain.data import samples
from vdatrain.data.sampler import DistributedPositions, EvalSampler, Window, WindowSampler, WindowShape
from vdatrain.data.samples import read_window
from vdatrain.data.stream import FaultPolicy, stream_batches


@pytest.fixture
def copied(tmp_path, toy_shards):
    shutil.copytree(toy_shards, tmp_path / "shards")
    return open_shards(tmp_path / "shards").clips(split="train")


@pytest.fixture(scope="module")
def order(toy_shards):
    lengths = tuple(clip.num_frames for clip in open_shards(toy_shards).clips(split="train"))
    return WindowSampler(lengths, WindowShape(4), seed=3)


def _flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def _spoil(clips, window, *, frame=1):
    """Flip a byte of one frame of a window."""
    clip = clips[window.clip]
    start, stop = clip.entry.frame_range(window.first + frame, 1)
    _flip_byte(clip.tar, (start + stop) // 2)
    return clip


def _take(clips, order, *, positions, workers=0, count=6, faults=FaultPolicy()):  # noqa: B008 - it is frozen
    with closing(stream_batches(clips, order, positions=positions, workers=workers, faults=faults)) as batches:
        return [
            [(sample.key, sample.window, int(sample.rgb.sum())) for sample in batch]
            for batch in itertools.islice(batches, count)
        ]


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["frame", "metadata"])
def test_a_flipped_byte_is_named_when_its_batch_comes(copied, order, where, workers):
    window = order[2]
    clip = copied[window.clip]
    start, stop = clip.entry.frame_range(window.first + 1, 1) if where == "frame" else clip.entry.meta_range()
    _flip_byte(clip.tar, (start + stop) // 2)
    bad = [i for i in range(3) if order[i].clip == window.clip] if where == "metadata" else [2]
    with closing(stream_batches(copied, order, positions=DistributedPositions(1), workers=workers)) as batches:
        for _ in range(bad[0]):
            next(batches)
        with pytest.raises(ShardError, match="differs from its checksum") as caught:
            next(batches)
    text = str(caught.value)
    assert str(clip.tar) in text
    assert clip.entry.key in text
    assert "\n" not in text
    assert type(caught.value) is ShardError


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tar_that_is_gone_or_shrinks_while_training(copied, order, workers):
    clip = copied[order[0].clip]
    data = clip.tar.read_bytes()
    clip.tar.unlink()
    with pytest.raises(ShardError, match=r"cannot be read for clip .* \(No such file or directory\)\.$"):
        _take(copied, order, positions=DistributedPositions(1), workers=workers)
    clip.tar.write_bytes(data[: clip.entry.frame_range(order[0].first, 4)[1] - 100])
    with pytest.raises(ShardError, match=f"{clip.tar}: ends inside clip {clip.entry.key}"):
        _take(copied, order, positions=DistributedPositions(1), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_that_does_not_suffice_is_one_sentence(copied, order, workers, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(samples, "_buffer", no_memory)
    with pytest.raises(VdakitError, match=r"memory does not suffice to unpack 4 frames of clip .*; use fewer"):
        _take(copied, order, positions=DistributedPositions(1), workers=workers, faults=FaultPolicy(skip_bad=9))


def test_a_mistake_of_the_programs_own_is_not_hidden(copied, order, monkeypatch):
    monkeypatch.setattr(codec, "decompress_depth", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _take(copied, order, positions=DistributedPositions(1), workers=2, faults=FaultPolicy(skip_bad=9))


# ------------------------------------------------------------------------------------------------------------ skip bad


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 3])
def test_a_bad_window_is_replaced_the_same_way_for_all(copied, order, ranks, workers):
    whole = _take(copied, order, positions=DistributedPositions(4), count=5)
    _spoil(copied, order[2])
    said: list[str] = []
    faults = FaultPolicy(skip_bad=9, on_skip=said.append)
    parts = [
        _take(
            copied,
            order,
            positions=DistributedPositions(4 // ranks, rank, world=ranks),
            workers=workers,
            count=5,
            faults=faults,
        )
        for rank in range(ranks)
    ]
    found = [item for batches in zip(*parts, strict=True) for items in zip(*batches, strict=True) for item in items]
    expected = [item for batch in whole for item in batch]
    changed = [position for position in range(20) if found[position] != expected[position]]
    assert 2 in changed
    assert len(said) >= len(changed)
    assert [window.position for _, window, _ in found] == list(range(20))
    for position in changed:
        later = order[position + order.windows_per_epoch]
        if position == 2:
            assert found[position][1] == replace(later, position=position)
    assert all("Another window takes its place (" in sentence and "differs from" in sentence for sentence in said)


def test_warnings_are_counted_and_come_to_an_end(copied, order):
    for clip in copied:
        _flip_byte(clip.tar, (clip.entry.meta_range()[0] + clip.entry.meta_range()[1]) // 2)
    said: list[str] = []
    with pytest.raises(ShardError, match=r"That is one more than --skip-bad 3 lets pass\.$") as caught:
        _take(
            copied,
            order,
            positions=DistributedPositions(2),
            workers=2,
            faults=FaultPolicy(skip_bad=3, on_skip=said.append),
        )
    assert "\n" not in str(caught.value)
    assert [sentence.rpartition("(")[2] for sentence in said] == [f"{n} of at most 3)." for n in (1, 2, 3)]


def test_the_count_runs_on_over_the_windows(copied, order):
    bad = _spoil(copied, order[0])
    said: list[str] = []
    with pytest.raises(ShardError, match="one more than --skip-bad 2"):
        _take(
            copied,
            order,
            positions=DistributedPositions(1),
            count=500,
            faults=FaultPolicy(skip_bad=2, on_skip=said.append),
        )
    assert len(said) == 2
    assert all(str(bad.tar) in sentence for sentence in said)


def test_an_evaluation_skips_nothing(copied):
    order = EvalSampler(tuple(clip.num_frames for clip in copied), WindowShape(4))
    _spoil(copied, order[0])
    with pytest.raises(UsageError, match="--skip-bad is for training"):
        _take(copied, order, positions=DistributedPositions(1), faults=FaultPolicy(skip_bad=1))


@pytest.mark.parametrize("options", [{"skip_bad": -1}, {"stall_timeout_s": -0.5}])
def test_faults_without_sense_are_refused(options):
    with pytest.raises(UsageError, match="have to be 0 or more"):
        FaultPolicy(**options)


# ------------------------------------------------------------------------------------------------------------- no hang


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_read_that_does_not_come_back_is_named(copied, order, workers, tmp_path, monkeypatch):
    clip = copied[order[1].clip]
    others = [c.tar for c in copied if c.tar != clip.tar]
    assert copied[order[0].clip].tar in others
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    open_file = LocalFile.__init__

    def open_or_wait(file: LocalFile, path: str) -> None:
        """Open a file, but wait for the tar as for a disk that does not answer."""
        if str(path) == str(clip.tar):
            os.close(os.open(pipe, os.O_RDONLY))  # which waits for a writer
        open_file(file, path)

    monkeypatch.setattr(LocalFile, "__init__", open_or_wait)
    try:
        faults = FaultPolicy(stall_timeout_s=2, skip_bad=5)  # time enough for the windows that are well
        with pytest.raises(VdakitError, match=r"has not ended after 2 s; .* --stall-timeout") as caught:
            _take(copied, order, positions=DistributedPositions(1), workers=workers, faults=faults)
        assert str(clip.tar) in str(caught.value)
        assert clip.entry.key in str(caught.value)
    finally:
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))


_LEAVES = """
import os, sys
from pathlib import Path
from vdaprep.shards.dataset import open_shards
from vdaprep.storage.range_reader import LocalFile
from vdatrain.data.sampler import DistributedPositions, WindowSampler, WindowShape
from vdatrain.data.stream import FaultPolicy, stream_batches
from vdaprep.errors import VdakitError

clips = open_shards(Path(sys.argv[1])).clips(split="train")
order = WindowSampler(tuple(clip.num_frames for clip in clips), WindowShape(4), seed=3)
reading = stream_batches(clips, order, positions=DistributedPositions(2), workers=3)
next(reading)  # and left open, its threads at work
pipe = Path(sys.argv[1], "pipe")
os.mkfifo(pipe)
LocalFile.__init__ = lambda file, path: os.close(os.open(pipe, os.O_RDONLY))  # which waits for a writer
stalled = stream_batches(clips, order, positions=DistributedPositions(1), faults=FaultPolicy(stall_timeout_s=0.2))
try:
    next(stalled)
except VdakitError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_program_ends_whatever_its_threads_are_at(copied, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _LEAVES, str(tmp_path / "shards")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "has not ended after 0.2 s" in result.stdout


# ------------------------------------------------------------------------------------------------------------- hostile


def _forge(folder, clip, change):
    """Write a clip again, each member as `change(name, data)` gives it, with checksums that are right."""
    with tarfile.open(clip.tar) as tar:
        members = [(item.name, tar.extractfile(item).read()) for item in tar]
    members = [item for item in members if item[0].startswith(clip.entry.key)]
    out, starts = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            if name.endswith((".json", ".rgb.jpg")):
                starts.append(out.tell())
            for changed, content in change(name, data):
                info = tarfile.TarInfo(changed)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        starts.append(out.tell())
    path = folder / "forged.tar"
    path.write_bytes(out.getvalue())
    return Clip(clip.dataset, path, _entry(clip, out.getvalue(), starts))


def _entry(clip, data, starts):
    sums = tuple(zlib.crc32(data[a:b]) for a, b in itertools.pairwise(starts))
    frames = tuple(starts[1:-1])
    return ClipEntry(clip.entry.key, starts[0], starts[-1] - starts[0], len(frames), frames, crc32=sums)


class _Bomb:
    def __reduce__(self):
        return Path.touch, (Path("pickle-was-here"),)


def test_a_pickle_stays_bytes(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps(_Bomb())
    window = Window(0, 0, 0, WindowShape(2))
    plain = read_window(copied[0], window)

    def beside(name, data):
        return [(name, data), (f"{name}.pyd", evil), (f"{name}.pkl", evil), (f"{name}.pth", evil)]

    sample = read_window(_forge(tmp_path, copied[0], beside), window)
    assert (sample.rgb == plain.rgb).all()

    def renamed(name, data):
        return [(name.replace("rgb.jpg", "rgb.pyd"), evil if "rgb" in name else data)]

    with pytest.raises(ShardError, match=r"has no member .*f000\.rgb\.jpg; vdaprep repair makes it again"):
        read_window(_forge(tmp_path, copied[0], renamed), window)
    for kind, says in [("rgb.jpg", "not a whole JPEG"), ("depth.zst", "not readable as zstd"), ("json", "not UTF-8")]:
        forged = _forge(tmp_path, copied[0], lambda name, data, kind=kind: [(name, evil if kind in name else data)])
        with pytest.raises(ShardError, match=says) as caught:
            read_window(forged, window)
        assert copied[0].entry.key in str(caught.value)
    assert not Path("pickle-was-here").exists()
    pickle.loads(evil)  # it would have worked
    assert Path("pickle-was-here").exists()


def _packed(size):
    return zstandard.ZstdCompressor(level=1).compress(bytes(size))


def _unsized(size):
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return packer.compress(bytes(size)) + packer.flush()


def _picture(height, width):
    return cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("f001.depth.zst", _packed(1 << 28), r"frame 1: holds 268435456 bytes when unpacked, expected 9600"),
        ("f001.diff.zst", _packed(1 << 28), r"frame 1: holds 268435456 bytes when unpacked, expected 900"),
        ("f001.depth.zst", _unsized(1 << 28), r"frame 1: does not say how many bytes it holds, expected 9600"),
        ("f001.rgb.jpg", _picture(3000, 4000), r"frame 1: is 4000x3000 pixels, its metadata says 80x60"),
        ("f001.rgb.jpg", b"\xff\xd8\xff\xd9", r"frame 1: the JPEG does not say its size"),
    ],
)
def test_what_unpacks_to_more_than_it_should_is_not_unpacked(copied, tmp_path, monkeypatch, kind, content, says):
    forged = _forge(tmp_path, copied[0], lambda name, data: [(name, content if name.endswith(kind) else data)])
    sizes: list[int] = []
    decode = cv2.imdecode

    def decode_and_note(data, flags):
        image = decode(data, flags)
        sizes.append(image.size)
        return image

    monkeypatch.setattr(cv2, "imdecode", decode_and_note)
    with pytest.raises(ShardError, match=says) as caught:
        read_window(forged, Window(0, 0, 0, WindowShape(2)))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert max(sizes, default=0) <= 60 * 80 * 3


def test_metadata_that_ask_for_too_much_memory_are_refused(copied, tmp_path):
    huge = copied[0].meta.to_bytes().replace(b'"height":60', b'"height":60000').replace(b'"width":80', b'"width":80000')
    forged = _forge(tmp_path, copied[0], lambda name, data: [(name, huge if name.endswith(".json") else data)])
    with pytest.raises(ShardError, match=r"is 80000x60000 pixels by its header, expected at most"):
        read_window(forged, Window(0, 0, 0, WindowShape(2)))


def test_metadata_of_another_number_of_frames_are_refused(copied, tmp_path):
    meta = copied[1].meta
    forged = _forge(
        tmp_path, copied[0], lambda name, data: [(name, meta.to_bytes() if name.endswith(".json") else data)]
    )
    with pytest.raises(ShardError, match=r"has metadata of 3 frames, its record says 9"):
        read_window(forged, Window(0, 0, 0, WindowShape(2)))


@pytest.mark.parametrize(
    "size", [b"99999999999\0", b"-0000000777\0", b"0_000000777\0", b"\x80" + bytes(11), b"\0" * 12]
)
def test_sizes_in_a_tar_that_cannot_be_are_refused(copied, tmp_path, size):
    clip = copied[0]
    data = bytearray(clip.tar.read_bytes())
    begin = clip.entry.frame_offsets[0]
    data[begin + 124 : begin + 136] = size
    path = tmp_path / "forged.tar"
    path.write_bytes(data)
    starts = [clip.entry.offset, *clip.entry.frame_offsets, clip.entry.offset + clip.entry.bytes]
    forged = Clip(clip.dataset, path, _entry(clip, bytes(data), starts))
    with pytest.raises(ShardError, match=r"forged\.tar, clip alpha-walk-00-000000: holds bytes that are no member"):
        read_window(forged, Window(0, 0, 0, WindowShape(2)))


@pytest.mark.parametrize("kind", ["f001.rgb.jpg", "f001.depth.zst", "f001.diff.zst", "json"])
def test_members_that_are_not_there_are_named(copied, tmp_path, kind):
    forged = _forge(tmp_path, copied[0], lambda name, data: [("other" if name.endswith(kind) else name, data)])
    with pytest.raises(
        ShardError, match=rf"has no member {copied[0].entry.key}\.{kind}; vdaprep repair makes it again"
    ):
        read_window(forged, Window(0, 0, 0, WindowShape(2)))


def test_a_picture_is_read_as_it_is_stored(copied, tmp_path):
    """A note in a JPEG may tell a viewer to turn it; nothing turns its depth."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    note = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif

    def turned(name, data):
        return [(name, data[:2] + note + data[2:] if name.endswith("f000.rgb.jpg") else data)]

    window = Window(0, 0, 0, WindowShape(2))
    assert (read_window(_forge(tmp_path, copied[0], turned), window).rgb == read_window(copied[0], window).rgb).all()


def test_a_forged_clip_that_is_not_changed_is_read(copied, tmp_path):
    forged = _forge(tmp_path, copied[0], lambda name, data: [(name, data)])
    window = Window(0, 0, 1, WindowShape(3))
    assert (read_window(forged, window).depth_bytes == read_window(copied[0], window).depth_bytes).all()
    assert isinstance(forged.meta, ClipMeta)
