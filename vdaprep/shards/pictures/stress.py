"""Images under stress: what disturbs frames and leaves their depth as it is.

    flicker1  the exposure is too long and too short by turns, a frame each
    flicker2  the same, two frames each
    flash     single frames are far too bright
    noise     the sensor's noise: of the light (more where it is bright) and of the readout
    rain      bright streaks fall through the picture and hide what is behind them

These are functions of the frame's number and of a seed, so any frame stands alone. Two more change the scene itself, so
that only a renderer has them: `shake` (of the camera) and `objects` (that move).
"""

import functools
import math
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from vdaprep.errors import UsageError

NONE, ALL = "none", "all"
SCENE_KINDS = ("shake", "objects")
"""Kinds of stress that a renderer alone can make."""

Kinds = tuple[str, ...]
"""Kinds of stress that come together; empty: none."""
_Image = Float32[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Stress:
    """Stress of the images of one trajectory or clip."""

    kinds: Kinds
    """What disturbs them; kinds that are not of images do nothing here."""
    seed: int
    """With `name`, what strengths and times are drawn from."""
    name: str
    """The trajectory or clip: each draws its own."""

    def apply(self, rgb: UInt8[np.ndarray, "h w 3"], *, frame: int, camera: int = 0) -> UInt8[np.ndarray, "h w 3"]:
        """Return frame number `frame` disturbed; `camera` tells the cameras of a rig apart.

        All cameras are exposed alike; noise and rain are each one's own.
        """
        if not IMAGE_KINDS.keys() & set(self.kinds):
            return rgb
        image = rgb.astype(np.float32)
        for kind, disturb in IMAGE_KINDS.items():
            if kind in self.kinds:
                image = disturb(image, functools.partial(self.generator, kind), frame, camera)
        return np.rint(image.clip(0, 255)).astype(np.uint8)

    def generator(self, kind: str, *numbers: int) -> np.random.Generator:
        """Return the generator of what is drawn for a kind, once or for each of `numbers`."""
        names = (zlib.crc32(text.encode()) for text in (self.name, kind))
        return np.random.default_rng([self.seed, *names, *numbers])


def parse_stress(text: str, *, known: Collection[str]) -> tuple[Kinds, ...]:
    """Read `flicker1,noise+rain`: alternatives, each of one or several kinds.

    `all` is each kind of `known` alone, `none` no stress.

    Raises:
        UsageError: a kind is not known, or comes twice.
    """
    found = [tuple(kind.strip() for kind in item.split("+")) for item in text.split(",")]
    found = [one for kinds in found for one in (((kind,) for kind in known) if kinds == (ALL,) else (kinds,))]
    found = [() if kinds == (NONE,) else kinds for kinds in found]
    for kinds in found:
        if not set(kinds) <= set(known) or len(set(kinds)) < len(kinds):
            there = f"{', '.join(known)}, {ALL}, {NONE}"
            of_scenes = set(kinds) & set(SCENE_KINDS)
            why = f" ({' and '.join(sorted(of_scenes))} can only be rendered: vdaprep sample does)" if of_scenes else ""
            raise UsageError(
                f"--stress {text[:60]}: '{'+'.join(kinds)[:40]}' is not understood{why}; expected of {there}, with "
                "commas between alternatives and + between kinds that come together."
            )
    if len(set(found)) < len(found):
        raise UsageError(f"--stress {text[:60]}: has an alternative twice, expected each once.")
    return tuple(found)


def describe(kinds: Kinds) -> str:
    """Write kinds that come together as `parse_stress` reads them."""
    return "+".join(kinds) or NONE


# ------------------------------------------------------------------------------------------------------ kinds of stress

_Draw = Callable[..., np.random.Generator]
_FLICKER = (0.15, 0.35)  # natural logarithm of the greatest exposure: 16 to 42 % too long, and as much too short
_FLASH_EVERY = (6, 11)  # frames in which there is one flash
_FLASH_GAIN, _FLASH_VEIL = (1.5, 2.2), (25, 60)
_NOISE = (6.0, 16.0)  # standard deviation at mid grey, in grey levels
_READOUT = 0.3  # share of the variance at mid grey that does not come from the light
_DROPS = (70, 140)
_SPEED, _LENGTH, _WIDTH = 0.35, 0.13, 0.012  # of the nearest drop, in heights of the picture; of speed, a frame
_SLANT = 0.25  # sideways for each step down, at most
_ABOVE = 0.2  # heights of the picture that a drop falls through out of sight
_SUBPIXEL_BITS = 4


def _flicker(image: _Image, draw: _Draw, frame: int, camera: int, *, hold: int) -> _Image:
    rng = draw()
    strength, phase = rng.uniform(*_FLICKER), int(rng.integers(2))
    turn = frame // hold
    sign = 1 if (turn + phase) % 2 else -1
    return image * np.float32(math.exp(sign * strength * draw(turn).uniform(0.6, 1)))


def _flash(image: _Image, draw: _Draw, frame: int, camera: int) -> _Image:
    rng = draw()
    every = int(rng.integers(*_FLASH_EVERY))
    gain, veil = rng.uniform(*_FLASH_GAIN), rng.uniform(*_FLASH_VEIL)
    # Two frames at the end of each stretch stay dark, so that no two flashes are neighbours.
    block, place = divmod(frame, every)
    return image * np.float32(gain) + np.float32(veil) if draw(block).integers(every - 1) == place else image


def _noise(image: _Image, draw: _Draw, frame: int, camera: int) -> _Image:
    deviation = draw().uniform(*_NOISE)
    light = np.maximum(image, 0) * np.float32((1 - _READOUT) / 128)
    scale = np.float32(deviation) * np.sqrt(light + np.float32(_READOUT))
    return image + scale * draw(frame, camera).standard_normal(image.shape, dtype=np.float32)


def _rain(image: _Image, draw: _Draw, frame: int, camera: int) -> _Image:
    height, width, _ = image.shape
    shared, rng = draw(), draw(camera)
    slant, grey = shared.uniform(-_SLANT, _SLANT), shared.uniform(170, 230)
    count = int(shared.integers(*_DROPS))
    near = rng.uniform(0.3, 1, count)  # the reciprocal of a drop's distance
    across, down, opacity = rng.random(count), rng.random(count), rng.uniform(0.45, 0.8, count)
    fallen = down * (1 + _ABOVE) + _SPEED * near * frame
    falls, y = np.divmod(fallen, 1 + _ABOVE)
    x = (across + 0.618 * falls + slant * fallen * height / width) % 1  # every fall in another place
    y -= _ABOVE
    cover = np.zeros((height, width), np.uint8)
    begins = np.stack([x * width, y * height], axis=1)
    ends = begins + (_LENGTH * height) * near[:, None] * (slant, 1)
    lines = np.rint(np.concatenate([begins, ends], axis=1) * 2**_SUBPIXEL_BITS).astype(int).tolist()
    thick = np.rint(_WIDTH * height * near).clip(1).astype(int).tolist()
    codes = np.rint(255 * opacity).astype(int).tolist()
    cover = np.zeros((height, width), np.uint8)
    for i in np.argsort(near).tolist():
        left, top, right, bottom = lines[i]
        cv2.line(cover, (left, top), (right, bottom), codes[i], thick[i], cv2.LINE_AA, _SUBPIXEL_BITS)
    return image + (np.float32(grey) - image) * (cover[..., None] / np.float32(255))


IMAGE_KINDS: Mapping[str, Callable[[_Image, _Draw, int, int], _Image]] = MappingProxyType(
    {
        # As light meets them: drops before the lens, then the exposure, then the sensor.
        "rain": _rain,
        "flicker1": functools.partial(_flicker, hold=1),
        "flicker2": functools.partial(_flicker, hold=2),
        "flash": _flash,
        "noise": _noise,
    }
)
"""Kinds of stress that images take, in the order in which they are applied."""
