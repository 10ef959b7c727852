"""Scenes drawn from a seed: streets, squares and rooms."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from vdaprep.synthetic.textures import Vec3, draw_colour, draw_texture
from vdaprep.synthetic.world import CameraPath, Scene, Shake, Solid, Wave

# From the camera's path to any surface beside it; leaves room for a second camera half a metre to the right.
CLEARANCE_M = 1.6
_FULL_TURN = 2 * math.pi
_MOVERS, _MOVERS_TRIED = 12, 60
_MOVERS_SWAY_M, _MOVERS_PERIOD_FRAMES = 1.6, (14, 45)

# The path; solids that are always there; solids that are left out where the path is not clear of them.
_Plan = tuple[CameraPath, list[Solid], list[Solid]]


def make_scene(seed: int) -> Scene:
    """Draw a scene; seeds 0, 1, 2 (modulo 3) are streets, squares, rooms."""
    rng = np.random.default_rng(seed)
    path, shell, props = (_street, _square, _room)[seed % 3](rng)
    track_m = path.places(np.arange(path.period_frames, dtype=np.float64))
    height, bearing = rng.uniform(0.5, 1.1), rng.uniform(0, _FULL_TURN)
    horizon = np.array(draw_colour(rng, saturation=0.25, value=(0.75, 1.0)))
    return Scene(
        solids=(*shell, *(solid for solid in props if solid.is_clear_of(track_m, clearance_m=CLEARANCE_M))),
        path=path,
        sun=(math.cos(height) * math.sin(bearing), -math.sin(height), math.cos(height) * math.cos(bearing)),
        zenith=_vec3(horizon * rng.uniform((0.2, 0.4, 0.75), (0.5, 0.65, 1.0))),
        horizon=_vec3(horizon),
        haze_m=rng.uniform(60, 250),
    )


def shaken(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the scene with a camera that shakes; its poses are the shaken ones."""
    shake = Shake(
        size_m=rng.uniform(0.005, 0.02), size_rad=math.radians(rng.uniform(0.3, 0.8)), seed=int(rng.integers(1 << 31))
    )
    return replace(scene, path=replace(scene.path, shake=shake))


def crossed(scene: Scene, rng: np.random.Generator, *, frames: int) -> Scene:
    """Return the scene with objects that move fast where the camera looks in its first `frames`."""
    track_m = scene.path.places(np.arange(frames, dtype=np.float64))
    movers: list[Solid] = []
    for frame in rng.integers(frames, size=_MOVERS_TRIED).tolist():
        pose = scene.path.camera_to_world(frame=frame)
        bearing, away_m = math.radians(rng.uniform(-35, 35)), math.exp(rng.uniform(math.log(3), math.log(8)))
        x, _, z = pose[:3, 3] + away_m * pose[:3, :3] @ (math.sin(bearing), 0.0, math.cos(bearing))
        thing = _thing(rng, x=x, z=z, sway_m=_MOVERS_SWAY_M, scale=0.9)
        rate = _vec3(_FULL_TURN / rng.uniform(*_MOVERS_PERIOD_FRAMES, size=3))
        movers.append(replace(thing, spin_rad=rng.uniform(-0.15, 0.15), sway_m=replace(thing.sway_m, rate_rad=rate)))
    clear = [mover for mover in movers if mover.is_clear_of(track_m, clearance_m=CLEARANCE_M)]
    return replace(scene, solids=(*scene.solids, *clear[:_MOVERS]))


