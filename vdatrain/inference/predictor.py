"""A trained model that predicts the disparity of videos of any length."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vdaprep.errors import UsageError
from vdaprep.shards import codec
from vdaprep.shards.metadata import DiffSpec
from vdaprep.storage.limits import MAX_FRAME_PIXELS
from vdatrain.config import DifferencesName
from vdatrain.data.altered.differences import decoded_spec
from vdatrain.data.batch import normalise, resample_differences
from vdatrain.data.transforms import CropParams, fit_view, view_intrinsics
from vdatrain.device import Precision
from vdatrain.inference.features import WindowFeatures
from vdatrain.inference.long_video import infer_windows
from vdatrain.inference.video_reader import DEFAULT_DIFF, Video, VideoFrame, open_video
from vdatrain.inference.video_writer import DisparityFile, Timeline, depth_of, write_output
from vdatrain.models.canonical import canonical_focal_of, in_metres
from vdatrain.models.layers.difference import CELLS_PER_PATCH
from vdatrain.models.layers.encoder import PATCH_SIZE
from vdatrain.models.layers.temporal import PUBLISHED_FRAMES, remember_frames
from vdatrain.models.variants.basic import VideoDepth

PUBLISHED_SIZE = 518  # pixels of the short side that the published weights were trained at

_MAX_SIZE = 600 * PATCH_SIZE  # as of a run


@dataclass(frozen=True)
class PreparedFrame:
    """A frame resized and normalised for the model, and shrunk for its differences."""

    number: int
    """The frame's number in the video; the difference of two frames is known if they are numbered in succession."""
    view: CropParams
    """From the video's size to the model's."""
    frame: Float32[Tensor, "3 h w"]
    """Normalised with ImageNet's mean and deviation, at the model's size."""
    shrunk: Float32[np.ndarray, "dh dw 3"]
    """Block means of the video's pixels, grey levels, from `codec.shrink`."""
    intrinsics: Float64[np.ndarray, "4"] | None = None
    """fx, fy, cx, cy in pixels of the model's size, for a model that needs them."""

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width of the video, in pixels."""
        return self.view.crop_height, self.view.crop_width


@dataclass(frozen=True, eq=False)
class PredictedVideo:
    """The disparity of a video, and when its frames are shown."""

    disparity: Float32[np.ndarray, "t h w"]
    """0 or more, greater is nearer; relative, or 1/m of metric weights."""
    seconds: Float64[np.ndarray, " t"]
    """Of each frame, by the file's own clock; images and shards, which have none, are taken as 24 frames a second."""
    metric: bool
    """Whether disparity is 1/m."""

    @property
    def depth_m(self) -> Float32[np.ndarray, "t h w"]:
        """Metres along z, of metric weights; raises UsageError for relative ones."""
        if not self.metric:
            raise UsageError("depth in metres: the weights predict relative disparity; take `disparity`.")
        return depth_of(self.disparity)


