"""Rendered depth, poses and motion agree with each other."""

import dataclasses
import functools
import math

import numpy as np
import pytest

from tests.conftest import pinhole
from vdaprep.synthetic.render import SKY, RenderedFrame, render_frame
from vdaprep.synthetic.scene import CLEARANCE_M, crossed, make_scene, shaken
from vdaprep.synthetic.textures import Texture, texture_colours
from vdaprep.synthetic.world import CameraPath, Scene, Solid, Wave

WIDTH, HEIGHT = 160, 120
SEEDS = range(9)  # three streets, three squares, three rooms
BASELINE_M = 0.532725


def shoot(scene: Scene, frame: int, *, right_m: float = 0.0, fov_deg: float = 80.0) -> RenderedFrame:
    intrinsics = pinhole(width=WIDTH, height=HEIGHT, fov_deg=fov_deg)
    return render_frame(scene, frame=frame, width=WIDTH, height=HEIGHT, intrinsics=intrinsics, right_m=right_m)


scene_of = functools.cache(make_scene)


def still(scene: Scene) -> Scene:
    return dataclasses.replace(scene, solids=tuple(solid for solid in scene.solids if not solid.moves))


def stage(*solids: Solid, path: CameraPath | None = None) -> Scene:
    """A camera at the origin that looks along z, and nothing but those solids."""
    nowhere = CameraPath(centre_m=(0.0, 0.0, 0.0), period_frames=1)
    return dataclasses.replace(scene_of(0), solids=solids, path=path or nowhere)


def bilinear(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    across, down = u - left, v - top
    upper = image[top, left] * (1 - across) + image[top, left + 1] * across
    lower = image[top + 1, left] * (1 - across) + image[top + 1, left + 1] * across
    return upper * (1 - down) + lower * down


@dataclasses.dataclass(frozen=True)
class Warp:
    """Pixels of a frame carried to another by depth, pose and K; the errors are against what is seen there."""

    flow_px: np.ndarray
    depth_error: np.ndarray
    grey_error: np.ndarray


def warp(a: RenderedFrame, b: RenderedFrame, a_to_b: np.ndarray) -> Warp:
    fx, fy, cx, cy = a.intrinsics
    v, u = np.nonzero(np.isfinite(a.depth_m))
    z = a.depth_m[v, u].astype(np.float64)
    x, y, z = a_to_b[:3, :3] @ np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z]) + a_to_b[:3, 3:]
    u_b, v_b = x / z * fx + cx, y / z * fy + cy
    inside = (z > 0) & (u_b > 0) & (u_b < WIDTH - 1) & (v_b > 0) & (v_b < HEIGHT - 1)
    inverse = bilinear(1 / b.depth_m.astype(np.float64), u_b[inside], v_b[inside])  # linear on a plane
    grey_a, grey_b = a.rgb.mean(axis=2), b.rgb.mean(axis=2)
    return Warp(
        flow_px=np.hypot(u_b - u, v_b - v),
        depth_error=abs(z[inside] * inverse - 1),
        grey_error=abs(bilinear(grey_b, u_b[inside], v_b[inside]) - grey_a[v, u][inside]),
    )


def a_to_b(a: RenderedFrame, b: RenderedFrame) -> np.ndarray:
    return np.linalg.inv(b.camera_to_world) @ a.camera_to_world


