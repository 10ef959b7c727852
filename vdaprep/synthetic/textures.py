"""Procedural colour tiles with their mip pyramids, which keep far texture from flickering."""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

TILE = 128  # texels a side; a power of two, so that wrapping is a bit mask
_SIZES = tuple(TILE >> level for level in range(TILE.bit_length()))
_STARTS = np.cumsum((0, *(size * size for size in _SIZES)))
VARIANTS = 2  # tiles of each kind in an atlas

Tile = Float64[np.ndarray, "128 128 3"]


@dataclass(frozen=True, eq=False)
class Atlas:
    """Tiles that repeat without seams, each followed by its smaller levels: row-major texels, colours around 0 to 1."""

    texels: Float32[np.ndarray, "texels 3"]

    def sample(
        self,
        *,
        tile: Int64[np.ndarray, " n"],
        u: Float32[np.ndarray, " n"],
        v: Float32[np.ndarray, " n"],
        footprint: Float32[np.ndarray, " n"],
    ) -> Float32[np.ndarray, "3 n"]:
        """Look up colours, trilinearly; `u`, `v` and `footprint` (the width of a pixel) are in tiles."""
        level = np.clip(np.log2(footprint * TILE), 0, len(_SIZES) - 1)
        fine = level.astype(np.int64)
        colour = self._level(tile, fine, u, v)
        coarse = self._level(tile, np.minimum(fine + 1, len(_SIZES) - 1), u, v)
        colour += (coarse - colour) * (level - fine).astype(np.float32)[:, None]
        return np.ascontiguousarray(colour.T)

    def _level(
        self,
        tile: Int64[np.ndarray, " n"],
        level: Int64[np.ndarray, " n"],
        u: Float32[np.ndarray, " n"],
        v: Float32[np.ndarray, " n"],
    ) -> Float32[np.ndarray, "n 3"]:
        size = TILE >> level
        x, y = u * size - 0.5, v * size - 0.5
        left, top = np.floor(x), np.floor(y)
        across, down = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
        columns = [(left.astype(np.int64) + step) & (size - 1) for step in (0, 1)]
        start = tile * _STARTS[-1] + _STARTS[level]
        rows = [start + ((top.astype(np.int64) + step) & (size - 1)) * size for step in (0, 1)]
        upper, lower = (
            self.texels[row + columns[0]] * (1 - across) + self.texels[row + columns[1]] * across for row in rows
        )
        return upper * (1 - down) + lower * down


def make_atlas(rng: np.random.Generator) -> Atlas:
    """Draw `VARIANTS` tiles of each kind; `tile_of` says where they lie."""
    tiles = [draw(rng) * (1 + 0.1 * _fractal(rng))[..., None] for draw in _KINDS.values() for _ in range(VARIANTS)]
    return Atlas(texels=np.concatenate([_pyramid(tile) for tile in tiles]))


def tile_of(rng: np.random.Generator, *kinds: str) -> int:
    """Choose a tile of one of the kinds, of any if none is named."""
    kind = str(rng.choice(kinds or tuple(_KINDS)))
    return list(_KINDS).index(kind) * VARIANTS + int(rng.integers(VARIANTS))


def draw_colour(
    rng: np.random.Generator, *, saturation: float = 0.6, value: tuple[float, float] = (0.35, 0.95)
) -> tuple[float, float, float]:
    """Draw RGB in 0 to 1 of any hue, at most that saturated."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 1) * saturation, rng.uniform(*value))


def _pyramid(tile: Tile) -> Float32[np.ndarray, "texels 3"]:
    levels = [tile]
    while len(levels[-1]) > 1:
        half = len(levels[-1]) // 2
        levels.append(levels[-1].reshape(half, 2, half, 2, 3).mean(axis=(1, 3)))
    return np.concatenate([level.reshape(-1, 3) for level in levels]).astype(np.float32)


def _fractal(rng: np.random.Generator) -> Float64[np.ndarray, "128 128"]:
    """Noise of all scales, of mean 0 and deviation 1; filtered in the Fourier domain, so it repeats without seams."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE)))
    frequency[0, 0] = math.inf
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((TILE, TILE))) / frequency**1.1).real
    return noise / noise.std()


def _grid() -> tuple[Int64[np.ndarray, "128 128"], Int64[np.ndarray, "128 128"]]:
    rows, columns = np.mgrid[:TILE, :TILE]
    return rows, columns


def _cells(
    rng: np.random.Generator, row: Int64[np.ndarray, "128 128"], column: Int64[np.ndarray, "128 128"]
) -> Float64[np.ndarray, "128 128 1"]:
    """Give each cell its own brightness."""
    return rng.uniform(0.7, 1.2, (TILE, TILE, 1))[row, column]


def _checker(rng: np.random.Generator) -> Tile:
    side = int(rng.choice((16, 32)))
    rows, columns = (axis // side for axis in _grid())
    colours = np.array([draw_colour(rng, saturation=0.45), draw_colour(rng, saturation=0.45, value=(0.15, 0.5))])
    return colours[(rows + columns) % 2] * _cells(rng, rows, columns)


def _bricks(rng: np.random.Generator) -> Tile:
    rows, columns = _grid()
    row = rows // 16
    shifted = (columns + 16 * (row % 2)) % TILE
    joint = (rows % 16 < 2) | (shifted % 32 < 2)
    brick = np.array(draw_colour(rng, saturation=0.45, value=(0.3, 0.8))) * _cells(rng, row, shifted // 32)
    return np.where(joint[..., None], np.array(draw_colour(rng, saturation=0.15)), brick)


def _windows(rng: np.random.Generator) -> Tile:
    rows, columns = _grid()
    pane = (abs(columns % 32 - 16) < rng.integers(6, 13)) & (abs(rows % 32 - 16) < rng.integers(6, 13))
    glass = np.array((0.2, 0.27, 0.38)) * _cells(rng, rows // 32, columns // 32) ** 3
    return np.where(pane[..., None], glass, np.array(draw_colour(rng, saturation=0.45)))


def _stripes(rng: np.random.Generator) -> Tile:
    edges = np.sort(rng.choice(np.arange(4, TILE, 4), size=11, replace=False))
    colours = np.array([draw_colour(rng) for _ in range(12)])
    axis = _grid()[int(rng.integers(2))]
    return colours[np.searchsorted(edges, axis, side="right")]


def _clouds(rng: np.random.Generator) -> Tile:
    share = np.clip(0.5 + 0.25 * _fractal(rng), 0, 1)[..., None]
    return np.array(draw_colour(rng)) * share + np.array(draw_colour(rng, value=(0.15, 0.5))) * (1 - share)


def _patches(rng: np.random.Generator) -> Tile:
    tile = np.full((TILE, TILE, 3), draw_colour(rng))
    rows, columns = _grid()
    for _ in range(40):
        top, left = rng.integers(TILE, size=2)
        height, width = rng.integers(10, 48, size=2)
        inside = ((rows - top) % TILE < height) & ((columns - left) % TILE < width)
        tile[inside] = draw_colour(rng, value=(0.15, 0.95))
    return tile


_KINDS: dict[str, Callable[[np.random.Generator], Tile]] = {
    "checker": _checker,
    "bricks": _bricks,
    "windows": _windows,
    "stripes": _stripes,
    "clouds": _clouds,
    "patches": _patches,
}
