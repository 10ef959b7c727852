"""What a rendered world is: solids that may move, light, air, and the path of a camera.

World axes are OpenCV's: x right, y down, z forward, in metres; the ground is y = 0. Time is the frame number, and
everything that moves is a function of it, so that any frame stands alone.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from vdaprep.synthetic.textures import Texture, Vec3


@dataclass(frozen=True)
class Wave:
    """Three sines of the frame number: `size * sin(rate * frame + phase)`."""

    size: Vec3 = (0.0, 0.0, 0.0)
    """Amplitude."""
    rate_rad: Vec3 = (0.0, 0.0, 0.0)
    """Radians a frame."""
    phase_rad: Vec3 = (0.0, 0.0, 0.0)
    """Radians at frame 0."""

    def at(self, frames: Float[np.ndarray, " t"]) -> Float64[np.ndarray, "t 3"]:
        """Return the values at those frames."""
        return np.array(self.size) * np.sin(frames[:, None] * np.array(self.rate_rad) + np.array(self.phase_rad))


@dataclass(frozen=True)
class Solid:
    """A box, or a ball (with those half axes), that may turn about the vertical and sway."""

    centre_m: Vec3
    """Its centre, in the world."""
    half_m: Vec3
    """Half its extent along each of its axes."""
    texture: Texture = Texture()
    """What covers it."""
    is_ball: bool = False
    """Whether it is a ball rather than a box."""
    yaw_rad: float = 0.0
    """Turn about the vertical at frame 0."""
    spin_rad: float = 0.0
    """Yaw a frame."""
    sway_m: Wave = Wave()
    """How it moves about its centre."""

    @property
    def moves(self) -> bool:
        """Whether it is elsewhere, or turned, in another frame."""
        return self.spin_rad != 0 or any(self.sway_m.size)

    def is_clear_of(self, track_m: Float64[np.ndarray, "t 3"], *, clearance_m: float) -> bool:
        """Tell whether the disc it turns and sways in, seen from above, is that far from a track."""
        reach_m = math.hypot(self.half_m[0], self.half_m[2]) + math.hypot(self.sway_m.size[0], self.sway_m.size[2])
        away_m = np.linalg.norm((track_m - np.array(self.centre_m))[:, (0, 2)], axis=1)
        return bool(away_m.min() - reach_m > clearance_m)


@dataclass(frozen=True)
class Shake:
    """Small movements of a camera, drawn anew for every frame."""

    size_m: float
    """Standard deviation along each axis of the camera, in metres; twice that is the most."""
    size_rad: float
    """Likewise of yaw, pitch and roll, in radians."""
    seed: int
    """What they are drawn from."""

    def at(self, frame: int) -> Float64[np.ndarray, "4 4"]:
        """Return the pose of a frame's shaken camera, as its path's camera sees it."""
        drawn = np.random.default_rng([self.seed, frame]).standard_normal((2, 3)).clip(-2, 2)
        yaw, pitch, roll = self.size_rad * drawn[0][:, None]
        pose = np.eye(4)
        pose[:3, :3] = rotation(yaw=yaw, pitch=pitch, roll=roll)[0]
        pose[:3, 3] = self.size_m * drawn[1]
        return pose


@dataclass(frozen=True)
class CameraPath:
    """A smooth, closed path: a place, a heading that turns steadily, and swings about both."""

    centre_m: Vec3
    """Place about which the camera sways."""
    period_frames: int
    """Frames until the path closes."""
    sway_m: Wave = Wave()
    """Movement about the centre."""
    swing_rad: Wave = Wave()
    """Yaw, pitch and roll: to the right, up, clockwise."""
    heading_rad: float = 0.0
    """Heading at frame 0."""
    turn_rad: float = 0.0
    """Turn of the heading a frame."""
    shake: Shake | None = None
    """What is added to each frame's pose, if anything."""

    def places(self, frames: Float[np.ndarray, " t"]) -> Float64[np.ndarray, "t 3"]:
        """Return where the camera is, in metres."""
        return np.array(self.centre_m) + self.sway_m.at(frames)

    def camera_to_world(self, *, frame: int, right_m: float = 0.0) -> Float64[np.ndarray, "4 4"]:
        """Return a frame's pose, `right_m` metres to the right of the path's (OpenCV axes)."""
        now = np.array([float(frame)])
        yaw, pitch, roll = self.swing_rad.at(now)[0]
        pose = np.eye(4)
        heading = np.array([self.heading_rad + self.turn_rad * frame + yaw])
        pose[:3, :3] = rotation(yaw=heading, pitch=np.array([pitch]), roll=np.array([roll]))[0]
        pose[:3, 3] = self.places(now)[0]
        if self.shake is not None:
            pose = pose @ self.shake.at(frame)
        pose[:3, 3] += right_m * pose[:3, 0]
        return pose


@dataclass(frozen=True, eq=False)
class Scene:
    """A world; colours are RGB in 0 to 1."""

    solids: tuple[Solid, ...]
    """What is there."""
    path: CameraPath
    """The camera's path."""
    sun: Vec3
    """Direction to the sun."""
    zenith: Vec3
    """Colour of the sky above, RGB in 0 to 1."""
    horizon: Vec3
    """Colour of the sky at the horizon, and of haze."""
    haze_m: float
    """Distance at which 63 % of a colour is haze."""


def rotation(
    *, yaw: Float64[np.ndarray, " n"], pitch: Float64[np.ndarray, " n"], roll: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "n 3 3"]:
    """Return matrices that roll (about z), then pitch (x), then yaw (y), in radians."""
    (cy, cp, cr), (sy, sp, sr) = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
    rows = [
        [cy * cr + sy * sp * sr, sy * sp * cr - cy * sr, sy * cp],
        [cp * sr, cp * cr, -sp],
        [cy * sp * sr - sy * cr, sy * sr + cy * sp * cr, cy * cp],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def pose_solids(
    solids: tuple[Solid, ...], *, frame: int
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n 3 3"]]:
    """Return the solids' centres, in metres, and their rotations, solid to world, at a frame."""
    waves = np.array([(solid.sway_m.size, solid.sway_m.rate_rad, solid.sway_m.phase_rad) for solid in solids])
    centre = np.array([solid.centre_m for solid in solids]) + waves[:, 0] * np.sin(waves[:, 1] * frame + waves[:, 2])
    yaw = np.array([solid.yaw_rad + solid.spin_rad * frame for solid in solids])
    level = np.zeros(len(solids))
    return centre, rotation(yaw=yaw, pitch=level, roll=level)
