"""A stranger's shards cost a sentence: no traceback, no gigabyte, no file outside the output."""

import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from tests.strangers import GROUP, HEIGHT, LIMIT_KIB, OPTIONS, WIDTH, Measured, Stranger, measure, packed
from tests.unit.prep.test_video_groups import many_pictures, patched
from vdaprep.errors import DataError
from vdaprep.shards import codec, depth_codes
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import DepthSpec

COMMANDS = ("inspect", "stats", "export", "verify")
ALL = "inspect stats export"


def _packed(size: int, *, says: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=says).compress(bytes(size))


def _meta(**values: Any) -> Stranger:
    stranger = Stranger()
    stranger.meta |= values
    return stranger


def _of_clip(**values: Any) -> Stranger:
    """Metadata and `dataset.json` that agree on names."""
    stranger = _meta(**values)
    stranger.dataset = {"dataset": stranger.meta["dataset"], "splits": {"train": [stranger.meta["trajectory"]]}}
    return stranger


def _member(name: str, data: bytes) -> Stranger:
    return Stranger(members={**Stranger().members, name: data})


def _in_group(rgb: str, spoil: Callable[[bytes], bytes], *, name: str = "f000.rgb.mp4") -> Stranger:
    """A data set of version 2 of which one member is spoilt."""
    stranger = packed(rgb, "interpolation")
    stranger.members[name] = spoil(stranger.members[name])
    return stranger


def _packed_meta(**values: Any) -> Stranger:
    stranger = packed("h264", "nibbles")
    stranger.meta |= values
    return stranger


def _jpeg(height: int, width: int, *, before: bytes = b"") -> bytes:
    """A JPEG whose frame header, after what stands `before` it, says another size."""
    good = Stranger().members["f001.rgb.jpg"]
    at = good.index(b"\xff\xc0")
    return b"\xff\xd8" + before + good[2 : at + 5] + struct.pack(">HH", height, width) + good[at + 9 :]


def _deep(levels: int) -> bytes:
    return b'{"schema_version":1,"x":' + b"[" * levels + b"]" * levels + b"}"


def _in_tar(at: int, data: bytes) -> Callable[[bytes], bytes]:
    return lambda tar: tar[:at] + data + tar[at + len(data) :]


BIG = zstandard.ZstdCompressor().compress(bytes(2 * 8192 * 8192))

