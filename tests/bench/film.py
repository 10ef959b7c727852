"""Make the README's film: `python -m tests.bench.film SHARDS CHECKPOINT FILE.webp`.

A held-out clip, four panels a frame: the frame, its true disparity, the disparity that was predicted, the difference to
the frame before. The prediction is fitted to the truth by one scale and one shift for the whole clip, as in evaluation.
"""

import argparse

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

import vdaprep
import vdatrain
from vdaprep.analysis.preview import colour_diff
from vdaprep.shards.pictures.depth_colors import near_is_bright
from vdatrain.objectives.alignment import fit_scale_shift

WIDTH = 360  # of a panel, in pixels
CAPTION = 22
FRAMES_PER_SECOND = 10


def main() -> None:
    """Predict a clip and write the film."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.film", description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("checkpoint")
    parser.add_argument("film")
    parser.add_argument("--clip", type=int, default=0, help="which of the held-out clips")
    given = parser.parse_args()
    clip = vdaprep.open_shards(given.shards).clips(split="val")[given.clip]
    frames = clip.read()
    predicted = vdatrain.load_predictor(given.checkpoint).predict(frames.rgb)
    truth, fitted = grey_levels(frames.depth_m, predicted)
    height, width = frames.rgb.shape[1:3]
    differences = [colour_diff(one, height=height, width=width) for one in frames.differences]
    pictures = [
        Image.fromarray(
            np.concatenate(
                [
                    np.concatenate([panel(rgb, "frame"), panel(near_is_bright(true), "truth")], axis=1),
                    np.concatenate(
                        [panel(near_is_bright(found), "prediction"), panel(change, "difference to the frame before")],
                        axis=1,
                    ),
                ]
            )
        )
        for rgb, true, found, change in zip(frames.rgb, truth, fitted, differences, strict=True)
    ]
    film = [*pictures, *pictures[-2:0:-1]]  # there and back, so that it has no jump
    options = {"duration": 1000 // FRAMES_PER_SECOND, "loop": 0, "quality": 60, "method": 6}
    film[0].save(given.film, save_all=True, append_images=film[1:], **options)


def grey_levels(
    depth_m: Float32[np.ndarray, "t h w"], predicted: Float32[np.ndarray, "t h w"]
) -> list[UInt8[np.ndarray, "t h w"]]:
    """Return the root of true and of fitted disparity, which lets the far half be seen, as grey levels."""
    disparity = np.nan_to_num(1 / depth_m)  # sky 0, and unknown too
    mask = torch.from_numpy(np.isfinite(depth_m)).flatten()
    scale, shift = fit_scale_shift(torch.from_numpy(predicted).flatten(), torch.from_numpy(disparity).flatten(), mask)
    fitted = scale.item() * predicted + shift.item()
    highest = np.percentile(disparity, 99.5)
    return [(255 * np.sqrt((each / highest).clip(0, 1))).astype(np.uint8) for each in (disparity, fitted)]


def panel(pixels: UInt8[np.ndarray, "h w 3"], caption: str) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return a picture of the common width below its caption."""
    height = round(pixels.shape[0] * WIDTH / pixels.shape[1])
    strip = np.full((CAPTION, WIDTH, 3), 255, np.uint8)
    cv2.putText(strip, caption, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([strip, cv2.resize(pixels, (WIDTH, height), interpolation=cv2.INTER_CUBIC)])


if __name__ == "__main__":
    main()