# ---------------------------------------------------------------------------------------------------- depth, poses, K


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_poses_and_intrinsics_agree(seed: int) -> None:
    scene = still(scene_of(seed))
    for frame, later in [(0, 1), (20, 25), (100, 101)]:
        a, b = shoot(scene, frame), shoot(scene, later)
        right = warp(a, b, a_to_b(a, b))
        assert np.median(right.depth_error) < 1e-5
        assert (right.depth_error < 0.01).mean() > 0.9
    # The others' conventions: the two frames swapped, world-to-camera for camera-to-world.
    for wrong in (a_to_b(b, a), a.camera_to_world @ np.linalg.inv(b.camera_to_world)):
        assert np.median(warp(a, b, wrong).depth_error) > 20 * np.median(right.depth_error)
    a, b = shoot(scene, 0), shoot(scene, 12)
    assert np.median(warp(a, b, a_to_b(b, a)).depth_error) > 0.03


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_second_eye_stands_to_the_right(seed: int) -> None:
    left, right = shoot(scene_of(seed), 7), shoot(scene_of(seed), 7, right_m=BASELINE_M)
    assert np.allclose(a_to_b(right, left)[:3, 3], (BASELINE_M, 0, 0))
    assert np.allclose(a_to_b(right, left)[:3, :3], np.eye(3))
    assert np.median(warp(left, right, a_to_b(left, right)).depth_error) < 1e-4
    assert np.median(warp(left, right, a_to_b(right, left)).depth_error) > 0.01


def test_poses_are_rigid_and_smooth() -> None:
    path = scene_of(0).path
    poses = np.stack([path.camera_to_world(frame=frame) for frame in range(100)])
    turns = poses[:, :3, :3]
    assert np.allclose(turns @ np.swapaxes(turns, 1, 2), np.eye(3))
    assert np.allclose(np.linalg.det(turns), 1)
    assert np.allclose(path.camera_to_world(frame=path.period_frames), poses[0])
    acceleration = np.diff(poses, n=2, axis=0)
    assert abs(acceleration).max() < 0.01
    assert abs(np.diff(turns, axis=0)).max() > 1e-3


def test_depth_is_planar() -> None:
    wall = Solid(centre_m=(0.0, 0.0, 11.0), half_m=(50.0, 50.0, 1.0))
    frame = render_frame(stage(wall), frame=0, width=90, height=40, intrinsics=(30.0, 25.0, 10.0, 31.0))
    assert frame.depth_m.shape == (40, 90)
    assert frame.rgb.shape == (40, 90, 3)
    assert np.allclose(frame.depth_m, 10.0, rtol=1e-6)


def test_depth_of_ground_box_and_ball_is_the_formula() -> None:
    ground = Solid(centre_m=(0.0, 2.0, 0.0), half_m=(500.0, 0.5, 500.0))
    ball = Solid(centre_m=(2.0, -3.0, 8.0), half_m=(1.0, 1.0, 1.0), is_ball=True)
    box = Solid(centre_m=(-3.0, 0.0, 9.0), half_m=(1.0, 1.0, 1.0), yaw_rad=math.pi / 4)
    frame = render_frame(stage(ground, ball, box), frame=0, width=161, height=121, intrinsics=(80.0, 80.0, 80.0, 60.0))
    rows = np.arange(70, 121)
    assert np.allclose(frame.depth_m[70:, 160], 1.5 * 80 / (rows - 60), rtol=1e-5)
    centre = np.array(ball.centre_m)
    distance = np.linalg.norm(centre)
    assert frame.solid[30, 100] == 1
    assert frame.depth_m[30, 100] == pytest.approx((centre * (1 - 1 / distance))[2], rel=1e-5)
    edge = frame.depth_m[60, frame.solid[60] == 2]
    assert edge.min() == pytest.approx(9 - math.sqrt(2), abs=0.1)  # its nearest edge, within a pixel
    assert frame.solid[0, 0] == SKY
    assert np.isposinf(frame.depth_m[0, 0])


def test_intrinsics_and_size_are_honoured() -> None:
    scene = scene_of(1)
    whole = render_frame(scene, frame=5, width=120, height=80, intrinsics=(70.0, 65.0, 58.0, 41.0))
    crop = render_frame(scene, frame=5, width=50, height=40, intrinsics=(70.0, 65.0, 48.0, 21.0))
    twice = render_frame(scene, frame=5, width=240, height=160, intrinsics=(140.0, 130.0, 116.0, 82.0))
    # All but pixels on an edge, where rounding decides.
    assert np.isclose(crop.depth_m, whole.depth_m[20:60, 10:60], rtol=1e-4).mean() > 0.995
    assert np.isclose(twice.depth_m[::2, ::2], whole.depth_m, rtol=1e-4).mean() > 0.995
    assert crop.intrinsics == (70.0, 65.0, 48.0, 21.0)


