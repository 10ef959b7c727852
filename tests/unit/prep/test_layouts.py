"""What every layout of samples must do, whichever modules the folder holds; then Virtual KITTI's, the richest."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from vdaprep import sources
from vdaprep.errors import UsageError
from vdaprep.raw.frames import Frame, RgbImage, SourceOptions, make_frame
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.shards import codec
from vdaprep.shards.metadata import DepthSpec
from vdaprep.sources import _manifest
from vdaprep.synthetic import layouts
from vdaprep.synthetic.layouts import vkitti
from vdaprep.synthetic.render import render_frame
from vdaprep.synthetic.sample import SampleSpec, write_sample
from vdaprep.synthetic.scene import make_scene
from vdaprep.synthetic.world import Scene

NAMES = layouts.names()
SIZES = ((64, 48), (64, 36))  # a data set may insist on its own aspect


def test_every_layout_is_of_a_data_set() -> None:
    assert set(NAMES) <= set(sources.names())
    assert all(isinstance(layouts.load(name), layouts.Layout) for name in NAMES)


def test_a_data_set_without_a_layout_has_no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no data set 'kitty'; known: "):
        layouts.load("kitty")
    monkeypatch.setattr(layouts, "names", lambda: ["vkitti"])
    with pytest.raises(UsageError, match="custom has no samples, only real data; there are samples of vkitti"):
        layouts.load("custom")


@pytest.mark.parametrize("name", NAMES)
def test_a_quarter_of_the_trajectories_is_held_out(name: str) -> None:
    layout, facts = layouts.load(name), _manifest.load(name)
    held_out = [glob for globs in facts.splits["default"].values() for glob in globs]
    for count, held in ((1, 0), (2, 1), (4, 1), (8, 2)):
        found = layout.trajectory_names(count, held_out=held_out)
        assert len(set(found)) == count
        splits = [facts.split_of(trajectory, splits="default") for trajectory in found]
        assert splits == ["train"] * (count - held) + ["val"] * held


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("archives", [False, True])
def test_a_sample_reads_back_as_it_was_rendered(name: str, archives: bool, tmp_path: Path) -> None:
    source, layout = sources.load(name), layouts.load(name)
    width, height = next(size for size in SIZES if _is_allowed(layout, size))
    spec = SampleSpec(trajectories=2, frames=3, width=width, height=height)
    names = write_sample(name, out=tmp_path, spec=spec, archives=archives, on_frame=lambda: None)
    worlds = list(dict.fromkeys(layout.scene_name(trajectory) for trajectory in names))
    tree = open_tree(tmp_path)
    with Reader(tree.root) as reader:
        for camera, right_m in enumerate(layout.CAMERAS_M):
            options = SourceOptions(camera=camera)
            found = source.find_trajectories(tree, options).trajectories
            assert sorted(item.name for item in found) == sorted(names)
            assert len({_manifest.load(name).split_of(item.name, splits="default") for item in found}) == 2
            for trajectory in found:
                assert tuple(trajectory.frame_ids) == (0, 1, 2)
                cameras = source.read_cameras(trajectory, reader, options)
                scene = make_scene(worlds.index(layout.scene_name(trajectory.name)))
                for index, files in enumerate(trajectory.frames):
                    rgb, depth_m = source.read_rgb(files, reader), source.read_depth(files, reader)
                    frame = make_frame(files, rgb, depth_m, cameras, index)
                    _same_as_rendered(frame, scene, right_m, _manifest.load(name).depth_spec(relative_error=1e-4))


def _is_allowed(layout: layouts.Layout, size: tuple[int, int]) -> bool:
    try:
        layout.intrinsics(width=size[0], height=size[1])
    except UsageError:
        return False
    return True


def _same_as_rendered(frame: Frame, scene: Scene, right_m: float, spec: DepthSpec) -> None:
    fx, fy, cx, cy = frame.intrinsics.tolist()
    height, width = frame.depth_m.shape
    seen = render_frame(
        scene, frame=frame.frame_id, width=width, height=height, intrinsics=(fx, fy, cx, cy), right_m=right_m
    )
    if frame.rgb.jpeg is None:
        assert np.array_equal(frame.rgb.pixels, seen.rgb)
    else:
        assert np.array_equal(codec.decode_rgb(frame.rgb.jpeg), frame.rgb.pixels)
        assert np.abs(frame.rgb.pixels.astype(int) - seen.rgb).mean() < 5
    assert np.array_equal(np.isinf(frame.depth_m), np.isinf(seen.depth_m))
    near = np.isfinite(seen.depth_m)
    # Raw depth is stored in units, in half floats or in floats, as the kind says: half a step is lost on the way.
    absolute_m, relative = {"linear": ((spec.unit_m or 0) / 2, 1e-6), "half": (0, 2**-11), "log": (0, 1e-4)}[spec.kind]
    assert np.allclose(frame.depth_m[near], seen.depth_m[near], atol=absolute_m, rtol=relative)
    assert frame.camera_to_world is not None
    assert np.allclose(frame.camera_to_world, seen.camera_to_world, atol=1e-9)


# ------------------------------------------------------------------------------------------------------ Virtual KITTI


def test_sample_names_are_variants_of_scenes_and_hold_some_out() -> None:
    held = ["Scene01/*", "0001/*"]
    assert vkitti.trajectory_names(1, held_out=held) == ["Scene02/clone"]
    assert vkitti.trajectory_names(2, held_out=held) == ["Scene02/clone", "Scene01/clone"]
    assert vkitti.trajectory_names(4, held_out=held) == [
        "Scene02/clone",
        "Scene02/fog",
        "Scene06/clone",
        "Scene01/clone",
    ]
    assert vkitti.trajectory_names(8, held_out=held)[-2:] == ["Scene01/clone", "Scene01/fog"]
    everything = vkitti.trajectory_names(30, held_out=held)
    assert len(set(everything)) == 30
    assert vkitti.trajectory_names(3, held_out=[])[-1] == "Scene01/clone"
    assert vkitti.scene_name("Scene02/clone") == vkitti.scene_name("Scene02/fog") != vkitti.scene_name("Scene06/fog")
    more = vkitti.trajectory_names(50, held_out=held)
    assert (len(set(more)), more[-1]) == (50, "Scene01/30-deg-right")
    assert vkitti.scene_name(more[-1]) == more[-1]


def test_a_sample_has_the_data_sets_camera() -> None:
    assert np.allclose(vkitti.intrinsics(width=1242, height=375), [725.0087, 725.0087, 620.5, 187])
    assert np.allclose(vkitti.intrinsics(width=621, height=375)[[0, 2]], [725.0087 / 2, 310])


def test_weather_changes_the_look_and_nothing_else(tmp_path: Path) -> None:
    spec = SampleSpec(trajectories=4, frames=2, width=62, height=38)
    write_sample("vkitti", out=tmp_path, spec=spec, archives=False, on_frame=lambda: None)
    clear, fog = tmp_path / "Scene02" / "clone", tmp_path / "Scene02" / "fog"
    names = sorted(str(path.relative_to(clear)) for path in clear.rglob("*.*"))
    assert names == sorted(str(path.relative_to(fog)) for path in fog.rglob("*.*"))
    assert len(names) == 2 * 2 * 2 + 2
    same = {name for name in names if (clear / name).read_bytes() == (fog / name).read_bytes()}
    assert same == {name for name in names if not name.endswith(".jpg")}
    sky = cv2.imread(str(clear / "frames/depth/Camera_0/depth_00000.png"), cv2.IMREAD_UNCHANGED) == 65535
    assert sky.any()
    looks = [cv2.imread(str(scene / "frames/rgb/Camera_0/rgb_00000.jpg")) for scene in (clear, fog)]
    assert looks[1].std() < looks[0].std()
    assert np.abs(looks[1][sky].astype(int) - 170).mean() < 3
    assert (clear / "intrinsic.txt").read_text().splitlines()[0] == "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"
    assert (clear / "extrinsic.txt").read_text().splitlines()[0].startswith("frame cameraID r1,1 r1,2")
    assert [row[:3] for row in (clear / "extrinsic.txt").read_text().splitlines()[1:]] == ["0 0", "0 1", "1 0", "1 1"]


def test_the_second_camera_stands_to_the_right(tmp_path: Path) -> None:
    spec = SampleSpec(trajectories=1, frames=1, width=62, height=38)
    write_sample("vkitti", out=tmp_path, spec=spec, archives=False, on_frame=lambda: None)
    poses = []
    for camera in (0, 1):
        [trajectory] = (
            sources.load("vkitti").find_trajectories(open_tree(tmp_path), SourceOptions(camera=camera)).trajectories
        )
        with Reader(tmp_path) as reader:
            cameras = sources.load("vkitti").read_cameras(trajectory, reader, SourceOptions(camera=camera))
        assert cameras.camera_to_world is not None
        poses.append(cameras.camera_to_world[0])
    assert np.allclose((np.linalg.inv(poses[0]) @ poses[1])[:3, 3], [0.532725, 0, 0])


def test_sample_depth_is_centimetres_with_sky_and_unknown() -> None:
    depth_m = np.array([[1.234, np.inf, np.nan], [655.34, 655.36, 0.006]], np.float32)
    pixels = np.zeros((2, 3, 3), np.uint8)
    shot = (Frame(0, RgbImage(pixels), depth_m, np.ones(4), np.eye(4)),)
    files = dict(vkitti.encode_files("Scene01/rain", [shot]))
    png = np.frombuffer(files["Scene01/rain/frames/depth/Camera_0/depth_00000.png"], np.uint8)
    assert cv2.imdecode(png, cv2.IMREAD_UNCHANGED).tolist() == [[123, 65535, 0], [65534, 65535, 1]]


@pytest.mark.parametrize(
    ("path", "archive"),
    [
        ("Scene01/fog/frames/rgb/Camera_0/rgb_00000.jpg", "vkitti_2.0.3_rgb.tar"),
        ("Scene01/fog/frames/depth/Camera_1/depth_00000.png", "vkitti_2.0.3_depth.tar"),
        ("Scene01/fog/extrinsic.txt", "vkitti_2.0.3_textgt.tar.gz"),
    ],
)
def test_samples_are_packed_as_the_download(path: str, archive: str) -> None:
    assert vkitti.archives_of(path) == [archive]
    assert archive in [file["name"] for file in _manifest.load("vkitti").versions[0]["files"]]