# What the stranger does; a part of the sentence of `verify --deep`; which of inspect, stats and export go on.
CASES: dict[str, tuple[Callable[[], Stranger], str, str]] = {
    "good": (Stranger, "all is well (every member decoded)", ALL),
    "40000 pixels": (lambda: _meta(width=40_000, height=40_000), "is 40000x40000 pixels", ""),
    "67 million rows": (lambda: _meta(width=1, height=2**27), "height is 134217728, expected 1 to", ""),
    "a picture of 30000 pixels": (
        lambda: _member("f001.rgb.jpg", _jpeg(30_000, 30_000)), "is 30000x30000 pixels", "stats"),
    "a picture with its size hidden": (
        lambda: _member("f001.rgb.jpg", _jpeg(30_000, 30_000, before=b"\xff\x01")), "is 30000x30000 pixels", "stats"),
    "a picture with its size after filling": (
        lambda: _member("f001.rgb.jpg", _jpeg(30_000, 30_000, before=b"\xff\xff\xff\xe0\0\x04ab")),
        "is 30000x30000", "stats"),
    "depth of 256 MiB": (
        lambda: _member("f001.depth.zst", _packed(1 << 28)), "holds 268435456 bytes when unpacked", ""),
    "depth that does not say its size": (
        lambda: _member("f001.depth.zst", _packed(1 << 28, says=False)), "does not say how many bytes it holds", ""),
    "a difference of 256 MiB": (lambda: _member("f001.diff.zst", _packed(1 << 28)), "holds 268435456 bytes", "export"),
    "no zstd": (lambda: _member("f001.depth.zst", b"\x28\xb5\x2f\xfd" + bytes(9)), "shard is damaged", ""),
    "a clip of a petabyte": (lambda: Stranger(entry={"bytes": 10**15}), "clips[0].bytes is 1000000000000000", ""),
    "a clip of a petabyte, as a float": (lambda: Stranger(entry={"bytes": 1e15}), "expected a whole number", ""),
    "a clip beyond the tar": (lambda: Stranger(entry={"offset": 20_000}), "clips[0].bytes is", ""),
    "an offset below 0": (lambda: Stranger(entry={"offset": -5}), "clips[0].offset is -5", ""),
    "offsets that descend": (lambda: Stranger(entry={"frame_offsets": [9000, 5000, 1536]}), "do not ascend", ""),
    "a tar of a petabyte": (
        lambda: Stranger(
            record={"tar": {"name": "shard-0001.tar", "bytes": 10**15, "sha256": "ab" * 32}}, entry={"bytes": 10**15}
        ), "has 1536 bytes of metadata and frames of up to", ""),
    "more frames than a clip has": (lambda: Stranger(entry={"frames": 10**9}), "clips[0].frames is 1000000000", ""),
    "a member of 8 GiB": (
        lambda: Stranger(of_tar=_in_tar(124, b"77777777777\0")), "holds bytes that are no member", ""),
    "a member in base 256": (lambda: Stranger(of_tar=_in_tar(124, b"\x80" + bytes(10) + b"\x05")), "no member", ""),
    "a member that is a link": (lambda: Stranger(of_tar=_in_tar(156, b"2/etc/passwd")), "header of", ALL),
    "a member that is a device": (lambda: Stranger(of_tar=_in_tar(156, b"3")), "header of", ALL),
    "a sparse member": (lambda: Stranger(of_tar=_in_tar(156, b"S")), "header of", ALL),
    "a name of pax": (lambda: Stranger(of_tar=_in_tar(156, b"x")), "header of", ALL),
    "groups and nibbles": (lambda: packed("h264", "nibbles"), "all is well (every member decoded)", ALL),
    "groups and interpolation": (lambda: packed("av1", "interpolation"), "all is well", ALL),
    "a group of 65535 pixels": (
        lambda: _in_group("h264", lambda data: patched(data, b"avc1", 24, b"\xff" * 4)),
        "is 65535x65535 pixels", "stats"),
    "a group of a billion frames": (
        lambda: _in_group("av1", lambda data: patched(data, b"stsz", 8, b"\x7f" * 4)),
        "pictures by its header", "stats"),
    "a group of more frames than it says": (
        lambda: _in_group("av1", lambda _: many_pictures((HEIGHT, WIDTH), 48, GROUP)),
        "its packets hold", "stats"),
    "a group that metadata make large": (
        lambda: _packed_meta(width=8192, height=8192, rgb={"codec": "h264", "group": 64}),
        "8192x8192 is larger than short_side", ""),
    "a group that metadata make long": (
        lambda: _packed_meta(rgb={"codec": "h264", "group": 64}),
        "group of 3 frames in h264: it has 2 pictures", "stats"),
    "frames in no group": (lambda: _packed_meta(rgb={"codec": "h264", "group": 1}), "cannot lie in groups of 1", ""),
    "interpolated depth of 256 MiB": (
        lambda: _in_group("h264", lambda _: _packed(1 << 28), name="f001.depth.zst"), "holds 268435456 bytes", ""),
    "metadata of 5 MiB": (lambda: Stranger(raw_meta=b" " * (5 << 20)), "bytes of metadata", ""),
    "metadata that are deep": (lambda: Stranger(raw_meta=_deep(1_000_000)), "nested deeper than 32 levels", ""),
    "metadata of empty lists": (
        lambda: Stranger(raw_meta=b'{"schema_version":1,"x":[' + b"[]," * 1_300_000 + b"[]]}"),
        "x is not known here", ""),
    "metadata twice": (lambda: Stranger(raw_meta=b'{"schema_version":1,"schema_version":1}'), "is there twice", ""),
    "a pose that is nan": (
        lambda: _meta(camera_to_world=[[[float("nan")] * 4] * 4] * 3), "NaN is no number of JSON", ""),
    "a pose beyond float64": (lambda: _meta(camera_to_world=[[[10**400] * 4] * 4] * 3), "no finite number", ""),
    "a pose in words": (lambda: _meta(camera_to_world=[[["1"] * 4] * 4] * 3), "expected 3x4x4 finite numbers", ""),
    "an infinite focal length": (lambda: _meta(intrinsics=[[1e999, 1, 1, 1]] * 3), "Infinity is no number", ""),
    "a pose that squeezes": (lambda: _meta(camera_to_world=[[[0.5] * 4] * 4] * 3), "a pose that is not a rotation", ""),
    "a pose of zeros": (lambda: _meta(camera_to_world=[[[0.0] * 4] * 4] * 3), "a pose that is not a rotation", ""),
    "no focal length": (lambda: _meta(intrinsics=[[0.0, 30, 15.5, 11.5]] * 3), "that is not positive", ""),
    "a focal length below 0": (lambda: _meta(intrinsics=[[30, -30, 15.5, 11.5]] * 3), "that is not positive", ""),
    "a frame thrice": (lambda: _meta(frame_ids=[0, 0, 0]), "frame_ids do not ascend", ""),
    "frames that descend": (lambda: _meta(frame_ids=[2, 1, 0]), "frame_ids do not ascend", ""),
    "one camera too few": (lambda: _meta(intrinsics=[[30.0, 30.0, 15.5, 11.5]] * 2), "expected 3x4", ""),
    "codes beyond 16 bits": (
        lambda: _meta(depth={"kind": "log", "relative_error": 1e-9, "near_m": 0.1, "far_m": 100.0}),
        "expected at most 65534", ""),
    "metres beyond float32": (
        lambda: _meta(depth={"kind": "linear", "relative_error": 0, "unit_m": 1e300}), "depth.unit_m is 1e+300", ""),
    "a trajectory above": (lambda: _of_clip(trajectory="../../escaped"), "leads to another folder", ""),
    "a trajectory within that leads above": (lambda: _of_clip(trajectory="a/../../../escaped"), "leads to another", ""),
    "a trajectory at the root": (lambda: _of_clip(trajectory="/tmp/escaped"), "leads to another folder", ""),
    "a trajectory of Windows": (lambda: _of_clip(trajectory="..\\..\\escaped"), "leads to another folder", ""),
    "a trajectory without a name": (lambda: _of_clip(trajectory=""), "it is empty", ""),
    "a trajectory with a zero": (lambda: _of_clip(trajectory="a\0b"), "U+0000", ""),
    "a trajectory with an escape": (lambda: _of_clip(trajectory="\x1b[2J"), "U+001B", ""),
    "a trajectory that is no text": (lambda: _of_clip(trajectory="\udcff"), "U+DCFF", ""),
    "a trajectory in reverse": (lambda: _of_clip(trajectory="a\u202eb"), "U+202E", ""),
    "a long trajectory": (lambda: _of_clip(trajectory="x" * 300), "more than 255", ""),
    "markup in names": (lambda: _of_clip(dataset="[bold]", trajectory="[b]x[red]"), "is of clip bold-b-x-red", ALL),
    "a data set above": (lambda: Stranger(dataset={"dataset": "x/../../../../escaped/y"}), "leads to another", ALL),
    "a split above": (lambda: Stranger(summary={"split": "../.."}), "shards[0].split is", ALL),
    "a tar above": (lambda: Stranger(summary={"name": "../../x.tar"}), "shards[0].name is", ALL),
    "a tar that is none": (lambda: Stranger(summary={"name": "dataset.json"}), "expected the name of a tar", ALL),
    "a hash above": (lambda: Stranger(summary={"sha256": "../" * 21 + "x"}), "expected a SHA-256", ALL),
    "a key above": (lambda: Stranger(entry={"key": "../../x"}), "is no key", ""),
    "options of other types": (
        lambda: Stranger(record={"options": {**OPTIONS, "clip_frames": "many"}}), "options.clip_frames is", ""),
    "options that are null": (
        lambda: Stranger(record={"options": {**OPTIONS, "clip_frames": None}}), "was made with other options", ALL),
    "counts of other types": (lambda: Stranger(record={"kinds": {"json": [1.5, "x"]}}), "kinds.json holds 1.5", ""),
    "a list of records": (lambda: Stranger(record={"clips": {"0": 1}}), "clips is an object of 1, expected a list", ""),
    "totals of other types": (lambda: Stranger(dataset={"totals": [1]}), "totals is a list of 1", ALL),
    "a million rejected files": (
        lambda: Stranger(dataset={"rejected": [{"file": "a", "reason": "b"}] * 200_000}), "", ALL),
    "an endless evaluation range": (
        lambda: Stranger(dataset={"source": {"evaluation_max_m": -1}}), "source.evaluation_max_m", ALL),
}  # fmt: skip