# ----------------------------------------------------------------------------------------------------------- worlds


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_are_worth_learning_from(seed: int) -> None:
    scene = scene_of(seed)
    frames = [shoot(scene, frame) for frame in range(0, 300, 60)]
    known = np.stack([np.isfinite(frame.depth_m) for frame in frames])
    depth_m = np.stack([frame.depth_m for frame in frames])
    assert known.mean() > 0.55
    assert 2 < np.median(depth_m[known]) < 20
    assert np.percentile(depth_m[known], 95) / np.percentile(depth_m[known], 5) > 2.5
    assert ((depth_m[known] > 1) & (depth_m[known] < 60)).mean() > 0.9
    assert ((np.stack([frame.solid for frame in frames]) == SKY) == ~known).all()
    assert min(frame.rgb.std() for frame in frames) > 15
    for frame in (0, 60):
        a, b = shoot(still(scene), frame), shoot(still(scene), frame + 1)
        moved = warp(a, b, a_to_b(a, b))
        assert 0.1 < np.median(moved.flow_px) < 8
        assert np.percentile(moved.flow_px, 99) < 20
        assert moved.grey_error.mean() < 6  # texture travels with the surface and does not flicker


def test_there_are_frames_with_sky_and_frames_without() -> None:
    sky = [np.isinf(shoot(scene_of(seed), 0).depth_m).mean() for seed in range(12)]
    assert max(sky) > 0.1
    assert min(sky) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_no_camera_comes_too_near(seed: int) -> None:
    scene = scene_of(seed)
    for right_m in (0.0, BASELINE_M):
        for frame in range(0, scene.path.period_frames, 25):
            assert shoot(scene, frame, right_m=right_m, fov_deg=95.0).depth_m.min() > 0.3


def test_solids_keep_clear_of_a_track_wherever_they_move() -> None:
    track = np.zeros((1, 3))
    away = Solid(centre_m=(5.0, 0.0, 0.0), half_m=(1.0, 1.0, 1.0))
    assert away.is_clear_of(track, clearance_m=CLEARANCE_M)
    assert not dataclasses.replace(away, half_m=(4.0, 1.0, 1.0)).is_clear_of(track, clearance_m=CLEARANCE_M)
    swaying = dataclasses.replace(away, sway_m=Wave(size=(3.0, 0.0, 0.0), rate_rad=(0.1, 0.1, 0.1)))
    assert not swaying.is_clear_of(track, clearance_m=CLEARANCE_M)


@pytest.mark.parametrize("seed", SEEDS)
def test_movers_move_and_nothing_else_does(seed: int) -> None:
    scene = scene_of(seed)
    here = scene.path.camera_to_world(frame=0)[:3, 3].tolist()
    scene = dataclasses.replace(scene, path=CameraPath(centre_m=tuple(here), period_frames=1))
    a, b = shoot(scene, 0), shoot(scene, 30)
    movers = [index for index, solid in enumerate(scene.solids) if solid.moves]
    assert len(movers) >= 3
    changed = a.depth_m != b.depth_m
    assert not (changed & ~np.isin(a.solid, movers) & ~np.isin(b.solid, movers)).any()


def test_movers_are_seen_to_move() -> None:
    swing = Wave(size=(2.0, 0.0, 0.0), rate_rad=(0.1, 0.0, 0.0))
    scene = stage(Solid(centre_m=(0.0, 0.0, 8.0), half_m=(0.5, 0.5, 0.5), sway_m=swing))
    columns = [np.nonzero(shoot(scene, frame).solid == 0)[1].mean() for frame in (0, 5, 10)]
    assert columns == sorted(columns)
    assert columns[-1] - columns[0] > 10


