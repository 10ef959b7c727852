"""Shards as a stranger may make them: whatever stands in them, their checksums agree; and commands, measured."""

import copy
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vdaprep.shards import codec, depth_codes
from vdaprep.shards.canonical import canonical_json, crc32, sealed_json
from vdaprep.shards.metadata import DepthSpec, DiffSpec
from vdaprep.shards.tar import header

FRAMES, HEIGHT, WIDTH = 3, 24, 32
LIMIT_KIB = 1 << 20
OPTIONS = {
    "clip_frames": 64, "short_side": 540, "frame_stride": 1,
    "depth": {"kind": "linear", "relative_error": 0.0, "unit_m": 0.01},
    "diff": {"scale": 4, "step": 2},
}  # fmt: skip


@dataclass
class Stranger:
    """A data set of one shard of one clip; what a test changes of it before `write` is what the files say."""

    meta: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(_META))
    """The clip's metadata."""
    members: dict[str, bytes] = field(default_factory=lambda: _members())
    """Members of frames by the rest of their names, `f000.rgb.jpg`."""
    key: str = "toy-walk-000000"
    """The clip's key."""
    record: dict[str, Any] = field(default_factory=dict)
    """What stands in the record instead of what is true."""
    entry: dict[str, Any] = field(default_factory=dict)
    """The same of the clip's entry."""
    dataset: dict[str, Any] = field(default_factory=dict)
    """The same of `dataset.json`."""
    summary: dict[str, Any] = field(default_factory=dict)
    """The same of the shard's entry there."""
    raw_meta: bytes | None = None
    """The metadata's bytes, instead of `meta`."""
    of_tar: Callable[[bytes], bytes] = lambda data: data
    """Changes the tar's bytes, all of which are summed up afterwards."""

    def write(self, folder: Path) -> Path:
        """Write the data set's files; returns its folder."""
        split = folder / "train"
        split.mkdir(parents=True, exist_ok=True)
        tar, entry, kinds = self._tar()
        (split / "shard-0001.tar").write_bytes(tar)
        facts = {"name": "shard-0001.tar", "bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
        record = {
            "schema_version": 1, "tar": facts, "clips": [{**entry, **self.entry}], "options": OPTIONS, "plan": "toy",
            "kinds": kinds, "rejected": [], "clamped_near": 0, **self.record,
        }  # fmt: skip
        data = sealed_json(record)
        (split / "shard-0001.json").write_bytes(data)
        summary = {
            "split": "train", **facts, "record_sha256": hashlib.sha256(data).hexdigest(), "clips": 1, "frames": FRAMES,
            **self.summary,
        }  # fmt: skip
        dataset = {
            "schema_version": 1, "dataset": "toy", "source": {}, "options": OPTIONS, "splits": {"train": ["walk"]},
            "totals": {"clips": 1, "frames": FRAMES, "bytes": len(tar), "clamped_near": 0,
                       "bytes_by_kind": {kind: size for kind, (_, size) in kinds.items()}},
            "shards": [summary], "rejected": [], **self.dataset,
        }  # fmt: skip
        (folder / "dataset.json").write_bytes(sealed_json(dataset))
        return folder

    def _tar(self) -> tuple[bytes, dict[str, Any], dict[str, list[int]]]:
        frames = sorted({name[:4] for name in self.members})
        meta = json.dumps(self.meta).encode() if self.raw_meta is None else self.raw_meta
        meta = canonical_json(self.meta) if self.raw_meta is None and _is_plain(self.meta) else meta
        parts = [_member(f"{self.key}.json", meta)]
        kinds = {"json": [1, len(meta)]}
        for frame in frames:
            part = b""
            for name, data in self.members.items():
                if name.startswith(frame):
                    part += _member(f"{self.key}.{name}", data)
                    count, size = kinds.get(name[5:], [0, 0])
                    kinds[name[5:]] = [count + 1, size + len(data)]
            parts.append(part)
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        tar = b"".join(parts)
        tar = self.of_tar(tar + bytes(1024 + -(len(tar) + 1024) % 10240))
        sums = [crc32(tar[a:b]) for a, b in zip(starts, starts[1:], strict=False)]
        entry = {
            "key": self.key, "offset": 0, "bytes": starts[-1], "frames": len(frames), "frame_offsets": starts[1:-1],
            "crc32": sums,
        }  # fmt: skip
        return tar, entry, kinds


def _is_plain(value: object) -> bool:
    try:
        canonical_json(value)
    except ValueError:
        return False
    return True


def _member(name: str, data: bytes) -> bytes:
    return header(name, len(data)) + data + bytes(-len(data) % 512)


_META: dict[str, Any] = {
    "schema_version": 1, "dataset": "toy", "split": "train", "trajectory": "walk", "frame_ids": [0, 1, 2],
    "height": HEIGHT, "width": WIDTH, "intrinsics": [[30.0, 30.0, 15.5, 11.5]] * FRAMES,
    "camera_to_world": [np.eye(4).tolist()] * FRAMES, "depth": OPTIONS["depth"], "disparity_min": 0.2,
    "disparity_max": 0.25, "diff": OPTIONS["diff"], "diff_valid": [False, True, True], "source": {"layout": "v1"},
}  # fmt: skip


def _members() -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    depth_m = np.full((HEIGHT, WIDTH), 5, np.float32)
    depth_m[: HEIGHT // 2] = 4
    depth, _ = codec.encode_depth(depth_m, DepthSpec("linear", 0.0, unit_m=0.01))
    for frame in range(FRAMES):
        rgb = np.full((HEIGHT, WIDTH, 3), 60 + 10 * frame, np.uint8)
        shrunk = codec.shrink(rgb, DiffSpec(4, 2))
        before = None if frame == 0 else shrunk - 10
        found[f"f{frame:03d}.rgb.jpg"] = codec.encode_rgb(rgb, quality=95)
        found[f"f{frame:03d}.depth.zst"] = depth
        found[f"f{frame:03d}.diff.zst"] = codec.encode_diff(shrunk, before, DiffSpec(4, 2))
    return found


# ----------------------------------------------------------------------------------------------------------- version 2

GROUP = 2  # frames of a group, so that the last of the three has one of its own
_DEPTHS = {
    "nibbles": DepthSpec("linear", 0.0, unit_m=0.01, packing="nibbles"),
    "sparse": DepthSpec("linear", 0.0, unit_m=0.01, packing="sparse"),
    "interpolation": DepthSpec("log", 0.0022, near_m=0.1, far_m=100.0, packing="interpolation", steps=3),
}


def packed(rgb: str, packing: str) -> Stranger:
    """Return a data set of version 2, whole: frames in groups of `h264` or `av1`, depth in a packing."""
    depth = _DEPTHS[packing]
    diff = DiffSpec(4, 2, "decoded")
    options = {**OPTIONS, "depth": depth.to_json(), "diff": diff.to_json(), "rgb": f"{rgb}:20"}
    _, codes = _coded(depth)
    low, high = depth_codes.disparity_range(codes, depth) or (0.0, 0.0)
    found = Stranger(
        members=dict(_packed_members(rgb, packing)),
        record={"schema_version": 2, "options": options},
        dataset={"schema_version": 2, "options": options},
    )
    found.meta |= {
        "schema_version": 2, "depth": depth.to_json(), "diff": diff.to_json(), "disparity_min": low,
        "disparity_max": high, "rgb": {"codec": rgb, "group": GROUP},
    }  # fmt: skip
    return found


@functools.cache
def _packed_members(rgb: str, packing: str) -> dict[str, bytes]:
    frames = [np.full((HEIGHT, WIDTH, 3), 60 + 10 * frame, np.uint8) for frame in range(FRAMES)]
    data, _ = _coded(_DEPTHS[packing])
    found: dict[str, bytes] = {}
    for frame in range(FRAMES):
        if frame % GROUP == 0:
            found[f"f{frame:03d}.rgb.mp4"] = codec.encode_group(frames[frame : frame + GROUP], codec=rgb, crf=20)
        found[f"f{frame:03d}.depth.zst"] = data
    return found


def _coded(depth: DepthSpec) -> tuple[bytes, np.ndarray]:
    """Return a frame's depth, unknown and sky in it, as bytes and as the codes that these decode to."""
    depth_m = np.linspace(4, 5, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH).round(2)
    depth_m[0, :5], depth_m[5, :7] = np.nan, np.inf
    data, _ = codec.encode_depth(depth_m, depth)
    return data, codec.unpack_codes(data, depth, height=HEIGHT, width=WIDTH)


# ------------------------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True)
class Measured:
    """How commands ended that ran one after the other in a process of their own."""

    outcomes: list[tuple[int, str]]
    """Exit code and what was printed, stdout and stderr, of each."""
    peak_kib: int
    """The most memory that the process had at once."""


_CHILD = """
import contextlib, importlib, io, json, sys, traceback
from tests.memory import peak_kib
program, commands, found = sys.argv[1], json.loads(sys.argv[2]), []
cli = importlib.import_module(program + ".cli")
for arguments in commands:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    sys.argv, code = [program, *arguments], 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 99
            traceback.print_exc()
    found.append((code, out.buffer.getvalue().decode("utf-8", "replace")))
print(json.dumps([found, peak_kib()]))
"""


def measure(program: str, commands: Sequence[Sequence[object]], *, timeout_s: float = 120) -> Measured:
    """Run commands of vdaprep or vdatrain in a process of their own."""
    texts = json.dumps([list(map(str, command)) for command in commands])
    environment = {**os.environ, "COLUMNS": "160", "PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, program, texts], stdout=out, stderr=out, env=environment
        )
        timer = threading.Timer(timeout_s, child.kill)
        timer.start()
        child.wait()
        timer.cancel()
        out.seek(0)
        data = out.read()
    assert child.returncode == 0, data.decode("utf-8", "replace")
    found, peak_kib = json.loads(data.splitlines()[-1])
    return Measured([(code, text) for code, text in found], peak_kib)
