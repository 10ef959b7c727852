"""A rendered room in which nothing moves but the camera, by leaps that tell frames apart."""

from dataclasses import replace

import numpy as np

from vdaprep.raw.frames import Frame
from vdaprep.shards.cameras import scale_intrinsics
from vdaprep.synthetic.sample import render_as_frame
from vdaprep.synthetic.scene import make_scene
from vdaprep.synthetic.world import CameraPath, Wave

SIZE = WIDTH, HEIGHT = 64, 48


def room(numbers: list[int], intrinsics: tuple[float, float, float, float], *, unit_m: float) -> list[Frame]:
    """Render frames of a camera whose `intrinsics` are of 640x480 pixels; depth is whole units."""
    scene = make_scene(2)
    path = CameraPath(
        centre_m=scene.path.centre_m,
        period_frames=1000,
        sway_m=Wave((0.45, 0.15, 0.45), (1.7, 1.3, 1.1), (0.0, 1.0, 2.0)),
        swing_rad=Wave((0.20, 0.10, 0.05), (1.5, 1.9, 1.2), (0.5, 0.0, 1.0)),
    )
    still = replace(scene, path=path, solids=tuple(solid for solid in scene.solids if not solid.moves))
    camera = scale_intrinsics(np.array(intrinsics), x=WIDTH / 640, y=HEIGHT / 480)
    frames = [render_as_frame(still, number, size=SIZE, intrinsics=camera) for number in numbers]
    return [replace(frame, depth_m=_whole(frame.depth_m, unit_m)) for frame in frames]


def _whole(depth_m: np.ndarray, unit_m: float) -> np.ndarray:
    units = np.where(np.isfinite(depth_m), np.rint(depth_m.astype(np.float64) / unit_m), 0)
    units[(units > 65534) | (units < 1)] = 0
    units[:3, :5] = 0
    return np.where(units > 0, units * unit_m, np.nan).astype(np.float32)


def units_of(frame: Frame, unit_m: float) -> np.ndarray:
    """Return a frame's depth as 16-bit PNGs hold it, 0 for unknown."""
    return np.rint(np.nan_to_num(frame.depth_m).astype(np.float64) / unit_m).astype(np.uint16)