def test_equal_seeds_are_equal_bits_and_others_differ() -> None:
    first, again = (shoot(make_scene(4), 33) for _ in range(2))
    assert np.array_equal(first.rgb, again.rgb)
    assert np.array_equal(first.depth_m, again.depth_m)
    assert np.array_equal(first.camera_to_world, again.camera_to_world)
    for seed in (1, 3, 7):
        other = shoot(scene_of(seed), 33)
        assert abs(other.rgb.astype(int) - first.rgb).mean() > 10
        assert not np.allclose(other.camera_to_world, first.camera_to_world)


# ----------------------------------------------------------------------------------------------------------- stress


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_poses_of_a_shaken_camera_are_the_shaken_ones(seed: int) -> None:
    calm = still(scene_of(seed))
    scene = shaken(calm, np.random.default_rng(0))
    a, b = shoot(scene, 20), shoot(scene, 21)
    assert np.median(warp(a, b, a_to_b(a, b)).depth_error) < 1e-5
    unshaken = np.linalg.inv(calm.path.camera_to_world(frame=21)) @ calm.path.camera_to_world(frame=20)
    assert np.median(warp(a, b, unshaken).depth_error) > 1e-3
    for frame in (20, 21, 22):
        steady, moved = shoot(calm, frame), shoot(scene, frame)
        assert 0.2 < np.median(warp(moved, steady, a_to_b(moved, steady)).flow_px) < 5
    jitter = a_to_b(shoot(calm, 20), a)
    assert np.allclose(jitter[:3, :3] @ jitter[:3, :3].T, np.eye(3))
    assert np.linalg.norm(jitter[:3, 3]) < 2 * 0.02 * math.sqrt(3)
    right = shoot(scene, 20, right_m=BASELINE_M)  # the rig shakes as one
    assert np.allclose(a_to_b(right, a)[:3, 3], (BASELINE_M, 0, 0))


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_cross_the_picture_in_image_and_depth(seed: int) -> None:
    plain, frames = scene_of(seed), 32
    scene = crossed(plain, np.random.default_rng(seed), frames=frames)
    added = len(scene.solids) - len(plain.solids)
    assert 4 <= added <= 12
    shares = []
    for frame in (0, 10, 20, 31):
        before, after, later = shoot(plain, frame), shoot(scene, frame), shoot(scene, frame + 1)
        new = after.solid >= len(plain.solids)
        assert np.array_equal(after.depth_m[~new], before.depth_m[~new])
        assert np.array_equal(after.rgb[~new], before.rgb[~new])
        assert (after.depth_m[new] < before.depth_m[new]).all()
        assert (after.depth_m[new] != later.depth_m[new]).mean() > 0.9
        shares.append(new.mean())
    assert 0.003 < np.mean(shares) < 0.4
    track = plain.path.places(np.arange(frames, dtype=np.float64))
    assert all(solid.is_clear_of(track, clearance_m=CLEARANCE_M) for solid in scene.solids[-added:])


# --------------------------------------------------------------------------------------------------------- textures


def test_a_texture_finer_than_a_pixel_is_its_mean() -> None:
    textures = [Texture(), Texture(cell_m=(2.0, 0.5), joint=0.5, shift=0.5)]
    places = np.random.default_rng(0).uniform(-50, 50, (2, 20_000)).astype(np.float32)
    for index in range(2):
        which = np.full(places.shape[1], index)
        near, far = (
            texture_colours(textures, which, places, np.full(places.shape[1], size, np.float32)) for size in (1e-3, 9.0)
        )
        assert near.std() > 0.05
        assert np.allclose(far, far[:, :1], atol=1e-6)
        assert np.allclose(near.mean(axis=1), far[:, 0], atol=0.02)
