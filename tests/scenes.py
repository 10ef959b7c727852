"""Shards of made-up scenes under the names that benchmarks look for, written by the converter's own writer."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vdaprep.shards import codec, depth_codes
from vdaprep.shards.metadata import ClipMeta, DepthSpec
from vdaprep.shards.names import DATASET_FILE, clip_key, record_name, shard_name
from vdaprep.shards.records import DatasetRecord, Rejection, ShardSummary
from vdaprep.shards.writer import EncodedClip, write_shard
from vdaprep.storage.output import LocalOutput

SIZE = (64, 80)
FIRST_NUMBERS = {"sintel": 1, "kitti": 5, "bonn": 0, "scannet": 0, "nyuv2": 0}
PREFIXES: dict[str, str] = {}  # of the names of trajectories in shards, before those of scenes
MILLIMETRES = DepthSpec(kind="linear", unit_m=0.001, relative_error=0.0)
FOCAL_PX = 70.0
STEP_M = 0.2  # of the camera from frame to frame


@dataclass(frozen=True)
class Shot:
    """What is written of a scene."""

    scene: str
    """Name of the trajectory."""
    frame_ids: Sequence[int]
    """Numbers of its frames; a clip for each run of successive ones."""
    poses: bool = True
    """Whether there are any."""
    apart_after: int | None = None
    """Number of the frame behind which the camera is a kilometre away and turned back, if any."""


def true_depth_m(frame_id: int, size: tuple[int, int] = SIZE) -> Float32[np.ndarray, "h w"]:
    """A wall at 6 m, slanted and with a step, that comes nearer by 5 cm a frame; one corner is unknown."""
    height, width = size
    y, x = np.mgrid[:height, :width] / height
    depth_m = 6 - 0.05 * (frame_id % 60) + 1.5 * x + 0.7 * y
    depth_m[height // 3 : height // 2, width // 4 : width // 2] -= 2
    depth_m[-4:, -4:] = np.nan
    return np.round(depth_m, 3).astype(np.float32)


def write_scenes(
    folder: Path,
    shots: Sequence[Shot],
    *,
    size: tuple[int, int] = SIZE,
    options: Mapping[str, Any] | None = None,
    rejected: Sequence[Rejection] = (),
) -> Path:
    """Write a finished data set, named as its folder, of millimetre depth without differences."""
    clips = [_clip(folder.name, shot, ids, size=size) for shot in shots for ids in _runs(shot.frame_ids)]
    options = {"rgb": "jpeg:95", **(options or {})}
    name = f"val/{shard_name(1)}"
    record = write_shard(LocalOutput(folder), name, clips, options=options, plan="made up", rejected=list(rejected))
    data = (folder / "val" / record_name(record.tar_name)).read_bytes()
    summary = ShardSummary(
        split="val",
        name=record.tar_name,
        bytes=record.tar_bytes,
        sha256=record.tar_sha256,
        record_sha256=hashlib.sha256(data).hexdigest(),
        clips=len(record.clips),
        frames=record.num_frames,
    )
    dataset = DatasetRecord(
        dataset=folder.name,
        source={},
        options=options,
        splits={"val": sorted({shot.scene for shot in shots})},
        totals={},
        shards=(summary,),
        rejected=tuple(rejected),
    )
    (folder / DATASET_FILE).write_bytes(dataset.to_bytes())
    return folder


def _runs(frame_ids: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for frame_id in frame_ids:
        if runs and frame_id == runs[-1][-1] + 1:
            runs[-1].append(frame_id)
        else:
            runs.append([frame_id])
    return runs


def _clip(dataset: str, shot: Shot, frame_ids: Sequence[int], *, size: tuple[int, int]) -> EncodedClip:
    height, width = size
    frames: list[tuple[tuple[str, bytes], ...]] = []
    for frame_id in frame_ids:
        codes, _ = depth_codes.code_depth(true_depth_m(frame_id, size), MILLIMETRES)
        grey = np.full((height, width, 3), (200, 90 + frame_id % 60, 30), np.uint8)  # red
        grey[:, frame_id % width] = 255
        frames.append(
            (("rgb.jpg", codec.encode_rgb(grey, quality=95)), ("depth.zst", codec.pack_codes(codes, MILLIMETRES)))
        )
    pose = tuple(_pose(frame_id, apart=shot.apart_after) for frame_id in frame_ids) if shot.poses else None
    meta = ClipMeta(
        dataset=dataset,
        split="val",
        trajectory=shot.scene,
        frame_ids=tuple(frame_ids),
        height=height,
        width=width,
        intrinsics=((FOCAL_PX, FOCAL_PX, width / 2 - 0.5, height / 2 - 0.5),) * len(frame_ids),
        camera_to_world=pose,
        depth=MILLIMETRES,
        disparity_min=0.05,
        disparity_max=2.0,
        diff=None,
        diff_valid=(False,) * len(frame_ids),
    )
    return EncodedClip(clip_key(dataset, shot.scene, frame_ids[0]), meta, tuple(frames), 0)


def _pose(frame_id: int, *, apart: int | None) -> tuple[tuple[float, ...], ...]:
    """Move forward, faster than the wall comes nearer, so that even the truth has a temporal error."""
    if apart is not None and frame_id > apart:
        return (-1.0, 0.0, 0.0, 1000.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, -1.0, 0.0), (0.0, 0.0, 0.0, 1.0)
    z_m = STEP_M * (frame_id % 60)
    return (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, z_m), (0.0, 0.0, 0.0, 1.0)