@dataclass(frozen=True)
class _Ran:
    folder: Path
    measured: Measured


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> _Ran:
    """All commands on all cases, in one process, whose peak is that of the greediest."""
    folder = tmp_path_factory.mktemp("strangers") / "a" / "b" / "c" / "d"
    commands: list[list[object]] = []
    for number, (make, _, _) in enumerate(CASES.values()):
        dataset = make().write(folder / str(number) / "toy")
        tar = dataset / "train" / "shard-0001.tar"
        out = folder / str(number) / "out"
        commands += [["inspect", tar], ["stats", tar], ["export", tar, "--out", out], ["verify", dataset, "--deep"]]
    return _Ran(folder, measure("vdaprep", commands, timeout_s=600))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_strangers_shard_costs_a_sentence(case: str, ran: _Ran) -> None:
    number = list(CASES).index(case)
    _, sentence, going_on = CASES[case]
    outcomes = dict(zip(COMMANDS, ran.measured.outcomes[4 * number : 4 * number + 4], strict=True))
    for command, (code, text) in outcomes.items():
        assert "Traceback" not in text, text
        fine = command in going_on if command != "verify" else "all is well" in text
        assert code == (0 if fine else 1), (command, text)
        assert "\x1b" not in text
    assert sentence in " ".join(outcomes["verify"][1].split())
    assert {path.name for path in (ran.folder / str(number)).iterdir()} <= {"toy", "out"}