def _street(rng: np.random.Generator) -> _Plan:
    """Drive along z between two rows of houses."""
    period = int(rng.integers(750, 950))
    path = CameraPath(
        centre_m=(0.0, -rng.uniform(1.3, 2.2), 0.0),
        period_frames=period,
        sway_m=_wave(rng, period, size=(0.8, 0.15, 40.0), cycles=(4, 9, 1), phase=(None, None, rng.uniform(-1, -0.3))),
        swing_rad=_wave(rng, period, size=(0.25, 0.05, 0.03), cycles=(7, 9, 8)),
    )
    houses = [
        _house(rng, x=side * rng.uniform(10.0, 13.0), z=z + rng.uniform(-2, 2))
        for side in (-1, 1)
        for z in np.arange(-70.0, 91.0, 11.0).tolist()
        if rng.random() < 0.85
    ]
    things = [_thing(rng, x=x, z=z) for x, z in _spots(rng, path, count=70, away_m=(2.0, 7.0))]
    movers = [_thing(rng, x=x, z=z, sway_m=1.6) for x, z in _spots(rng, path, count=90, away_m=(4.0, 9.0))]
    return path, [_ground(rng)], houses + things + movers + _skyline(rng)


def _square(rng: np.random.Generator) -> _Plan:
    """Walk around a place with things in the middle and houses at its edge."""
    path = _loop(rng, radius_m=(6.0, 10.0), period=int(rng.integers(380, 520)))
    corners = rng.uniform((16, 0), (40, _FULL_TURN), (24, 2)).tolist()
    houses = [_house(rng, x=away * math.sin(bearing), z=away * math.cos(bearing)) for away, bearing in corners]
    things = [_thing(rng, x=x, z=z) for x, z in _spots(rng, path, count=50, away_m=(2.0, 16.0))]
    movers = [_thing(rng, x=x, z=z, sway_m=2.0) for x, z in _spots(rng, path, count=60, away_m=(4.0, 12.0))]
    return path, [_ground(rng)], houses + things + movers + _skyline(rng)


def _room(rng: np.random.Generator) -> _Plan:
    """Look about a room, some without a ceiling."""
    path = _loop(rng, radius_m=(0.8, 2.0), period=int(rng.integers(240, 340)))
    x_m, z_m, height_m = rng.uniform((5.5, 5.5, 3.2), (8.5, 8.5, 4.5)).tolist()
    walls = [
        (side * x, side * z, half_x, half_z)
        for side in (-1, 1)
        for x, z, half_x, half_z in ((x_m + 0.2, 0.0, 0.2, z_m + 0.4), (0.0, z_m + 0.2, x_m + 0.4, 0.2))
    ]
    shell = [_ground(rng)] + [
        Solid((x, -height_m / 2, z), (half_x, height_m / 2, half_z), draw_texture(rng, scale_m=rng.uniform(0.5, 1.2)))
        for x, z, half_x, half_z in walls
    ]
    if rng.random() < 0.6:
        ceiling = draw_texture(rng, scale_m=1.0, kinds=("tiles",))
        shell.append(Solid((0.0, -height_m - 0.2, 0.0), (x_m + 1, 0.2, z_m + 1), ceiling))
    spots = np.clip(_spots(rng, path, count=90, away_m=(2.0, 8.0)), (-x_m, -z_m), (x_m, z_m))
    things = [_thing(rng, x=x, z=z) for x, z in spots[:50]]
    return path, shell, things + [_thing(rng, x=x, z=z, sway_m=0.8, scale=0.4) for x, z in spots[50:]]


# --------------------------------------------------------------------------------------------------------------- paths


def _loop(rng: np.random.Generator, *, radius_m: tuple[float, float], period: int) -> CameraPath:
    """Follow an ellipse; the camera looks ahead, inwards, outwards or back, and turns along."""
    start = rng.uniform(0, _FULL_TURN)
    size = (rng.uniform(*radius_m), 0.15, rng.uniform(*radius_m))
    return CameraPath(
        centre_m=(0.0, -rng.uniform(1.3, 1.9), 0.0),
        period_frames=period,
        sway_m=_wave(rng, period, size=size, cycles=(1, 5, 1), phase=(start, None, start + math.pi / 2)),
        swing_rad=_wave(rng, period, size=(0.2, 0.08, 0.04), cycles=(3, 4, 5)),
        heading_rad=rng.uniform(0, _FULL_TURN),
        turn_rad=_FULL_TURN / period,
    )


