"""A clip to look at, frames with their depth and differences: a contact sheet, or a video."""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
from jaxtyping import Float32, UInt8

from vdaprep.analysis.warping import is_sparse
from vdaprep.errors import UsageError
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.pictures.depth_colors import colour_depth, depth_legend, text_line, write_text
from vdaprep.shards.reader import Clip, StoredFrame, decoded_differences
from vdaprep.storage.atomic import new_path

_TILES = 6
_TILE_WIDTH, _TILE_HEIGHT = 260, 320  # at most
_GAP = 6
_POINT = 5  # pixels of a side: of a sheet one pixel is about as many of a frame
_DIFF_GAIN = 1.5  # 2 grey levels are hard to see
_FRAMES_PER_SECOND = 15
_VIDEO_HEIGHT = 360  # at most; three pictures side by side are wide enough
_VIDEO_WIDTH = 200  # at least, so that a picture's name fits above it
_NAMES_WIDTH = 84  # pixels of the column that names the rows of a sheet
_FARTHEST = np.float32(1e9)  # in place of inf, which would be sky, for a relative disparity of 0
_NAMES = ("RGB", "depth", "difference to the frame before")


def write_preview(clip: Clip, *, path: Path) -> None:
    """Draw a clip: RGB, depth (near is bright), difference (grey is none).

    As .png a few frames, as .mp4 all.

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
    """Draw a column a frame, below the clip's name and above the colours of its depth."""
    shown = np.linspace(0, clip.num_frames - 1, min(_TILES, clip.num_frames)).round().astype(int).tolist()
    columns = [
        _column([_tile(picture) for picture in _pictures(frame, before)], title=_title(frame))
        for index in shown
        for before, frame in _with_previous(clip, index, 1)
    ]
    sheet = _side_by_side([_row_names(columns[0], clip.meta), *columns])
    _, data = cv2.imencode(".png", cv2.cvtColor(_framed(sheet, clip), cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())


def _write_video(clip: Clip, path: Path) -> None:
    """Draw all frames, numbered; encoded in memory, so that a full disk is our error."""
    data = io.BytesIO()
    with iio.imopen(data, "w", plugin="pyav", extension=".mp4") as video:  # pyright: ignore[reportUnknownMemberType] - partly typed
        video.init_video_stream("libx264", fps=_FRAMES_PER_SECOND)
        for before, frame in _with_previous(clip, 0, clip.num_frames):
            pictures = [_fit_video(picture) for picture in _pictures(frame, before)]
            columns = [_column([one], title=name) for one, name in zip(pictures, _NAMES, strict=False)]
            picture = _framed(_side_by_side(columns), clip, note=f", {_title(frame)}")
            height, width = picture.shape[:2]
            video.write_frame(_bordered(picture, bottom=height % 2, right=width % 2))  # even sides, as H.264 wants
    path.write_bytes(data.getvalue())


def _with_previous(clip: Clip, first: int, count: int) -> Iterator[tuple[StoredFrame | None, StoredFrame]]:
    """Yield frames, each with the one before it in the clip, for its difference."""
    start = max(0, first - 1)
    frames = clip.frames(start, first + count - start)
    before = next(frames) if first else None
    for frame in frames:
        yield before, frame
        before = frame


def _has_difference(frame: StoredFrame) -> bool:
    """Return whether a frame's difference is stored, or can be taken from the clip."""
    return frame.meta.diff_valid[frame.index] and (frame.meta.stored_diff is not None or frame.index > 0)


def _title(frame: StoredFrame) -> str:
    meta = frame.meta
    no_difference = meta.diff is not None and not _has_difference(frame)
    return f"frame {meta.frame_ids[frame.index]}" + (", no difference" if no_difference else "")


def _framed(picture: UInt8[np.ndarray, "h w 3"], clip: Clip, *, note: str = "") -> UInt8[np.ndarray, "sheet_h w 3"]:
    """Put a clip's name above a picture, and the colours of its depth below."""
    width, meta = picture.shape[1], clip.meta
    legend = depth_legend(
        width, disparity_min=meta.disparity_min, disparity_max=meta.disparity_max, is_metric=meta.is_metric
    )
    return np.concatenate([text_line(clip.key + note, width), picture, legend])


def _row_names(column: UInt8[np.ndarray, "h w 3"], meta: ClipMeta) -> UInt8[np.ndarray, "h names_w 3"]:
    """Name the rows of a column of equal pictures."""
    names = ("RGB", "depth", "difference")[: 2 if meta.diff is None else 3]
    title = text_line("", _NAMES_WIDTH).shape[0]
    rows = (column.shape[0] - title) // len(names)
    parts = [np.full((title, _NAMES_WIDTH, 3), 255, np.uint8)]
    for name in names:
        part = np.full((rows, _NAMES_WIDTH, 3), 255, np.uint8)
        write_text(part, name, left=2, base=min(rows - 2, rows // 2))
        parts.append(part)
    return np.concatenate(parts)


def _side_by_side(columns: list[UInt8[np.ndarray, "h _w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    return np.concatenate(columns, axis=1)


def _fit_video(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "vh vw 3"]:
    """Scale down to the video's height, or up to the width that a title needs."""
    height, width = pixels.shape[:2]
    ratio = min(max(1.0, _VIDEO_WIDTH / width), _VIDEO_HEIGHT / height)
    return _resized(pixels, ratio)


def colour_diff(diff: Float32[np.ndarray, "3 dh dw"], *, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Show a difference in grey levels around grey, each colour apart."""
    shown = (128 + _DIFF_GAIN * diff).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return cv2.resize(shown, (width, height), interpolation=cv2.INTER_NEAREST)


def _pictures(frame: StoredFrame, before: StoredFrame | None) -> list[UInt8[np.ndarray, "_h _w 3"]]:
    """Draw what there is of a frame: RGB, depth, difference."""
    meta = frame.meta
    depth_m = frame.depth_m() if meta.is_metric else np.minimum(frame.depth_m(), _FARTHEST)
    shown_m = enlarge_points(depth_m) if is_sparse(depth_m) else depth_m
    depth = colour_depth(shown_m, disparity_min=meta.disparity_min, disparity_max=meta.disparity_max)
    pictures = [frame.rgb(), depth]
    if (diff := _difference(frame, before)) is not None:
        pictures.append(colour_diff(diff, height=meta.height, width=meta.width))
    return pictures


def enlarge_points(depth_m: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Make lone points visible: unknown pixels take the nearest known surface around."""
    known_m = np.where(np.isnan(depth_m), np.float32(np.inf), depth_m)
    around_m = cv2.erode(known_m, np.ones((_POINT, _POINT), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.where(np.isnan(depth_m) & np.isfinite(around_m), around_m, depth_m).astype(np.float32)


def _difference(frame: StoredFrame, before: StoredFrame | None) -> Float32[np.ndarray, "3 dh dw"] | None:
    """Return the difference in grey levels, stored or taken as training does; zeros without one."""
    if frame.meta.stored_diff is not None:
        return frame.diff_steps().astype(np.float32) * frame.meta.stored_diff.step
    pair = (before, frame) if before is not None and _has_difference(frame) else (frame, frame)
    differences = decoded_differences(np.stack([item.rgb() for item in pair]), frame.meta)
    return None if differences is None else differences[1]


def _tile(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "th tw 3"]:
    return _resized(pixels, min(_TILE_WIDTH / pixels.shape[1], _TILE_HEIGHT / pixels.shape[0]))


def _resized(pixels: UInt8[np.ndarray, "h w 3"], ratio: float) -> UInt8[np.ndarray, "th tw 3"]:
    size = (max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio)))
    how = cv2.INTER_AREA if ratio < 1 else cv2.INTER_NEAREST
    return cv2.resize(pixels, size, interpolation=how).astype(np.uint8, copy=False)


def _column(tiles: list[UInt8[np.ndarray, "th tw 3"]], *, title: str) -> UInt8[np.ndarray, "ch cw 3"]:
    padded = [_bordered(tile, bottom=_GAP, right=_GAP) for tile in tiles]
    return np.concatenate([text_line(title, padded[0].shape[1]), *padded])


def _bordered(picture: UInt8[np.ndarray, "h w 3"], *, bottom: int, right: int) -> UInt8[np.ndarray, "bh bw 3"]:
    """Add white rows and columns."""
    border = (255, 255, 255)
    return cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=border).astype(np.uint8)
