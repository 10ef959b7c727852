"""People's own videos: the layout that export writes, JPEG and 16-bit PNG as well, with and without poses."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import make_shards, toy_frame
from vdaprep.analysis.export import export
from vdaprep.analysis.verify import verify
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import make_plan
from vdaprep.errors import DataError, UsageError
from vdaprep.raw.frames import SourceOptions
from vdaprep.shards import codec
from vdaprep.shards.dataset import find_shards, open_shards
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.records import DatasetRecord

CAMERA = "50 51 31.5 23.5\n"


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def npy(depth_m: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, depth_m)
    return stream.getvalue()


def pose_lines(count: int) -> str:
    lines = (toy_frame(0, i).camera_to_world.ravel() for i in range(count))
    return "".join(" ".join(map(repr, line.tolist())) + "\n" for line in lines)


def write_video(folder: Path, *, frames: int = 4, poses: bool = True, intrinsics: str = CAMERA) -> Path:
    """Write toy frames as PNG and npy."""
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir(parents=True)
    for i in range(frames):
        frame = toy_frame(0, i)
        (folder / "rgb" / f"{i:06d}.png").write_bytes(png(frame.rgb.pixels[..., ::-1]))
        (folder / "depth" / f"{i:06d}.npy").write_bytes(npy(frame.depth_m))
    if poses:
        (folder / "camera_to_world.txt").write_text(pose_lines(frames))
    if intrinsics:
        (folder / "intrinsics.txt").write_text(intrinsics)
    return folder


def run(raw: Path, out: Path, *, selection: Selection | None = None, **source: object) -> DatasetRecord:
    settings = Settings(source=SourceOptions(**source))
    return make_shards("custom", raw=raw, out=out, settings=settings, selection=selection)


Clip = tuple[ClipMeta, dict[str, list[np.ndarray]], dict[str, list[bytes]]]


def clips(folder: Path) -> dict[str, Clip]:
    """Read all clips: metadata, decoded and raw members by kind."""
    found: dict[str, Clip] = {}
    for clip in open_shards(find_shards(folder)).clips():
        frames = list(clip.frames())
        values = {kind: [frame.decode(kind) for frame in frames] for kind in frames[0].members}
        data = {kind: [bytes(frame.members[kind]) for frame in frames] for kind in frames[0].members}
        found[clip.key] = clip.meta, values, data
    return found


def reasons(record: DatasetRecord) -> list[str]:
    return [f"{item.file}: {item.reason}" for item in record.rejected]


def test_an_export_converts_to_the_same_clips(toy_shards: Path, tmp_path: Path) -> None:
    export(toy_shards, out=tmp_path / "frames", on_frame=lambda: None)
    record = run(tmp_path / "frames", tmp_path, selection=Selection(val=("*/P011",)))
    assert record.rejected == ()
    assert record.totals["clamped_near"] == 0
    before, after = clips(toy_shards), clips(tmp_path / "custom")
    assert [key.replace("tartanair-", "custom-") for key in before] == list(after)
    for (meta, values, data), (new, new_values, new_data) in zip(before.values(), after.values(), strict=True):
        assert (new.frame_ids, new.split, new.trajectory) == (meta.frame_ids, meta.split, meta.trajectory)
        assert (new.intrinsics, new.camera_to_world) == (meta.intrinsics, meta.camera_to_world)
        assert (new.disparity_min, new.disparity_max) == (meta.disparity_min, meta.disparity_max)
        assert new.diff_valid == meta.diff_valid
        assert new_data["depth.zst"] == data["depth.zst"]
        for kind, tolerance in (("rgb.jpg", 1.5), ("diff.zst", 0.5)):  # a JPEG of a JPEG: mean grey levels, mean steps
            for one, other in zip(values[kind], new_values[kind], strict=True):
                assert np.abs(one.astype(int) - other).mean() < tolerance


def test_names_are_the_paths_of_folders(tmp_path: Path) -> None:
    for name in ("home/kitchen", "val/garden", "home/kitchen.vdaprep-tmp"):
        write_video(tmp_path / "raw" / name, frames=2)
    record = run(tmp_path / "raw", tmp_path / "out")
    assert record.splits == {"train": ["home/kitchen"], "val": ["val/garden"]}
    assert list(clips(tmp_path / "out")) == ["custom-home-kitchen-000000", "custom-val-garden-000000"]
    record = run(tmp_path / "raw" / "home" / "kitchen", tmp_path / "alone")
    assert record.splits == {"train": ["kitchen"]}
    record = run(tmp_path / "raw", tmp_path / "held", selection=Selection(val=("home/*",)))
    assert record.splits == {"train": ["val/garden"], "val": ["home/kitchen"]}


def test_a_jpeg_is_passed_on_and_numbers_need_no_zeros(tmp_path: Path) -> None:
    folder = write_video(tmp_path / "raw" / "a", frames=3)
    sources = {}
    for path in sorted((folder / "rgb").iterdir()):
        data = jpeg(cv2.imread(str(path)))
        sources[int(path.stem)] = data
        (folder / "rgb" / f"{int(path.stem)}.{'JPG' if int(path.stem) else 'jpeg'}").write_bytes(data)
        path.unlink()
    run(tmp_path / "raw", tmp_path / "out")
    [(meta, _, data)] = clips(tmp_path / "out").values()
    assert meta.frame_ids == (0, 1, 2)
    assert data["rgb.jpg"] == list(sources.values())


def test_png_depth_keeps_its_integers(tmp_path: Path) -> None:
    folder = write_video(tmp_path / "raw" / "a", frames=2)
    rng = np.random.default_rng(0)
    units = rng.integers(1, 65535, (2, 48, 64)).astype(np.uint16)
    units[:, :2], units[:, -2:] = 0, 65535
    for i in range(2):
        (folder / "depth" / f"{i:06d}.npy").unlink()
        (folder / "depth" / f"{i:06d}.png").write_bytes(png(units[i]))
    with pytest.raises(UsageError, match=r"depth/00000\d.png: say with --depth-unit how many metres a unit is"):
        run(tmp_path / "raw", tmp_path / "out")
    record = run(tmp_path / "raw", tmp_path / "out", depth_unit_m=0.0002)
    assert record.options["depth_unit"] == 0.0002
    assert record.options["depth"]["unit_m"] == 0.0002
    [(meta, values, data)] = clips(tmp_path / "out").values()
    codes = [codec.unpack_codes(one, meta.depth, height=48, width=64) for one in data["depth.zst"]]
    assert np.array_equal(codes, units)
    assert np.isnan(values["depth.zst"][0][:2]).all()
    assert np.isinf(values["depth.zst"][0][-2:]).all()
    assert verify([tmp_path / "out"], deep=True, on_frames=lambda count: None).findings == ()


def test_a_unit_is_for_png_depth_of_custom_only(raw, tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a", frames=1)
    with pytest.raises(UsageError, match="its metres need no --depth-unit"):
        run(tmp_path / "videos", tmp_path / "out", depth_unit_m=0.001)
    settings = Settings(source=SourceOptions(depth_unit_m=0.001))
    with pytest.raises(UsageError, match="--depth-unit: the depth of TartanAir has a unit of its own"):
        make_plan("tartanair", raw=raw.root, settings=settings, selection=Selection())
    with pytest.raises(UsageError, match="--depth-unit: expected metres of a unit"):
        Settings(source=SourceOptions(depth_unit_m=0.0))


def test_without_poses_clips_say_so(tmp_path: Path) -> None:
    write_video(tmp_path / "raw" / "a", poses=False)
    assert run(tmp_path / "raw", tmp_path / "out").rejected == ()
    [(meta, _, _)] = clips(tmp_path / "out").values()
    assert meta.camera_to_world is None
    assert verify([tmp_path / "out"], deep=True, on_frames=lambda count: None).findings == ()
    export(tmp_path / "out", out=tmp_path / "frames", on_frame=lambda: None)
    assert not (tmp_path / "frames" / "a" / "camera_to_world.txt").exists()


def test_intrinsics_for_all_for_each_or_as_an_option(tmp_path: Path) -> None:
    rows = [(50.0 + i, 51.0, 31.5, 23.5) for i in range(3)]
    write_video(tmp_path / "each" / "a", frames=3, intrinsics="".join(" ".join(map(str, row)) + "\n" for row in rows))
    write_video(tmp_path / "all" / "a", frames=3)
    write_video(tmp_path / "none" / "a", frames=3, intrinsics="")
    expected = {"each": tuple(rows), "all": ((50.0, 51.0, 31.5, 23.5),) * 3}
    for name, intrinsics in expected.items():
        run(tmp_path / name, tmp_path / "out" / name)
        assert next(iter(clips(tmp_path / "out" / name).values()))[0].intrinsics == intrinsics
    with pytest.raises(DataError, match="intrinsics.txt is missing; write one, fx fy cx cy, or say --intrinsics"):
        run(tmp_path / "none", tmp_path / "out" / "none")
    run(tmp_path / "none", tmp_path / "out" / "option", intrinsics=(1.0, 2.0, 3.0, 4.0))
    assert next(iter(clips(tmp_path / "out" / "option").values()))[0].intrinsics == ((1.0, 2.0, 3.0, 4.0),) * 3


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("intrinsics.txt", "50 51 31.5\n", "line 1 of a/intrinsics.txt is not 4 numbers"),
        ("intrinsics.txt", CAMERA * 2, "a/intrinsics.txt: has 2 rows, and nothing tells which frame each is of"),
        ("intrinsics.txt", "-" + CAMERA, "a focal length in a/intrinsics.txt is not positive"),
        ("camera_to_world.txt", pose_lines(3), "a/camera_to_world.txt: has 3 rows, and nothing tells"),
        ("camera_to_world.txt", "\xff", "a/camera_to_world.txt: is not UTF-8"),
    ],
)
def test_tables_that_are_wrong_throughout(file: str, text: str, sentence: str, tmp_path: Path) -> None:
    folder = write_video(tmp_path / "raw" / "a")
    (folder / file).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="none of 4 frames can be used") as error:
        run(tmp_path / "raw", tmp_path / "out")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("1 " * 15, "has no usable pose: line 3 of a/camera_to_world.txt is not 16 numbers"),
        ("2 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "its matrix in a/camera_to_world.txt is not a rotation and a translation"),
        ("-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "is not a rotation and a translation"),
    ],
)
def test_a_bad_pose_cuts_the_clip(row: str, sentence: str, tmp_path: Path) -> None:
    folder = write_video(tmp_path / "raw" / "a")
    lines = pose_lines(4).splitlines()
    (folder / "camera_to_world.txt").write_text("\n".join([*lines[:2], row, lines[3]]))
    [reason] = reasons(run(tmp_path / "raw", tmp_path / "out"))
    assert reason.startswith("a/rgb/000002.png: ")
    assert sentence in reason
    assert [meta.frame_ids for meta, _, _ in clips(tmp_path / "out").values()] == [(0, 1), (3,)]


def test_frames_without_a_counterpart_are_listed(tmp_path: Path) -> None:
    folder = write_video(tmp_path / "raw" / "a")
    (folder / "depth" / "000000.npy").unlink()
    (folder / "rgb" / "000003.png").unlink()
    assert reasons(run(tmp_path / "raw", tmp_path / "out")) == [
        "a/rgb/000000.png: has no depth map beside it in depth",
        "a/depth/000003.npy: has no image beside it in rgb",
    ]


def test_depth_that_is_not_positive_is_unknown(tmp_path: Path) -> None:
    folder = write_video(tmp_path / "raw" / "a", frames=1)
    depth_m = toy_frame(0, 0).depth_m.copy()
    depth_m[0, :4] = [-1, 0, -np.inf, np.nan]
    (folder / "depth" / "000000.npy").write_bytes(npy(depth_m))
    run(tmp_path / "raw", tmp_path / "out")
    [(_, values, _)] = clips(tmp_path / "out").values()
    assert np.isnan(values["depth.zst"][0][0, :4]).all()
    assert np.isinf(values["depth.zst"][0][0, 4:]).all()


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for NAME/rgb/000000.png or .jpg with NAME/depth/000000.npy"):
        run(tmp_path, tmp_path / "out")