def test_no_stranger_takes_a_gigabyte_or_writes_elsewhere(ran: _Ran) -> None:
    assert ran.measured.peak_kib < LIMIT_KIB
    above = ran.folder.parents[3]
    assert not [path for path in above.rglob("*escaped*") if path.parent.name not in ("train", "toy")]
    assert [path.name for path in above.iterdir()] == ["a"]
    assert not Path("/tmp/escaped").exists()


# ------------------------------------------------------------------------------------------------------------ training

WINDOWS: dict[str, tuple[Callable[[], Stranger], str]] = {
    "a window of a gigabyte": (
        lambda: Stranger(
            meta={**Stranger().meta, "width": 8192, "height": 8192},
            members={name: BIG if "depth" in name else data for name, data in Stranger().members.items()},
        ), "asks for 996 MiB of frames at once, expected at most 512 MiB"),
    "40000 pixels": (lambda: _meta(width=40_000, height=40_000), "is 40000x40000 pixels"),
    "a clip of a petabyte": (lambda: Stranger(entry={"bytes": 10**15}), "clips[0].bytes is 1000000000000000"),
    "a data set above": (lambda: Stranger(dataset={"dataset": "x/../../../../escaped/y"}), "leads to another folder"),
    "a split above": (lambda: Stranger(summary={"split": "../.."}), "shards[0].split is"),
    "a hash above": (lambda: Stranger(summary={"sha256": "../" * 21 + "x"}), "expected a SHA-256"),
    "depth of 256 MiB": (lambda: _member("f001.depth.zst", _packed(1 << 28)), "holds 268435456 bytes when unpacked"),
}  # fmt: skip


