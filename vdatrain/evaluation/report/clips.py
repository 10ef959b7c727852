"""Clips for the player: every layer of a clip is one image, its frames one below the other.

Frames are made small by leaving out pixels, so that each level shown is one that was predicted. RGB is a lossy WebP;
truth a lossless one, red the level and green 255 where it is known; a prediction a grey JPEG. The page colours them.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vdaprep.shards.pictures.depth_colors import SKY_RGB, near_is_bright
from vdatrain.evaluation.figures import ERROR_RANGE, error_map
from vdatrain.evaluation.report.content import ShownClip

MAX_SIDE = 256  # pixels of a frame's longer side
MAX_FRAMES = 48
FLICKER_RANGE = 0.1  # share of the clip's disparities at which the colours of flicker end
_BLOCK = 16  # an encoder's blocks end with each frame, so that none mixes two
_RGB = [cv2.IMWRITE_WEBP_QUALITY, 75]
_LOSSLESS = [cv2.IMWRITE_WEBP_QUALITY, 101]
_GREY = [cv2.IMWRITE_JPEG_QUALITY, 92]


def for_player(clips: Sequence[ShownClip], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the page's script shows: numbers, names, images as `data:` URLs."""
    return [_clip(clip, arms) for clip in clips]


def colours() -> dict[str, Any]:
    """Return the colours of levels 0 to 255, three bytes each as base64, and what they mean."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    maps = {"disparity": near_is_bright(ramp), "error": error_map(ramp)}
    return {
        **{name: base64.b64encode(colour.tobytes()).decode("ascii") for name, colour in maps.items()},
        "sky": list(SKY_RGB),
        "error_range": ERROR_RANGE,
        "flicker_range": FLICKER_RANGE,
    }


def _clip(clip: ShownClip, arms: Sequence[str]) -> dict[str, Any]:
    first = next(iter(clip.galleries.values()))
    low, high = first.disparity_range.tolist()
    frames = _small(first.frames)
    height, width = frames.shape[1:3]
    truth, known = _picked(first.truth), _picked(first.known)
    layers = np.stack([truth, np.where(known, 255, 0).astype(np.uint8), np.zeros_like(truth)], axis=-1)
    return {
        "title": clip.title,
        "frames": len(frames),
        "height": height,
        "pitch": _pitch(height),
        "width": width,
        "range": [low, high] if high > low else None,
        "rgb": _url(frames, ".webp", _RGB),
        "truth": _url(layers, ".webp", _LOSSLESS),
        "predictions": _predictions(clip, arms),
    }


def _predictions(clip: ShownClip, arms: Sequence[str]) -> list[Mapping[str, Any]]:
    return [
        {"arm": number, "image": _url(_picked(clip.galleries[arm].prediction), ".jpg", _GREY)}
        for number, arm in enumerate(arms)
        if arm in clip.galleries
    ]


def _target(shape: Sequence[int]) -> tuple[int, int]:
    """Return height and width of a frame on the page."""
    height, width = shape[1:3]
    scale = min(1, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _picked(frames: np.ndarray) -> np.ndarray:
    """Return frames on the page with some of the pixels, evenly spread."""
    height, width = _target(frames.shape)
    rows = (2 * np.arange(height) + 1) * frames.shape[1] // (2 * height)
    columns = (2 * np.arange(width) + 1) * frames.shape[2] // (2 * width)
    return frames[:MAX_FRAMES, rows[:, None], columns]


def _small(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t2 h2 w2 3"]:
    """Return frames on the page with averaged pixels."""
    height, width = _target(frames.shape)
    return np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in frames[:MAX_FRAMES]])


def _pitch(height: int) -> int:
    """Return the rows from one frame to the next in an image."""
    return -(-height // _BLOCK) * _BLOCK


def _url(frames: np.ndarray, ending: str, options: Sequence[int]) -> str:
    """Return frames (t h w or t h w 3) as one image, its last row repeated to whole blocks."""
    more = _pitch(frames.shape[1]) - frames.shape[1]
    padded = np.pad(frames, [(0, 0), (0, more), *[(0, 0)] * (frames.ndim - 2)], mode="edge")
    image = padded.reshape(-1, *padded.shape[2:])
    image = image[..., ::-1] if image.ndim == 3 else image  # OpenCV's order is BGR
    _, data = cv2.imencode(ending, np.ascontiguousarray(image), options)
    return f"data:image/{ending[1:].replace('jpg', 'jpeg')};base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
