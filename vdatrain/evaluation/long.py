"""The metrics of a model on whole trajectories, inferred as `vdatrain infer` does it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from vdaprep.shards.pictures.stress import Stress
from vdaprep.shards.reader import Clip
from vdatrain.data.altered.stress import StressPlan
from vdatrain.data.decode import decode_depth, decode_images
from vdatrain.data.samples import Sample
from vdatrain.evaluation.evaluate import alignment_of, mean_of
from vdatrain.inference.predictor import Predictor
from vdatrain.inference.video_reader import DEFAULT_DIFF, VideoFrame, by_trajectory, read_trajectory
from vdatrain.objectives.metrics import Alignment, ClipMetrics, clip_metrics, mean_metrics


@dataclass(frozen=True)
class LongEvaluation:
    """The metrics of whole trajectories, by data set."""

    metrics: Mapping[str, ClipMetrics]
    """The mean over a data set's trajectories, each of equal weight."""
    trajectories: Mapping[str, int]
    """How many trajectories each data set has."""

    def average(self) -> dict[str, float | None]:
        """Return each figure's mean over the data sets, of equal weight; TAE where there is one."""
        return asdict(mean_metrics(self.metrics.values()))

    def to_json(self) -> dict[str, Any]:
        """Return the figures by data set, and their average."""
        rows = {
            name: {**asdict(row), "trajectories": self.trajectories[name]} for name, row in sorted(self.metrics.items())
        }
        return {"datasets": rows, "average": self.average()}


def evaluate_long(
    clips: Sequence[Clip],
    predictor: Predictor,
    *,
    stall_timeout_s: int | float = 300,
    stress: StressPlan = StressPlan(),  # noqa: B008 - it is frozen
    on_frame: Callable[[], None] = lambda: None,
) -> LongEvaluation:
    """Evaluate a model on the trajectories that `clips` form, one in memory at a time.

    Images are disturbed as `stress` says; differences are taken of these, as each trajectory's shard does. A read may
    take `stall_timeout_s` seconds; 0: no limit. Raises ShardError and VdakitError as the stream does, DataError if no
    trajectory of a data set has a pixel of known depth, VdakitError if the model predicts anything that is not finite.
    """
    metrics: defaultdict[str, list[ClipMetrics]] = defaultdict(list)
    for (dataset, _), parts in by_trajectory(clips, stall_timeout_s=stall_timeout_s).items():
        predictor = replace(predictor, diff=parts[0].meta.diff or DEFAULT_DIFF)
        truth: list[_Truth] = []
        samples = read_trajectory(parts, stall_timeout_s=stall_timeout_s)
        device, under = predictor.precision.device, stress.of(parts[0].key)
        frames = _frames_and_truth(samples, truth, under, device=device, metric=predictor.metric)
        maps: list[Tensor] = []
        for disparity in predictor.predict_frames(frames):
            maps.append(disparity)
            on_frame()
        limit_m, alignment = parts[0].evaluation_max_m, alignment_of(predictor.model)
        metrics[dataset].append(_measure(torch.stack(maps), truth, max_depth_m=limit_m, alignment=alignment))
    return LongEvaluation(
        metrics={name: mean_of(name, values) for name, values in metrics.items()},
        trajectories={name: len(values) for name, values in metrics.items()},
    )


@dataclass(frozen=True)
class _Truth:
    """The true depth of a frame and its camera."""

    depth_m: Float32[Tensor, "h w"]
    """Metres along z, nan where unknown, inf for sky; on the device."""
    intrinsics: Float64[np.ndarray, "4"]
    """fx, fy, cx, cy in pixels."""
    camera_to_world: Float64[np.ndarray, "4 4"] | None
    """Metres, OpenCV axes."""


def _frames_and_truth(
    samples: Iterator[tuple[int, Sample, int]],
    truth: list[_Truth],
    stress: Stress,
    *,
    device: torch.device,
    metric: bool,
) -> Iterator[VideoFrame]:
    """Yield a trajectory's frames, each read once, and append to `truth` what they should be."""
    for number, sample, row in samples:
        sample.expect_truth()
        if metric:
            sample.expect_metres()
        one = slice(row, row + 1)
        [depth_m] = decode_depth(sample.depth_bytes[one].to(device), sample.depth, size=sample.size)
        pose = None if sample.camera_to_world is None else sample.camera_to_world[row]
        truth.append(_Truth(depth_m, sample.intrinsics[row], pose))
        rgb = decode_images(sample.images[one], sample.size)[0].numpy()
        yield VideoFrame(number, stress.apply(rgb, frame=number), intrinsics=sample.intrinsics[row])


def _measure(
    disparity: Float32[Tensor, "t h w"], truth: Sequence[_Truth], *, max_depth_m: float, alignment: Alignment
) -> ClipMetrics:
    device = disparity.device
    poses = [frame.camera_to_world for frame in truth if frame.camera_to_world is not None]
    return clip_metrics(
        disparity,
        torch.stack([frame.depth_m for frame in truth]),
        torch.from_numpy(np.stack([frame.intrinsics for frame in truth])).to(device),
        torch.from_numpy(np.stack(poses)).to(device) if len(poses) == len(truth) else None,
        max_depth_m=max_depth_m,
        alignment=alignment,
    )