def _wave(
    rng: np.random.Generator,
    period: int,
    *,
    size: Vec3,
    cycles: tuple[int, int, int],
    phase: tuple[float | None, float | None, float | None] = (None, None, None),
) -> Wave:
    """Make whole numbers of cycles in a period of frames; a phase of None is drawn."""
    drawn = [rng.uniform(0, _FULL_TURN) if given is None else given for given in phase]
    return Wave(size, _vec3(np.array(cycles) * _FULL_TURN / period), _vec3(np.array(drawn)))


def _spots(
    rng: np.random.Generator, path: CameraPath, *, count: int, away_m: tuple[float, float]
) -> Float64[np.ndarray, "count 2"]:
    """Draw places (x, z) between two distances from the path's points, the nearer the denser."""
    places = path.places(rng.uniform(0, path.period_frames, count))[:, (0, 2)]
    away = np.exp(rng.uniform(*np.log(away_m), size=count))
    bearing = rng.uniform(0, _FULL_TURN, count)
    return places + np.stack([away * np.sin(bearing), away * np.cos(bearing)], axis=1)


def _vec3(values: Float64[np.ndarray, "3"]) -> Vec3:
    x, y, z = values.tolist()
    return x, y, z


# -------------------------------------------------------------------------------------------------------------- solids


def _ground(rng: np.random.Generator) -> Solid:
    texture = draw_texture(rng, scale_m=rng.uniform(0.6, 1.5), kinds=("tiles", "bricks"))
    return Solid((0.0, 0.5, 0.0), (400.0, 0.5, 400.0), texture)


def _house(rng: np.random.Generator, *, x: float, z: float, scale: float = 1.0) -> Solid:
    half_m = _vec3(rng.uniform((2.5, 1.5, 3.5), (4.5, 7.0, 6.0)) * scale)
    texture = draw_texture(rng, scale_m=rng.uniform(1.2, 2.5) * scale, kinds=("windows", "windows", "bricks"))
    return Solid((x, -half_m[1], z), half_m, texture, yaw_rad=rng.normal(0, 0.1))


def _skyline(rng: np.random.Generator) -> list[Solid]:
    """Place towers far out in all directions."""
    places = [(bearing, rng.uniform(110, 190)) for bearing in np.arange(0, _FULL_TURN, 0.2).tolist()]
    return [_house(rng, x=away * math.sin(bearing), z=away * math.cos(bearing), scale=2.5) for bearing, away in places]


# Crates, cabinets, posts, balls: the smallest and the largest half sizes, and whether it is round.
_SHAPES = (
    ((0.2, 0.2, 0.2), (0.8, 0.8, 0.8), False),
    ((0.3, 0.5, 0.6), (0.9, 1.1, 1.8), False),
    ((0.07, 1.0, 0.07), (0.15, 2.5, 0.15), False),
    ((0.25, 0.25, 0.25), (0.9, 0.9, 0.9), True),
)


def _thing(rng: np.random.Generator, *, x: float, z: float, sway_m: float = 0.0, scale: float = 1.0) -> Solid:
    """Place something on the ground that sways by up to `sway_m` and turns; some fly."""
    least, most, is_ball = _SHAPES[int(rng.integers(len(_SHAPES)))]
    half_m = _vec3(rng.uniform(least, most) * scale)
    flies = sway_m > 0 and rng.random() < 0.4
    sway = rng.uniform(0.2, 1, size=3) * sway_m * (1, 0.3 if flies else 0, 1)
    return Solid(
        centre_m=(x, -half_m[1] - (rng.uniform(0.2, 0.8) + sway[1] if flies else 0.0), z),
        half_m=half_m,
        texture=draw_texture(rng, scale_m=rng.uniform(0.15, 0.5)),
        is_ball=is_ball,
        yaw_rad=rng.uniform(0, _FULL_TURN),
        spin_rad=rng.uniform(-0.04, 0.04) if sway_m else 0.0,
        sway_m=Wave(
            size=_vec3(sway),
            rate_rad=_vec3(_FULL_TURN / rng.uniform(80, 200, size=3)),
            phase_rad=_vec3(rng.uniform(0, _FULL_TURN, size=3)),
        ),
    )
