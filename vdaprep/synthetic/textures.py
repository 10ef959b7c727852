"""Procedural colours of solids: cells with joints, smoothed to a pixel's width."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt32

Vec3 = tuple[float, float, float]


@dataclass(frozen=True)
class Texture:
    """A pattern of a surface: tiles, bricks, windows or stripes; colours from 0 to 1."""

    cell_m: tuple[float, float] = (1.0, 1.0)
    """Width and height of a cell."""
    joint: float = 0.1
    """Part of a cell's width and height that the joint takes."""
    shift: float = 0.0
    """Part of a cell's width by which every other row is moved."""
    colours: tuple[Vec3, Vec3] = ((0.3, 0.3, 0.3), (0.8, 0.8, 0.8))
    """Each cell has a colour somewhere between these two."""
    joint_colour: Vec3 = (0.5, 0.5, 0.5)
    """Colour between the cells."""
    seed: int = 0
    """Which cell has which colour."""


_KINDS = {
    "tiles": ((1.0, 1.0), (0.04, 0.1), 0.0),
    "bricks": ((1.0, 0.5), (0.08, 0.14), 0.5),
    "windows": ((1.0, 1.0), (0.4, 0.6), 0.0),
    "stripes": ((40.0, 0.6), (0.02, 0.1), 0.0),
}
"""Width and height of a cell before scaling, the range of the joint, the shift of rows."""
_GRAIN = 5  # grains along a cell: finer detail inside of it


def draw_texture(rng: np.random.Generator, *, scale_m: float, kinds: Sequence[str] = tuple(_KINDS)) -> Texture:
    """Draw a texture of one of the kinds, whose cells are about `scale_m` large."""
    (width, height), joint, shift = _KINDS[str(rng.choice(kinds))]
    hue, saturation = rng.random(), rng.uniform(0.1, 0.6)
    dark, light = (
        colorsys.hsv_to_rgb((hue + rng.normal(0, 0.08)) % 1, saturation, rng.uniform(*value))
        for value in ((0.15, 0.45), (0.55, 1.0))
    )
    return Texture(
        cell_m=(width * scale_m, height * scale_m),
        joint=rng.uniform(*joint),
        shift=shift,
        colours=(dark, light),
        joint_colour=draw_colour(rng, saturation=0.3, value=(0.3, 0.95)),
        seed=int(rng.integers(1 << 31)),
    )


def draw_colour(rng: np.random.Generator, *, saturation: float, value: tuple[float, float]) -> Vec3:
    """Draw RGB in 0 to 1 of any hue, at most that saturated."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 1) * saturation, rng.uniform(*value))


def texture_colours(
    textures: Sequence[Texture],
    which: Int64[np.ndarray, " p"],
    place_m: Float32[np.ndarray, "2 p"],
    footprint_m: Float32[np.ndarray, " p"],
) -> Float32[np.ndarray, "3 p"]:
    """Return colours on surfaces; patterns finer than `footprint_m` fade to their mean.

    `which` says for each place which of the textures it has.
    """
    cell_m, colours, joint_colour, joint, shift = (
        np.array([getattr(texture, name) for texture in textures], dtype=np.float32).T[..., which]
        for name in ("cell_m", "colours", "joint_colour", "joint", "shift")
    )
    seed = np.array([texture.seed for texture in textures], dtype=np.uint32)[which]
    width = footprint_m / cell_m
    grid = place_m / cell_m
    grid[0] += shift * (np.floor(grid[1]) % 2)
    widest = width.max(axis=0)
    tone = 0.5 + _cells(grid, seed) * _fade(widest)
    grain = 1 + 0.25 * _cells(grid * _GRAIN, seed) * _fade(widest * _GRAIN)
    edge = 0.5 - np.abs(grid - np.floor(grid) - 0.5)  # from the nearest edge of the cell
    sharp = np.clip((edge - joint / 2) / np.maximum(width, 1e-6) + 0.5, 0, 1)
    inside = (1 - joint + (sharp - (1 - joint)) * _fade(width)).prod(axis=0)
    body = colours[:, 0] + (colours[:, 1] - colours[:, 0]) * tone
    return (joint_colour + (body - joint_colour) * inside) * grain


def _fade(width: Float32[np.ndarray, "*axes p"]) -> Float32[np.ndarray, "*axes p"]:
    """Return how much of a pattern is left in a pixel of `width` cells: 1 to 1/4, 0 from 3/4."""
    return np.clip(1.5 - 2 * width, 0, 1)


def _cells(grid: Float32[np.ndarray, "2 p"], seed: UInt32[np.ndarray, " p"]) -> Float32[np.ndarray, " p"]:
    """Give each cell a number from -0.5 to 0.5, by an integer hash."""
    column, row = np.floor(grid).astype(np.int64).astype(np.uint32)
    bits = column * np.uint32(374761393) + row * np.uint32(668265263) + seed
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return (bits >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)
