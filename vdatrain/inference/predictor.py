"""A video of any length to its disparity: read, predicted and written frame by frame."""

import resource
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor, nn
from torch.nn import functional as F

from vdaprep.errors import DataError, UsageError
from vdaprep.shards import codec
from vdaprep.shards.metadata import DiffSpec
from vdatrain.data.batch import normalise, resample_differences
from vdatrain.data.transforms import CropParams, fit_view
from vdatrain.device import Precision
from vdatrain.inference.long_video import infer_windows
from vdatrain.inference.video_reader import Video, VideoFrame
from vdatrain.inference.video_writer import Spool, check_output, write_output
from vdatrain.models import variants, weights
from vdatrain.models.layers.encoder import PATCH_SIZE
from vdatrain.models.layers.temporal import remember_frames
from vdatrain.models.loading import load_model

BARE_SIZE = 518  # pixels of the short side: what the published weights were trained at


@dataclass(frozen=True)
class Seen:
    """A frame as the model sees it, on the CPU, and as differences are taken of it.

    frame: normalised, at the view's size. shrunk: what `codec.shrink` gives.
    """

    number: int
    view: CropParams
    frame: Float32[Tensor, "3 h w"]
    shrunk: Float32[np.ndarray, "dh dw 3"]

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width of the video, in pixels."""
        return self.view.crop_height, self.view.crop_width


@dataclass(frozen=True)
class Predictor:
    """A model in eval mode on the device of `precision`, and what it is shown: a short side of `size` pixels."""

    model: nn.Module
    precision: Precision
    size: int
    diff: DiffSpec

    def __post_init__(self) -> None:
        if self.size < PATCH_SIZE:
            raise UsageError(f"--size {self.size}: expected the pixels of the short side, at least {PATCH_SIZE}.")

    def look(self, frame: VideoFrame) -> Seen:
        """Resize a frame as published Video Depth Anything does: bicubic, to whole patches of about its aspect."""
        view = fit_view((frame.rgb.shape[0], frame.rgb.shape[1]), size=self.size)
        unit = frame.rgb.astype(np.float32) / np.float32(255)
        resized = cv2.resize(unit, (view.width, view.height), interpolation=cv2.INTER_CUBIC)
        seen = normalise(torch.from_numpy(resized).permute(2, 0, 1)).contiguous()
        return Seen(frame.number, view, seen, codec.shrink(frame.rgb, self.diff))

    @torch.no_grad()
    def predict(self, clip: Sequence[Seen], before: Seen | None = None) -> Float32[Tensor, "t h w"]:
        """Return relative disparity >= 0 of a clip at the video's size, on the device.

        before: the frame before the clip, if its difference to the clip's first is to be known.
        """
        device = self.precision.device
        frames = torch.stack([seen.frame for seen in clip]).to(device)
        steps, valid = zip(*map(self._difference, (before, *clip), clip), strict=False)
        view, stored = clip[0].view, clip[0].stored
        differences = resample_differences(
            torch.from_numpy(np.stack(steps)).to(device), view, stored=stored, step=self.diff.step
        )
        diff_valid: Bool[Tensor, " t"] = torch.tensor(valid, device=device)
        with self.precision.autocast():
            disparity = self.model(frames[None], differences[None], diff_valid[None])
        return F.interpolate(disparity.float(), stored, mode="bilinear", align_corners=True)[0]

    def _difference(self, previous: Seen | None, current: Seen) -> tuple[np.ndarray, bool]:
        """Return what a shard would hold as the difference of two frames, valid if they follow one another."""
        valid = previous is not None and previous.number + 1 == current.number
        data = codec.encode_diff(current.shrunk, previous.shrunk if previous and valid else None, self.diff)
        height, width = current.stored
        return codec.decode_diff(data, self.diff, height=height, width=width), valid


def infer_frames(
    frames: Iterable[VideoFrame], predictor: Predictor, *, stream: bool = False
) -> Generator[Float32[Tensor, "h w"]]:
    """Yield relative disparity >= 0 of each frame at the video's size, on the device.

    In windows that see their future and are aligned with one another, see `long_video`; or, with `stream`, frame by
    frame, at once: each sees itself and the 31 before it, none after it, and scale and shift may drift.
    """
    seen = map(predictor.look, frames)
    return _infer_stream(seen, predictor) if stream else infer_windows(seen, predictor.predict)


def _infer_stream(frames: Iterator[Seen], predictor: Predictor) -> Generator[Float32[Tensor, "h w"]]:
    with remember_frames(predictor.model):
        previous = None
        for frame in frames:
            yield predictor.predict([frame], previous)[0]
            previous = frame


# ------------------------------------------------------------------------------------------------------- whole videos


@dataclass(frozen=True)
class Inference:
    """What is written and how: `stream` as in `infer_frames`, `side_by_side` as in `check_output`."""

    out: Path
    stream: bool = False
    side_by_side: bool = False

    def __post_init__(self) -> None:
        check_output(self.out, side_by_side=self.side_by_side)


@dataclass(frozen=True)
class Inferred:
    """What was written: the number of frames, and their height and width in pixels."""

    num_frames: int
    size: tuple[int, int]


def infer_video(
    video: Video, predictor: Predictor, what: Inference, *, on_frame: Callable[[], None] = lambda: None
) -> Inferred:
    """Write a video's disparity to a file; raises DataError as the video's frames do, and for a model that diverged."""
    disparities = infer_frames(video.frames(), predictor, stream=what.stream)
    with Spool(what.out) as spool, closing(disparities):
        for disparity in disparities:
            spool.append(disparity.cpu().numpy())
            on_frame()
        beside = (frame.rgb for frame in video.frames()) if what.side_by_side else None
        write_output(what.out, spool, fps=Fraction(video.fps), beside=beside)
        return Inferred(spool.count, spool.size)


# -------------------------------------------------------------------------------------------------------------- model


@dataclass(frozen=True)
class TrainedModel:
    """A model in eval mode on the CPU, and the size and the precision that it was trained at."""

    model: nn.Module
    size: int = BARE_SIZE
    precision: str = "fp32"


def load(path: Path, *, encoder: str | None = None) -> TrainedModel:
    """Read a run's checkpoint or, where `encoder` says of which one, weights of `basic` in any form `weights` reads.

    Raises DataError if the file is missing, damaged, does not fit or has no head, UsageError for an unknown encoder.
    """
    if encoder is None:
        model, config = load_model(path)
        return TrainedModel(model.eval(), config.size, config.precision)
    model = variants.build("basic", encoder=encoder)
    found = weights.read_weights(path)
    if "head." in found.lacks:
        raise DataError(f"{path}: holds {found.kind}, without the head that makes depth of its features; train first.")
    weights.load_weights(model, found)
    return TrainedModel(model.eval())


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory held so far: the GPU's by tensors, on the CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
