"""The metrics of a model on whole trajectories, inferred as `vdatrain infer` does it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from vdatrain.batch import decode_depth
from vdatrain.evaluate import mean_of
from vdatrain.index import StoredClip
from vdatrain.infer import Predictor, infer_frames
from vdatrain.metrics import ClipMetrics, clip_metrics, mean_metrics
from vdatrain.stream import read_meta, read_window
from vdatrain.video_in import DEFAULT_DIFF, VideoFrame, by_trajectory, read_trajectory
from vdatrain.windows import Window, WindowShape


@dataclass(frozen=True)
class LongEvaluation:
    """The metrics of each data set, the mean over its trajectories, each of equal weight, and how many it has."""

    metrics: Mapping[str, ClipMetrics]
    trajectories: Mapping[str, int]

    def average(self) -> dict[str, float | None]:
        """Return the mean of every figure over the data sets, each of equal weight; TAE over those that have it."""
        return asdict(mean_metrics(self.metrics.values()))

    def to_json(self) -> dict[str, Any]:
        """Return the figures by data set, and their average."""
        rows = {
            name: {**asdict(row), "trajectories": self.trajectories[name]} for name, row in sorted(self.metrics.items())
        }
        return {"datasets": rows, "average": self.average()}


def evaluate_long(
    clips: Sequence[StoredClip],
    predictor: Predictor,
    *,
    on_frame: Callable[[], None] = lambda: None,
) -> LongEvaluation:
    """Evaluate a model on the trajectories that `clips` make up; one trajectory's maps are in memory at a time.

    Differences are taken as each trajectory's shard does. Raises ShardError as the stream does, DataError if no
    trajectory of a data set has a pixel of known depth, VdakitError if the model predicts anything that is not finite.
    """
    metrics: defaultdict[str, list[ClipMetrics]] = defaultdict(list)
    for (dataset, _), parts in by_trajectory(clips).items():
        predictor = replace(predictor, diff=read_meta(parts[0]).diff or DEFAULT_DIFF)
        frames = (VideoFrame(number, sample.rgb[0].numpy()) for number, sample in read_trajectory(parts))
        maps: list[Tensor] = []
        for disparity in infer_frames(frames, predictor):
            maps.append(disparity)
            on_frame()
        metrics[dataset].append(_measure(torch.stack(maps), parts))
    return LongEvaluation(
        metrics={name: mean_of(name, values) for name, values in metrics.items()},
        trajectories={name: len(values) for name, values in metrics.items()},
    )


def _measure(disparity: Float32[Tensor, "t h w"], clips: Sequence[StoredClip]) -> ClipMetrics:
    device = disparity.device
    depth_m: list[Tensor] = []
    for clip in clips:
        sample = read_window(clip, Window(position=0, clip=0, first=0, shape=WindowShape(clip.num_frames)))
        depth_m.append(decode_depth(sample.depth_planes.to(device), sample.depth))
    metas = [read_meta(clip) for clip in clips]
    intrinsics = np.concatenate([np.array(meta.intrinsics) for meta in metas])
    poses = [np.array(meta.camera_to_world) for meta in metas if meta.camera_to_world is not None]
    return clip_metrics(
        disparity,
        torch.cat(depth_m),
        torch.from_numpy(intrinsics).to(device),
        torch.from_numpy(np.concatenate(poses)).to(device) if len(poses) == len(metas) else None,
        max_depth_m=clips[0].evaluation_max_m,
    )
