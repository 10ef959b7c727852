"""Shards back to one folder a trajectory, for other programs and for the source `custom`.

OUT/TRAJECTORY/rgb/000000.png          the decoded frame; files are numbered as the frames are
OUT/TRAJECTORY/depth/000000.npy        float32, metres along z, nan unknown, inf sky; of frames with a teacher's labels
                                       instead disparity/000000.npy, in the teacher's numbers, nan unknown
OUT/TRAJECTORY/intrinsics.txt          fx fy cx cy, in pixels, a line a frame; if known of any frame, nan for others
OUT/TRAJECTORY/camera_to_world.txt     16 numbers, row by row, metres, OpenCV axes, a line a frame; if known
                                       of any frame, nan for the others
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32

from vdaprep.analysis.describe import choose_clips, open_shard
from vdaprep.errors import UsageError
from vdaprep.shards.dataset import Paths, find_shards
from vdaprep.shards.depth_codes import within_range
from vdaprep.shards.metadata import ClipMeta, DepthSpec
from vdaprep.shards.reader import Clip, StoredFrame
from vdaprep.storage.atomic import new_path
from vdaprep.storage.paths import StoragePath

_Clip = tuple[Clip, ClipMeta]


def export(path: Paths, out: str | Path, *, on_frame: Callable[[], None] = lambda: None) -> list[str]:
    """Write each trajectory as a folder of PNG, npy and text files; complete or not there.

    Args:
        path: Folders of shards, or shards; or URLs.
        out: Folder that gets a folder for each trajectory.
        on_frame: Called after each frame.

    Returns:
        Names of the trajectories.

    Raises:
        ShardError: A shard is damaged; nothing is written.
        UsageError: The shards are of several data sets, or a folder is there already; nothing is written.
    """
    out = Path(out)
    trajectories = _by_trajectory(find_shards(path))
    for name in trajectories:
        if (out / name).exists():
            raise UsageError(f"{out / name}: is there already; choose another --out, or delete it first.")
    for name, clips in trajectories.items():
        with new_path(out / name) as unfinished:
            _write_trajectory(unfinished, clips, on_frame)
    return list(trajectories)


def _by_trajectory(tars: Iterable[StoragePath]) -> dict[str, list[_Clip]]:
    """Group clips by trajectory, in order of their frames."""
    found: defaultdict[str, list[_Clip]] = defaultdict(list)
    datasets: set[str] = set()
    for tar in tars:
        for clip in choose_clips(tar, open_shard(tar)):
            meta = clip.meta
            datasets.add(meta.dataset)
            found[meta.trajectory].append((clip, meta))
    if len(datasets) > 1:
        raise UsageError(f"these are shards of {', '.join(sorted(datasets))}; export one data set at a time.")
    return {name: sorted(clips, key=lambda item: item[1].frame_ids) for name, clips in sorted(found.items())}


def _write_trajectory(folder: Path, clips: Sequence[_Clip], on_frame: Callable[[], None]) -> None:
    for kind in ("rgb", *{_kind_of(meta) for _, meta in clips} - {""}):
        (folder / kind).mkdir(parents=True)
    for clip, meta in clips:
        _write_frames(folder, clip, meta, on_frame)
    metas = [meta for _, meta in clips]
    if any(meta.intrinsics is not None for meta in metas):
        rows = (row for meta in metas for row in meta.intrinsics_of(range(meta.num_frames)).tolist())
        _write_table(folder / "intrinsics.txt", rows)
    if any(meta.camera_to_world is not None for meta in metas):
        _write_table(folder / "camera_to_world.txt", (row for meta in metas for row in _pose_rows(meta)))


def _pose_rows(meta: ClipMeta) -> list[list[float]]:
    """Return each frame's pose as 16 numbers, nan in clips without poses."""
    if meta.camera_to_world is None:
        return [[math.nan] * 16] * meta.num_frames
    return [[number for row in pose for number in row] for pose in meta.camera_to_world]


def _write_frames(folder: Path, clip: Clip, meta: ClipMeta, on_frame: Callable[[], None]) -> None:
    for number, frame in zip(meta.frame_ids, clip.frames(), strict=True):
        ok, png = cv2.imencode(".png", cv2.cvtColor(frame.rgb(), cv2.COLOR_RGB2BGR))
        assert ok  # cv2 encodes any uint8 image
        (folder / "rgb" / f"{number:06d}.png").write_bytes(png.tobytes())
        if meta.depth is not None:
            np.save(folder / _kind_of(meta) / f"{number:06d}.npy", _labels(frame, meta.depth), allow_pickle=False)
        on_frame()


def _kind_of(meta: ClipMeta) -> str:
    """Name the folder of a clip's depth; empty without."""
    return "" if meta.depth is None else "depth" if meta.is_metric else "disparity"


def _labels(frame: StoredFrame, spec: DepthSpec) -> Float32[np.ndarray, "h w"]:
    """Return metres, or a teacher's disparity in its own numbers."""
    found = frame.meta.teacher_disparity
    if found is None:
        return within_range(frame.depth_m(), spec)
    least, greatest = found
    return (least + (greatest - least) / frame.depth_m()).astype(np.float32)


def _write_table(path: Path, rows: Iterable[Sequence[float]]) -> None:
    path.write_text("".join(" ".join(f"{number:.17g}" for number in row) + "\n" for row in rows), encoding="ascii")
