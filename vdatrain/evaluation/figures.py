"""Windows of held-out clips as one picture each: what was seen, predicted and true, and how far it is off."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from vdatrain.evaluation.evaluate import Gallery

ERROR_RANGE = 0.25  # share of the clip's disparity range at which the error's colours end
_UNKNOWN = 128  # grey, which no colour map has
_LABEL_HEIGHT = 26
_TEXT = (40, 40, 40)


def comparison_sheet(gallery: Gallery) -> UInt8[np.ndarray, "h w 3"]:
    """Return one row a frame: RGB, prediction, truth and error; grey where the truth is unknown.

    Prediction and truth share a scale, near is bright. The error is of disparity, its colours end at ERROR_RANGE of
    the clip's range; the last row is that scale.
    """
    width = gallery.frames.shape[2]
    titles = ("frame", "prediction, fitted", "truth", f"error, 0 to {ERROR_RANGE:.0%}")
    rows = [np.concatenate([_label(title, width) for title in titles], axis=1)]
    rows += [np.concatenate(_row(gallery, frame), axis=1) for frame in range(len(gallery.frames))]
    rows.append(_scales(width))
    return np.concatenate(rows)


def near_is_bright(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour disparity, 0 to 255 over the true range."""
    return _mapped(grey, cv2.COLORMAP_INFERNO)


def error_colours(
    prediction: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour the absolute difference, bright where it is ERROR_RANGE of the true range or more, grey where unknown."""
    share = np.abs(prediction.astype(np.float32) - truth) / (255 * ERROR_RANGE)
    coloured = _mapped((255 * share).round().clip(0, 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return np.where(known[..., None], coloured, np.uint8(_UNKNOWN))


def _row(gallery: Gallery, frame: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    prediction, truth, known = gallery.prediction[frame], gallery.truth[frame], gallery.known[frame]
    return [
        gallery.frames[frame],
        near_is_bright(prediction),
        np.where(known[..., None], near_is_bright(truth), np.uint8(_UNKNOWN)),
        error_colours(prediction, truth, known),
    ]


def _scales(width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return the row below the frames: empty, far to near twice, no error to the largest one shown."""
    ramp = np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (_LABEL_HEIGHT // 2, 1))
    blank = np.full((*ramp.shape, 3), 255, np.uint8)
    depth, error = near_is_bright(ramp), _mapped(ramp, cv2.COLORMAP_VIRIDIS)
    return np.concatenate([blank, depth, depth, error], axis=1)


def _mapped(grey: UInt8[np.ndarray, "h w"], colours: int) -> UInt8[np.ndarray, "h w 3"]:
    return cv2.cvtColor(cv2.applyColorMap(grey, colours), cv2.COLOR_BGR2RGB)


def _label(text: str, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Write a column's title, smaller where the column is narrow."""
    strip = np.full((_LABEL_HEIGHT, width, 3), 255, np.uint8)
    (needed, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    scale = 0.5 * min(1.0, (width - 4) / needed)
    cv2.putText(strip, text, (2, 18), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, 1, cv2.LINE_AA)
    return strip
