"""A clip to look at, frames with their depth and differences: a contact sheet, or a video."""

from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
from jaxtyping import Float32, Int8, UInt8

from vdaprep.errors import UsageError
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip, StoredFrame
from vdaprep.storage.atomic import new_path

_TILES = 6
_TILE_WIDTH = 260
_GAP = 6
_CAPTION = 22
_SKY_RGB = (135, 180, 235)
_UNKNOWN_RGB = (0, 0, 0)
_DIFF_GAIN = 3  # a step of 2 grey levels is hard to see
_FRAMES_PER_SECOND = 15
_VIDEO_HEIGHT = 360  # at most; three pictures side by side are wide enough


def write_preview(clip: Clip, *, path: Path) -> None:
    """Draw a clip: RGB, disparity (near is bright), difference (grey is none); as .png a few frames, as .mp4 all.

    Raises UsageError for any other ending.
    """
    check_preview(path)
    writers = {".png": _write_sheet, ".mp4": _write_video}
    with new_path(path) as unfinished:
        writers[path.suffix.lower()](clip, unfinished)


def check_preview(path: Path) -> None:
    """Raise UsageError unless a preview can have that ending."""
    if path.suffix.lower() not in (".png", ".mp4"):
        raise UsageError(f"--preview {path}: expected a file name that ends in .png or .mp4.")


def _write_sheet(clip: Clip, path: Path) -> None:
    shown = np.linspace(0, clip.num_frames - 1, min(_TILES, clip.num_frames)).round().astype(int).tolist()
    columns = [
        _column([_tile(picture) for picture in _pictures(frame)], meta=clip.meta, index=frame.index)
        for index in shown
        for frame in clip.frames(index, 1)
    ]
    sheet = np.concatenate(columns, axis=1)
    _, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())  # cv2.imwrite says nothing of a disk that is full


def _write_video(clip: Clip, path: Path) -> None:
    with iio.imopen(path, "w", plugin="pyav") as video:  # pyright: ignore[reportUnknownMemberType] - partly typed
        video.init_video_stream("libx264", fps=_FRAMES_PER_SECOND)
        for frame in clip.frames():
            video.write_frame(np.concatenate([_fit_video(picture) for picture in _pictures(frame)], axis=1))


def _fit_video(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "vh vw 3"]:
    """Scale down to the video's height, both sides even, as H.264 wants them."""
    height, width = pixels.shape[:2]
    ratio = min(1.0, _VIDEO_HEIGHT / height)
    size = (max(2, 2 * round(width * ratio / 2)), max(2, 2 * round(height * ratio / 2)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def colour_depth(depth_m: Float32[np.ndarray, "h w"], meta: ClipMeta) -> UInt8[np.ndarray, "h w 3"]:
    """Colour disparity over the clip's range, near bright; sky is light blue, unknown black."""
    spread = max(meta.disparity_max - meta.disparity_min, 1e-9)
    with np.errstate(invalid="ignore"):
        level = (1 / depth_m - meta.disparity_min) / spread
    grey = (np.nan_to_num(level).clip(0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    colours[np.isinf(depth_m)] = _SKY_RGB
    colours[np.isnan(depth_m)] = _UNKNOWN_RGB
    return colours


def colour_diff(diff: Int8[np.ndarray, "3 dh dw"], *, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Show a difference around grey, each colour apart."""
    shown = (128 + _DIFF_GAIN * diff.astype(np.int16)).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return cv2.resize(shown, (width, height), interpolation=cv2.INTER_NEAREST)


def _pictures(frame: StoredFrame) -> list[UInt8[np.ndarray, "_h _w 3"]]:
    """Draw what there is of a frame: RGB, depth, difference."""
    meta = frame.meta
    pictures = [frame.rgb(), colour_depth(frame.depth_m(), meta)]
    if meta.diff is not None:
        pictures.append(colour_diff(frame.diff_steps(), height=meta.height, width=meta.width))
    return pictures


def _tile(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "th tw 3"]:
    height = max(1, round(pixels.shape[0] * _TILE_WIDTH / pixels.shape[1]))
    shrinks = pixels.shape[1] > _TILE_WIDTH
    return cv2.resize(pixels, (_TILE_WIDTH, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)


def _column(tiles: list[UInt8[np.ndarray, "th tw 3"]], *, meta: ClipMeta, index: int) -> UInt8[np.ndarray, "ch cw 3"]:
    width = _TILE_WIDTH + _GAP
    caption = np.full((_CAPTION, width, 3), 255, np.uint8)
    text = f"frame {meta.frame_ids[index]}" + ("" if meta.diff_valid[index] else ", no difference")
    cv2.putText(caption, text, (2, _CAPTION - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    padded = [np.pad(tile, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for tile in tiles]
    return np.concatenate([caption, *padded])