@dataclass(frozen=True)
class Predictor:
    """A trained model that predicts the disparity of videos; made by `load_predictor`.

    Disparity is relative: 0 or more, greater is nearer, known up to one scale and one shift for the whole video. With
    metric weights it is 1/m; those of a run need the camera's focal length, from the video or from `intrinsics`.
    """

    model: nn.Module
    """A variant in eval mode, on the device of `precision`."""
    precision: Precision
    """The device, and the numbers that it computes in."""
    size: int = PUBLISHED_SIZE
    """Pixels of the short side of the frames that the model sees; outputs have the video's size."""
    diff: DiffSpec = DEFAULT_DIFF
    """How the differences between frames are stored, as in the shards that the model was trained on."""
    differences: DifferencesName = "both"
    """Which differences the model is shown, as `TrainConfig.differences` says."""
    num_frames: int = PUBLISHED_FRAMES
    """Frames of the windows that the model was trained on; evaluation takes windows of as many."""
    stride: int = 1
    """Frames from one frame of such a window to the next."""
    chunk: int | None = None
    """Frames that a stream takes at a time, each of which sees the others; None: one. Windows have their pattern in
    the model, see `set_attention`."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels of the videos, in place of what they say of their camera themselves."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Which weights these are, as `evaluation.json` has it: `config` and `step` of a run, or `weights`."""

    def __post_init__(self) -> None:
        if not PATCH_SIZE <= self.size <= _MAX_SIZE:
            raise UsageError(f"--size {self.size}: expected the pixels of the short side, {PATCH_SIZE} to {_MAX_SIZE}.")

    def predict(self, frames: UInt8[np.ndarray, "t h w 3"]) -> Float32[np.ndarray, "t h w"]:
        """Predict the disparity of successive frames, in windows that are aligned with one another.

        Args:
            frames: RGB, any number of them.

        Returns:
            Relative disparity of each frame at the frames' size.

        Raises:
            UsageError: There is no frame, or the array has another shape or type.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise UsageError(f"frames are {frames.dtype} {list(frames.shape)}; expected RGB, uint8 [t, h, w, 3].")
        return self._collect(self.predict_frames(_numbered(frames)))

    def predict_video(self, path: Path | str, *, trajectory: str | None = None) -> "PredictedVideo":
        """Predict the disparity of a video; all of it is held in memory, 4 bytes a pixel.

        Args:
            path: A video file, a folder of images, or a shard or its URL.
            trajectory: Which one, of a shard that has several.

        Returns:
            Relative disparity of each frame at the size at which it is shown, and when that is.

        Raises:
            DataError: There is no video, or it cannot be read; ShardError for a shard.
            LimitError: Its frames have too many pixels.
            UsageError: The shard has several trajectories and `trajectory` is none of them.
        """
        video = open_video(path, trajectory=trajectory)
        times: list[Fraction] = []
        maps = replace(self, diff=video.diff).predict_frames(_timed(video.frames(), times))
        disparity = self._collect(maps)
        return PredictedVideo(disparity, np.array([float(time) for time in times], np.float64), self.metric)

    def stream(self, frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Generator[Float32[np.ndarray, "h w"]]:
        """Predict frame by frame, each as soon as it is there, for example from a camera.

        Each frame sees itself and the 31 before it, none after it; scale and shift may drift over a long video. The
        model serves one stream at a time.

        Args:
            frames: RGB, all of one size.

        Yields:
            Relative disparity of the latest frame at its size.
        """
        with closing(self.predict_frames(_numbered(frames), stream=True)) as maps:
            for disparity in maps:
                yield disparity.cpu().numpy()

    def predict_frames(
        self, frames: Iterable[VideoFrame], *, stream: bool = False
    ) -> Generator[Float32[Tensor, "h w"]]:
        """Yield each frame's disparity at its size, on the device, holding two windows.

        In windows that see their future and are aligned with one another, see `long_video`.

        Args:
            frames: Frames in order, [h, w, 3] each.
            stream: Frame by frame instead; none sees a later one.

        Raises UsageError if the model is to be shown the differences of another clip: a video alone has none.
        """
        if self.differences == "shuffled":
            raise UsageError(
                "the model is a control that was trained on shuffled differences, those of another clip, and a video "
                "alone has none; measure it with vdatrain eval, without --long."
            )
        prepared = map(self.prepare, frames)
        if stream:
            return self._stream(prepared)
        assert isinstance(self.model, VideoDepth)  # as every variant is
        predict = partial(self._predict_shown, WindowFeatures(self.model.pretrained))
        return infer_windows(prepared, predict, aligned=not self.metric)

    def prepare(self, frame: VideoFrame) -> PreparedFrame:
        """Resize a frame as published VDA does: bicubic, to whole patches of about its aspect."""
        view = replace(fit_view((frame.rgb.shape[0], frame.rgb.shape[1]), size=self.size), cells=self.cells_per_patch)
        if view.width * view.height > MAX_FRAME_PIXELS:
            raise UsageError(
                f"--size {self.size}: makes frames of {view.width}x{view.height} pixels, more than {MAX_FRAME_PIXELS}; "
                "take a smaller one."
            )
        unit = frame.rgb.astype(np.float32) / np.float32(255)
        resized = cv2.resize(unit, (view.width, view.height), interpolation=cv2.INTER_CUBIC)
        normalised = normalise(torch.from_numpy(resized).permute(2, 0, 1)).contiguous()
        camera = self.camera_of(frame)
        seen = None if camera is None else view_intrinsics(view, camera[None])[0]
        return PreparedFrame(frame.number, view, normalised, codec.shrink(frame.rgb, self.taken), seen)

    def camera_of(self, frame: VideoFrame) -> Float64[np.ndarray, "4"] | None:
        """Return fx, fy, cx, cy in a frame's pixels, of a model whose depth needs them; else None.

        Raises UsageError if they are not known, or are of a picture of another size.
        """
        if canonical_focal_of(self.model) is None:
            return None
        height, width = frame.rgb.shape[:2]
        known = frame.intrinsics is not None and np.isfinite(frame.intrinsics).all()
        if self.intrinsics is None and not known:
            raise UsageError(
                f"the model's depth in metres takes the camera's focal length, and frame {frame.number} of the video "
                f"does not say it; give --intrinsics fx,fy,cx,cy in pixels of its {width}x{height}."
            )
        if self.intrinsics is None:
            return frame.intrinsics
        if not (0 <= self.intrinsics[2] < width and 0 <= self.intrinsics[3] < height):
            raise UsageError(
                f"--intrinsics {','.join(f'{value:g}' for value in self.intrinsics)}: the principal point cx,cy is "
                f"outside the frames of {width}x{height} pixels; give the camera in pixels of that size."
            )
        return np.array(self.intrinsics)

    @property
    def taken(self) -> DiffSpec:
        """How the differences between frames are taken."""
        return decoded_spec(self.diff, cells=self.cells_per_patch) if self.differences == "decoded" else self.diff

    @property
    def cells_per_patch(self) -> int:
        """Rows and columns of differences that the model takes a patch."""
        return getattr(self.model, "cells_per_patch", CELLS_PER_PATCH)

    @property
    def metric(self) -> bool:
        """Whether the disparity is 1/m, so that one over it is depth in metres."""
        return bool(getattr(self.model, "metric", False))

    @torch.no_grad()
    def predict_window(
        self, window: Sequence[PreparedFrame], before: PreparedFrame | None = None
    ) -> Float32[Tensor, "t h w"]:
        """Return the disparity of a window's frames at the video's size, on the device.

        Args:
            window: Frames of one clip in order, at most as many as the model takes.
            before: The frame before the window, if its difference to the window's first is to be known.
        """
        frames = torch.stack([prepared.frame for prepared in window]).to(self.precision.device)
        differences, diff_valid = self._differences(window, before)
        with self.precision.autocast():
            disparity = self.model(frames[None], differences[None], diff_valid[None])
        return self._at_size(disparity, window)

    @torch.no_grad()
    def _predict_shown(
        self, features: WindowFeatures, window: Sequence[PreparedFrame], shown: int
    ) -> Float32[Tensor, "s h w"]:
        """Do what `predict_window` does, of so many leading frames, encoding only new ones."""
        assert isinstance(self.model, VideoDepth)
        differences, diff_valid = self._differences(window, None)
        with self.precision.autocast():
            encoded = features.of(window, [prepared.frame for prepared in window])
            shape = (1, len(window), *window[0].frame.shape)
            disparity = self.model.decode(encoded, shape, differences[None], diff_valid[None], shown=shown)
        return self._at_size(disparity, window)

    def _at_size(
        self, disparity: Float32[Tensor, "1 s h w"], window: Sequence[PreparedFrame]
    ) -> Float32[Tensor, "s y x"]:
        """Return the leading frames' disparity at the video's size, in 1/m where it has a scale."""
        full = F.interpolate(disparity.float(), window[0].stored, mode="bilinear", align_corners=True)[0]
        cameras = [seen.intrinsics for seen in window[: len(full)] if seen.intrinsics is not None]
        if not cameras:
            return full
        return in_metres(self.model, full, torch.from_numpy(np.stack(cameras)).to(full.device))

    def _differences(
        self, window: Sequence[PreparedFrame], before: PreparedFrame | None
    ) -> tuple[Float32[Tensor, "t 3 dh dw"], Bool[Tensor, " t"]]:
        """Return a window's differences as the model takes them, and which are known."""
        device = self.precision.device
        steps, valid = zip(*map(self._difference, (before, *window), window), strict=False)
        view, stored = window[0].view, window[0].stored
        differences = resample_differences(
            torch.from_numpy(np.stack(steps)).to(device), view, stored=stored, step=self.taken.step
        )
        return differences, torch.tensor(valid, device=device)

    def _difference(self, previous: PreparedFrame | None, current: PreparedFrame) -> tuple[np.ndarray, bool]:
        """Return two frames' difference as a shard has it, valid if they are successive."""
        valid = previous is not None and previous.number + 1 == current.number
        diff = self.taken
        if diff.origin == "decoded":
            before = previous.shrunk if previous is not None and valid else current.shrunk
            return (current.shrunk - before).transpose(2, 0, 1) / np.float32(diff.step), valid
        data = codec.encode_diff(current.shrunk, previous.shrunk if previous and valid else None, diff)
        height, width = current.stored
        return codec.decode_diff(data, diff, height=height, width=width), valid

    def _stream(self, frames: Iterator[PreparedFrame]) -> Generator[Float32[Tensor, "h w"]]:
        with remember_frames(self.model):
            previous = None
            while chunk := list(islice(frames, self.chunk or 1)):
                yield from self.predict_window(chunk, previous)
                previous = chunk[-1]

    def _collect(self, maps: Iterable[Float32[Tensor, "h w"]]) -> Float32[np.ndarray, "t h w"]:
        return np.stack([disparity.cpu().numpy() for disparity in maps])


