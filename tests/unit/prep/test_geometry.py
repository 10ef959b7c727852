"""Depth, poses and intrinsics that agree are told from those that do not, and from pictures that cannot be."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import pinhole, toy_frame
from vdaprep.analysis import geometry
from vdaprep.analysis.geometry import TrajectoryGeometry, measure
from vdaprep.analysis.warping import View, warp
from vdaprep.raw.frames import Frame, RgbImage
from vdaprep.shards import codec, depth_codes, writer
from vdaprep.shards.cameras import invert_pose, scale_intrinsics
from vdaprep.shards.metadata import ClipMeta, DepthSpec
from vdaprep.shards.writer import EncodedClip
from vdaprep.storage.output import LocalOutput
from vdaprep.synthetic.render import render_frame
from vdaprep.synthetic.scene import make_scene

WIDTH, HEIGHT, FRAMES = 128, 96, 18
SPEC = DepthSpec("log", 0.0005, near_m=0.1, far_m=1000.0)


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["street", "square", "room"])
def moving(request: pytest.FixtureRequest) -> list[Frame]:
    """Frames of a scene with solids that move."""
    return render(request.param, still=False)


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["street", "square", "room"])
def still(request: pytest.FixtureRequest) -> list[Frame]:
    """Frames of a scene in which only the camera moves."""
    return render(request.param, still=True)


def render(seed: int, *, still: bool) -> list[Frame]:
    scene = make_scene(seed)
    if still:
        scene = dataclasses.replace(scene, solids=tuple(solid for solid in scene.solids if not solid.moves))
    intrinsics = pinhole(width=WIDTH, height=HEIGHT)
    seen = (render_frame(scene, frame=i, width=WIDTH, height=HEIGHT, intrinsics=intrinsics) for i in range(FRAMES))
    return [
        Frame(i, RgbImage(one.rgb), one.depth_m, np.array(intrinsics), one.camera_to_world)
        for i, one in enumerate(seen)
    ]


def measured(frames: Iterable[Frame], tmp_path: Path) -> TrajectoryGeometry:
    """Write frames into a shard, as they are, and measure it."""
    items = list(frames)
    codes = [depth_codes.code_depth(item.depth_m, SPEC)[0] for item in items]
    poses = tuple(None if f.camera_to_world is None else tuple(map(tuple, f.camera_to_world.tolist())) for f in items)
    meta = ClipMeta(
        dataset="toy",
        split="train",
        trajectory="t",
        frame_ids=tuple(item.frame_id for item in items),
        height=items[0].depth_m.shape[0],
        width=items[0].depth_m.shape[1],
        intrinsics=tuple(tuple(item.intrinsics.tolist()) for item in items),
        camera_to_world=None if poses[0] is None else poses,
        depth=SPEC,
        disparity_min=0.0,
        disparity_max=1.0,
        diff=None,
        diff_valid=(False,) * len(items),
    )
    members = tuple(
        (("rgb.jpg", codec.encode_rgb(item.rgb.pixels, quality=90)), ("depth.zst", codec.pack_codes(code, SPEC)))
        for item, code in zip(items, codes, strict=True)
    )
    tar = tmp_path / "shard-0001.tar"
    clip = EncodedClip("toy-t-000000", meta, members, 0)
    writer.write_shard(LocalOutput(tar.parent), tar.name, [clip], options={}, plan="", rejected=[])
    count: list[int] = []
    [result] = measure([tar], on_frame=lambda: count.append(1))
    assert len(count) == len(items) == result.frames
    return result


def changed(frames: Iterable[Frame], change: Callable[[Frame], dict[str, object]]) -> list[Frame]:
    return [dataclasses.replace(frame, **change(frame)) for frame in frames]


def test_what_was_rendered_agrees(still: list[Frame], tmp_path: Path) -> None:
    result = measured(still, tmp_path)
    assert result.findings == ()
    assert result.error is not None
    assert result.error < 0.001
    assert result.share is not None
    assert result.share > 0.5
    assert "t: 18 frames, median warp error 0.0" in str(result)


def test_what_moves_does_not_count(moving: list[Frame], tmp_path: Path) -> None:
    result = measured(moving, tmp_path)
    assert result.findings == ()
    assert result.error is not None
    assert result.error < 0.01


@pytest.mark.slow
def test_poses_the_other_way_round_are_recognised(moving: list[Frame], tmp_path: Path) -> None:
    right = measured(moving, tmp_path).error
    result = measured(changed(moving, lambda f: {"camera_to_world": invert_pose(f.camera_to_world)}), tmp_path)
    assert right is not None
    assert result.error is not None
    assert result.error > 3 * right
    [finding] = result.findings
    assert "the poses look like world-to-camera: inverted, they fit clearly better" in finding


@pytest.mark.parametrize("scale", [2.0, 0.5, 1280 / WIDTH])
def test_intrinsics_of_another_size_are_recognised(scale: float, still: list[Frame], tmp_path: Path) -> None:
    wrong = changed(still, lambda f: {"intrinsics": scale_intrinsics(f.intrinsics, x=scale, y=scale)})
    [finding] = measured(wrong, tmp_path).findings
    assert f"the intrinsics look unscaled: times {1 / scale:.4g}, they fit clearly better" in finding


def test_depth_of_another_scene_does_not_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = changed(render(2, still=True), lambda f: {"depth_m": (f.depth_m * rng.uniform(0.5, 2)).astype(np.float32)})
    [finding] = measured(frames, tmp_path).findings
    assert "depth, poses and intrinsics do not agree" in finding


def test_without_poses_there_is_nothing_to_warp(tmp_path: Path) -> None:
    result = measured(changed(render(0, still=True)[:3], lambda f: {"camera_to_world": None}), tmp_path)
    assert (result.error, result.share, result.has_poses, result.findings) == (None, None, False, ())
    assert str(result) == "t: 3 frames, no poses: nothing to warp with"


def test_a_single_frame(tmp_path: Path) -> None:
    assert str(measured([toy_frame(0, 0)], tmp_path)) == "t: 1 frames, a single frame: nothing to warp onto"


def test_toy_frames_do_not_pretend_to_be_a_place(tmp_path: Path) -> None:
    result = measured([toy_frame(0, number) for number in range(12)], tmp_path)
    assert result.error is not None
    assert result.error > 0.01


def black(frame: Frame) -> dict[str, object]:
    return {"rgb": RgbImage(np.zeros_like(frame.rgb.pixels))} if frame.frame_id == 2 else {}


def sky(frame: Frame) -> dict[str, object]:
    return {"depth_m": np.full_like(frame.depth_m, np.inf)} if frame.frame_id == 3 else {}


def unknown(frame: Frame) -> dict[str, object]:
    return {"depth_m": np.full_like(frame.depth_m, np.nan)} if frame.frame_id > 3 else {}


FLAWS: dict[Callable[[Frame], dict[str, object]], str] = {
    black: "1 of 6 frames are black (the first: 2)",
    sky: "1 of 6 frames are nothing but sky (the first: 3)",
    unknown: "2 of 6 frames have no known depth (the first: 4)",
}


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
def test_frames_that_show_nothing(flaw: Callable[[Frame], dict[str, object]], tmp_path: Path) -> None:
    assert measured(changed(render(2, still=True)[:6], flaw), tmp_path).findings == (FLAWS[flaw],)


def test_frozen_frames_are_found_unless_the_camera_stands(tmp_path: Path) -> None:
    frames = render(2, still=True)[:6]
    frozen = changed(frames, lambda f: {"rgb": frames[1].rgb, "depth_m": frames[1].depth_m} if f.frame_id == 2 else {})
    expected = "1 of 6 frames repeat the frame before, though the camera moves (the first: 2)"
    assert measured(frozen, tmp_path).findings == (expected,)
    standing = [dataclasses.replace(frames[0], frame_id=i) for i in range(3)]
    assert measured(standing, tmp_path).findings == ()
    assert measured(changed(standing, lambda f: {"camera_to_world": None}), tmp_path).findings == (
        "2 of 3 frames repeat the frame before, though the camera moves (the first: 1)",
    )


def test_depth_that_never_varies(tmp_path: Path) -> None:
    frames = changed(render(2, still=True)[:5], lambda f: {"camera_to_world": None})
    first = frames[0].depth_m
    assert measured(changed(frames, lambda f: {"depth_m": first}), tmp_path).findings == (
        "depth never varies from frame to frame, though the images do",
    )
    flat = changed(frames, lambda f: {"depth_m": np.full_like(first, 2 + f.frame_id)})
    assert measured(flat, tmp_path).findings == ("depth never varies within a frame",)


def test_warping_onto_a_shifted_plane_is_exact() -> None:
    y, x = np.mgrid[:40, :50].astype(np.float64)
    intrinsics = np.array([60.0, 60.0, 24.5, 19.5])
    # The plane y = 2 + z / 4 below the camera, before and after a step of half a metre ahead.
    slope = (y - 19.5) / 60
    with np.errstate(divide="ignore"):
        depths = [np.where(slope > 0.3, (2 + ahead / 4) / (slope - 0.25), np.nan) for ahead in (0.0, 0.5)]
    before, after = np.eye(4), np.eye(4)
    after[2, 3] = 0.5
    fit = warp(
        View(depths[0].astype(np.float32), intrinsics, before), View(depths[1].astype(np.float32), intrinsics, after)
    )
    assert fit.error < 1e-5
    assert 0.3 < fit.share < 1
    away = invert_pose(before)
    away[2, 3] = -1e4  # behind the other camera
    assert warp(
        View(depths[0].astype(np.float32), intrinsics, away), View(x.astype(np.float32), intrinsics, before)
    ) == (dataclasses.replace(fit, error=np.inf, share=0.0))


@pytest.mark.slow
def test_large_views_wait_with_few_pixels_and_tell_the_same(
    still: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window of 8192x8192 frames would take gigabytes; a thinned camera is still the camera that it was."""
    frame = still[0]
    assert frame.camera_to_world is not None
    view = View(frame.depth_m, frame.intrinsics, frame.camera_to_world)
    wide = [dataclasses.replace(item, intrinsics=item.intrinsics * (2, 2, 1, 1)) for item in still]
    whole, odd = measured(still, tmp_path), measured(wide, tmp_path)
    said = "the focal lengths look like those of another image size: times 0.5, they fit clearly better"
    assert whole.findings == ()
    assert odd.findings[0].startswith(said)
    for pixels in (WIDTH * HEIGHT, WIDTH * HEIGHT - 1, 3000, 1000):
        monkeypatch.setattr(geometry, "_KEPT_PIXELS", pixels)
        thin = geometry._thinned(view)
        assert thin.depth_m.size <= pixels
        assert (thin is view) == (pixels == WIDTH * HEIGHT)
        assert warp(thin, view).error < 0.002
        assert measured(still, tmp_path) == whole
        [finding] = measured(wide, tmp_path).findings
        assert finding.startswith(said)
