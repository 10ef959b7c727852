"""Windows of held-out clips as pictures: frame, prediction, truth and error."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from vdaprep.shards.pictures.depth_colors import SKY_RGB, depth_legend, hatch, near_is_bright
from vdatrain.evaluation.evaluate import Gallery

ERROR_RANGE = 0.25  # share of the clip's disparity range at which the error's colours end
_SCALE_HEIGHT = 13
_LABEL_HEIGHT = 26
_TEXT = (40, 40, 40)


def comparison_sheet(gallery: Gallery) -> UInt8[np.ndarray, "h w 3"]:
    """Return one row a frame: RGB, prediction, truth, error; hatched without a truth.

    Prediction and truth share a scale, near is bright. The error is of disparity, its colours end at ERROR_RANGE of
    the clip's range; below the frames are both scales.
    """
    width = gallery.frames.shape[2]
    titles = ("frame", "prediction, fitted", "truth", f"error, 0 to {ERROR_RANGE:.0%}")
    rows = [np.concatenate([_label(title, width) for title in titles], axis=1)]
    rows += [np.concatenate(_row(gallery, frame), axis=1) for frame in range(len(gallery.frames))]
    rows.append(_scales(gallery))
    return np.concatenate(rows)


def true_colours(truth: UInt8[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour the truth of a gallery: near is bright, sky blue, hatched where it is unknown."""
    colours = near_is_bright(truth)
    colours[truth == 0] = SKY_RGB
    return hatch(colours, ~known)


def error_colours(
    prediction: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour the absolute difference, brightest from ERROR_RANGE of the true range on."""
    share = np.abs(prediction.astype(np.float32) - truth) / (255 * ERROR_RANGE)
    coloured = error_map((255 * share).round().clip(0, 255).astype(np.uint8))
    return hatch(coloured, ~known)


def error_map(level: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour errors, 0 to 255, which is ERROR_RANGE and more."""
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def _row(gallery: Gallery, frame: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    prediction, truth, known = gallery.prediction[frame], gallery.truth[frame], gallery.known[frame]
    return [
        gallery.frames[frame],
        near_is_bright(prediction),
        true_colours(truth, known),
        error_colours(prediction, truth, known),
    ]


def _scales(gallery: Gallery) -> UInt8[np.ndarray, "h w 3"]:
    """Return what is below the frames: the colours of depth, and those of the error."""
    width = gallery.frames.shape[2]
    low, high = gallery.disparity_range.tolist()
    legend = depth_legend(2 * width, disparity_min=low, disparity_max=high)
    ramp = np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (_SCALE_HEIGHT, 1))
    error = np.concatenate([error_map(ramp), _ends("0%", f"{ERROR_RANGE:.0%}", width)])
    left, below = np.full((len(legend), width, 3), 255, np.uint8), len(legend) - len(error)
    return np.concatenate([left, legend, np.pad(error, ((0, below), (0, 0), (0, 0)), constant_values=255)], axis=1)


def _ends(left: str, right: str, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Write a text at each end of a strip."""
    half = width // 2
    strip = _label(left, width)
    (needed, _), _ = cv2.getTextSize(right, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    if needed + 4 < half:
        strip[:, width - needed - 4 :] = _label(right, needed + 4)
    return strip


def _label(text: str, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Write a column's title, smaller where the column is narrow."""
    strip = np.full((_LABEL_HEIGHT, width, 3), 255, np.uint8)
    (needed, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    scale = 0.5 * min(1.0, (width - 4) / needed)
    cv2.putText(strip, text, (2, 18), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, 1, cv2.LINE_AA)
    return strip