def _numbered(frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Iterator[VideoFrame]:
    return (VideoFrame(number, rgb) for number, rgb in enumerate(frames))


def _timed(frames: Iterable[VideoFrame], times: list[Fraction]) -> Iterator[VideoFrame]:
    """Yield frames and append the time of each."""
    for frame in frames:
        times.append(frame.seconds or Fraction(0))
        yield frame


# -------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class WrittenVideo:
    """What `predict_to_file` wrote."""

    num_frames: int
    """Number of frames."""
    size: tuple[int, int]
    """Height and width in pixels."""
    is_complete: bool
    """Whether all frames that the video holds or promises could be read; a warning has said which not."""
    focal_px: float | None = None
    """Focal length of the first frame's camera, of a model that takes it."""


def predict_to_file(
    video: Video,
    predictor: Predictor,
    out: Path,
    *,
    stream: bool = False,
    side_by_side: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> WrittenVideo:
    """Write a video's disparity to a file, of a kind in `video_writer.check_output`.

    Frames that cannot be read are left out.

    Args:
        video: From `open_video`.
        predictor: The model; of metric weights depth is written.
        out: Ends in `.mp4` (colours) or `.npz` (`disparity` or `depth_m`, float32 [t, h, w], and `seconds`, float64
            [t]), or is a folder of 16-bit images. An `.mp4` shows each frame at its own time.
        stream: Frame by frame, see `Predictor.stream`.
        side_by_side: Show the video to the left of its disparity, in an `.mp4`.
        on_frame: Called after each frame.

    Returns:
        The number of frames and their size.

    Raises:
        DataError: No frame can be read, two have different sizes, or the model predicts anything that is not finite.
        OutputError: The output cannot be written.
    """
    times: list[Fraction] = []
    focal_px: list[float] = []
    frames = _noted(_timed(video.frames(), times), predictor, focal_px)
    maps = replace(predictor, diff=video.diff).predict_frames(frames, stream=stream)
    fp32 = predictor.precision.name == "fp32"
    remedy = "the weights are of no use: see how they were trained" if fp32 else "try --precision fp32"
    with DisparityFile(out, metric=predictor.metric, remedy=remedy) as file, closing(maps):
        for disparity in maps:
            file.append(disparity.cpu().numpy())
            on_frame()
        beside = (frame.rgb for frame in video.frames()) if side_by_side else None
        write_output(out, file, Timeline(times, video.fps, video.time_base), beside=beside)
        return WrittenVideo(file.count, file.size, video.remarks.is_complete, next(iter(focal_px), None))


def _noted(frames: Iterable[VideoFrame], predictor: Predictor, focal_px: list[float]) -> Iterator[VideoFrame]:
    """Yield frames and append the focal length of each whose camera is taken."""
    for frame in frames:
        camera = predictor.camera_of(frame)
        focal_px += [] if camera is None else [float(np.sqrt(camera[0] * camera[1]))]
        yield frame
