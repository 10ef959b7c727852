"""Videos of any length in windows of 32 frames, joined as published VDA does.

Source: arXiv:2501.12375, section 3.3, and `infer_video_depth` in video_depth_anything/video_depth.py of
DepthAnything/Video-Depth-Anything. A window begins with ten frames of the one before: the video's first frame, the one
at 12, and the last eight. The first two of these give the scale and shift that align the window with those before
it; over the eight others the windows are blended.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Float32
from torch import Tensor

from vdatrain.models.layers.temporal import PUBLISHED_FRAMES
from vdatrain.objectives.alignment import fit_scale_shift

WINDOW_FRAMES = PUBLISHED_FRAMES
KEY_FRAMES = (0, 12, 24, 25, 26, 27, 28, 29, 30, 31)  # of a window: what the next one begins with
OVERLAP = len(KEY_FRAMES)
FADED = 8  # key frames that follow one another up to the window's end
ALIGNED = OVERLAP - FADED

_Frame = TypeVar("_Frame")


def infer_windows(
    frames: Iterable[_Frame],
    predict: Callable[[tuple[_Frame, ...], int], Float32[Tensor, "s h w"]],
    *,
    aligned: bool = True,
) -> Generator[Float32[Tensor, "h w"]]:
    """Yield one map a frame, reading frames as they are needed; at most two windows are held.

    predict: from a window of WINDOW_FRAMES frames to relative disparity >= 0, on its device, of so many leading ones.
    aligned: whether each window is given the scale and shift of those before it; metric ones are only blended.
    """
    read = 0

    def counted() -> Iterator[_Frame]:
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    windows = (_filled(predict(window, shown)) for window, shown in cut_windows(counted()))
    joined = join_windows(windows, aligned=aligned)
    # A frame is read before its map is made, so from the first map without a frame on there is only padding.
    for number, disparity in enumerate(joined):
        if number < read:
            yield disparity


def _filled(maps: Float32[Tensor, "s h w"]) -> Float32[Tensor, "t h w"]:
    """Repeat the last map up to the length of a window, for padding that nobody looks at."""
    missing = WINDOW_FRAMES - len(maps)
    return torch.cat([maps, maps[-1:].expand(missing, -1, -1)]) if missing else maps


def cut_windows(frames: Iterable[_Frame]) -> Iterator[tuple[tuple[_Frame, ...], int]]:
    """Yield windows of WINDOW_FRAMES frames: key frames of the one before, then new ones.

    The last frame fills what is missing; with each window comes of how many of its leading frames maps are needed.
    There is a window for every 22 frames that have begun, as in the published code, even if all its frames have been in
    the one before.
    """
    source = iter(frames)
    step = WINDOW_FRAMES - OVERLAP
    window = tuple(islice(source, WINDOW_FRAMES))
    read, begun = len(window), 0
    while begun < read:
        window += (WINDOW_FRAMES - len(window)) * window[-1:]
        yield window, max(read - begun, ALIGNED)  # from ALIGNED on a window's frames are those from `begun` on
        new = tuple(islice(source, step))
        read, begun = read + len(new), begun + step
        window = (*(window[number] for number in KEY_FRAMES), *new)


def join_windows(
    windows: Iterable[Float32[Tensor, "t h w"]], *, aligned: bool = True
) -> Iterator[Float32[Tensor, "h w"]]:
    """Yield the maps of cut windows, aligned with those before; padding included."""
    reference: Tensor | None = None
    held: Tensor | None = None
    for window in windows:
        if reference is None or held is None:
            yield from window[:-FADED]
            first = window[0]
        else:
            window = _align(window, reference) if aligned else window
            yield from _blend(held, window[ALIGNED:OVERLAP])
            yield from window[OVERLAP:-FADED]
            first = reference[0]
        reference = torch.stack([first, window[KEY_FRAMES[1]]])
        held = window[-FADED:].clone()
    if held is not None:
        yield from held


def _align(window: Float32[Tensor, "t h w"], reference: Float32[Tensor, "k h w"]) -> Float32[Tensor, "t h w"]:
    """Align a window with those before it by scale and shift, least squares over shared frames."""
    repeated = window[:ALIGNED].flatten()
    scale, shift = fit_scale_shift(repeated, reference.flatten(), torch.ones_like(repeated, dtype=torch.bool))
    return (scale * window + shift).clamp(min=0)


def _blend(before: Float32[Tensor, "k h w"], after: Float32[Tensor, "k h w"]) -> Float32[Tensor, "k h w"]:
    """Blend from the first frame of `before` to the last of `after` in equal steps."""
    weight = torch.linspace(0, 1, len(before), device=before.device)[:, None, None]
    return (1 - weight) * before + weight * after