@pytest.mark.slow
def test_a_strangers_shard_costs_training_a_sentence(tmp_path: Path) -> None:
    commands: list[list[object]] = []
    for number, (make, _) in enumerate(WINDOWS.values()):
        dataset = make().write(tmp_path / "x" / str(number) / "toy")
        commands.append(
            ["run", "--shards", dataset, "--out", tmp_path / "x" / "runs" / str(number), "--encoder", "tiny",
             "--frames", 3, "--size", 14, "--batch", 1, "--steps", 1, "--workers", 0, "--track", "none"]
        )  # fmt: skip
    found = measure("vdatrain", commands, timeout_s=300)
    for (case, (_, sentence)), (code, text) in zip(WINDOWS.items(), found.outcomes, strict=True):
        assert (code, "Traceback" in text) == (1, False), (case, text)
        assert sentence in " ".join(text.split()), case
    assert found.peak_kib < LIMIT_KIB
    assert not list(tmp_path.rglob("*gallery*"))


# ------------------------------------------------------------------------------------------------------------- servers


class _Endless(BaseHTTPRequestHandler):
    """Answers every request with bytes that do not end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        piece = b'{"a":"' + b"x" * (1 << 20)
        try:
            for _ in range(1 << 12):
                self.wfile.write(piece)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/data"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_document_without_end_is_given_up(endless: str) -> None:
    tar = f"{endless}/train/shard-0001.tar"
    found = measure("vdaprep", [["stats", tar], ["verify", tar], ["inspect", tar]])
    for code, text in found.outcomes:
        assert code == 1
        assert "Traceback" not in text
        assert "has more than 50331648 bytes" in " ".join(text.split())
    assert found.peak_kib < LIMIT_KIB
    with pytest.raises(DataError, match="has more than 50331648 bytes"):
        open_shards(endless)


@pytest.mark.parametrize("file", ["dataset.json", "train/shard-0001.json"])
def test_a_document_on_a_disk_has_the_same_budget(file: str, tmp_path: Path) -> None:
    dataset = Stranger().write(tmp_path / "toy")
    with (dataset / file).open("r+b") as document:
        document.truncate(1 << 40)  # of which the disk holds nothing
    found = measure("vdaprep", [["verify", dataset], *([["stats", dataset]] * (file != "dataset.json"))])
    for code, text in found.outcomes:
        assert (code, "has more than 50331648 bytes" in " ".join(text.split())) == (1, True)
    assert found.peak_kib < LIMIT_KIB


@pytest.mark.slow
def test_the_geometry_of_large_frames_is_measured_with_few_copies_of_them(tmp_path: Path) -> None:
    """Beyond what an empty process takes, 12 bytes a pixel: images of two frames and what decoding adds, or depth."""
    size = 4096
    depth = DepthSpec("linear", 0.0, unit_m=0.01)
    data, _ = codec.encode_depth(np.linspace(3, 9, size**2, dtype=np.float32).reshape(size, size).round(2), depth)
    low, high = depth_codes.disparity_range(codec.unpack_codes(data, depth, height=size, width=size), depth) or (0, 0)
    images = [codec.encode_rgb(np.full((size, size, 3), 90 + number, np.uint8), quality=90) for number in range(3)]
    poses = np.stack([np.eye(4)] * 3)
    poses[:, 0, 3] = 0, 0.1, 0.2
    options = {**OPTIONS, "short_side": size, "diff": None}
    stranger = _meta(
        height=size, width=size, diff=None, diff_valid=[False] * 3, disparity_min=low, disparity_max=high,
        camera_to_world=poses.tolist(), intrinsics=[[size, size, size / 2, size / 2]] * 3,
    )  # fmt: skip
    stranger.members = {
        f"f{number:03d}.{kind}": content
        for number, jpeg in enumerate(images)
        for kind, content in (("rgb.jpg", jpeg), ("depth.zst", data))
    }
    stranger.record, stranger.dataset = {"options": options}, {"options": options}
    found = measure("vdaprep", [["verify", stranger.write(tmp_path / "toy"), "--geometry"]])
    [(code, text)] = found.outcomes
    assert "3 frames, median warp error 0.000% over 98% of the known pixels; depth never varies from frame" in text
    assert code == 1
    assert found.peak_kib < 300 << 10
