"""MVS-Synth's paths, axes, units, cameras and EXR files."""

import io
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.conftest import decode_shards
from vdaprep import sources
from vdaprep.errors import FrameError
from vdaprep.raw import exr
from vdaprep.raw.frames import Frame, RgbImage, SourceOptions, Trajectory
from vdaprep.raw.tree import Location, Reader, Tree, open_tree
from vdaprep.shards import depth_codes
from vdaprep.shards.names import clip_key
from vdaprep.shards.records import DatasetRecord
from vdaprep.sources import _manifest
from vdaprep.sources.training import mvs_synth
from vdaprep.synthetic import layouts
from vdaprep.synthetic.sample import unpack

HERE = Location("", "x.exr")
SPEC = _manifest.load("mvs-synth").depth_spec(relative_error=0.0005)


def tree(*paths: str) -> Tree:
    return Tree(Path("GTAV_720"), {path: Location("", path) for path in paths}, ())


def find(*paths: str) -> tuple[Trajectory, ...]:
    return sources.load("mvs-synth").find_trajectories(tree(*paths), SourceOptions()).trajectories


# -------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("prefix", ["", "GTAV_540/", "GTAV_1080/", "MVS-Synth/GTAV_540/", "a/b/c/"])
def test_trajectories_are_found_wherever_they_begin(prefix: str) -> None:
    paths = (
        f"{prefix}0003/images/0007.png",
        f"{prefix}0003/images/0008.PNG",
        f"{prefix}0003/depths/0008.Exr",
        f"{prefix}0003/poses/0008.JSON",
        f"{prefix}num_images.json",
        f"{prefix}0004/poses/0000.json",  # no trajectory: it has no frame
        f"{prefix}0003/images/0009.jpg",
        "README.md",
    )
    [found] = find(*paths)
    assert found.name == "0003"
    assert tuple(found.frame_ids) == (7, 8)
    assert found.frames[0].depth is None
    assert [str(found.frames[1].rgb), str(found.frames[1].depth), str(found.shared["8"])] == list(paths[1:4])


def test_several_sizes_in_one_tree_keep_apart() -> None:
    sizes = [f"all/GTAV_{size}/{number}/images/0000.png" for size in (540, 1080) for number in ("0000", "0117")]
    names = [item.name for item in find(*sizes)]
    assert names == ["GTAV_1080/0000", "GTAV_1080/0117", "GTAV_540/0000", "GTAV_540/0117"]
    facts = _manifest.load("mvs-synth")
    assert [facts.split_of(name, splits="default") for name in names] == ["train", "val"] * 2
    # The folder that is the root itself has the root's name; folders that share no sequence need none.
    assert [item.name for item in find("0000/images/0000.png", sizes[0])] == ["GTAV_540/0000", "GTAV_720/0000"]
    assert [item.name for item in find("a/0000/images/0000.png", "b/0001/images/0000.png")] == ["0000", "0001"]


# ---------------------------------------------------------------------------------------------------- axes and units


def test_a_known_extrinsic_becomes_a_pose_in_metres_in_a_right_handed_world() -> None:
    """Raw world: x right, y up, z ahead (left-handed). The camera, y down, stands 10, 20 and 30 units along them."""
    extrinsic = np.diag([1.0, -1.0, 1.0, 1.0])
    extrinsic[:3, 3] = -(extrinsic[:3, :3] @ [10, 20, 30])
    assert np.isclose(np.linalg.det(extrinsic[:3, :3]), -1)
    pose = mvs_synth.pose_from_extrinsic(extrinsic)
    assert np.allclose(pose[:3, 3], [1, -2, 3])  # metres; up is minus y now
    assert np.allclose(pose[:3, :3], np.eye(3))


def raw_extrinsic(values: list[float]) -> np.ndarray:
    rotation, _ = np.linalg.qr(np.array(values[:9]).reshape(3, 3))
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = rotation * -np.sign(np.linalg.det(rotation))
    extrinsic[:3, 3] = values[9:]
    return extrinsic


EXTRINSICS = st.lists(st.floats(-5000, 5000), min_size=12, max_size=12)


@given(EXTRINSICS, EXTRINSICS)
def test_handedness_unit_and_relative_poses(first: list[float], second: list[float]) -> None:
    extrinsics = raw_extrinsic(first), raw_extrinsic(second)
    poses = [mvs_synth.pose_from_extrinsic(extrinsic) for extrinsic in extrinsics]
    for extrinsic, pose in zip(extrinsics, poses, strict=True):
        assert np.isclose(np.linalg.det(extrinsic[:3, :3]), -1)
        assert np.isclose(np.linalg.det(pose[:3, :3]), 1)
        assert np.allclose(mvs_synth.extrinsic_from_pose(pose), extrinsic, atol=1e-8)
    from_first_to_second = np.linalg.inv(poses[1]) @ poses[0]
    raw = extrinsics[1] @ np.linalg.inv(extrinsics[0])
    raw[:3, 3] *= 0.1
    assert np.allclose(from_first_to_second, raw, atol=1e-8)  # the mirror is gone, the unit is not


# ------------------------------------------------------------------------------------------------------------ cameras


def toy_frame(number: int, *, width: int = 64, height: int = 48) -> Frame:
    """A frame of sky above every eleventh bit pattern of positive half floats, from a start of its own."""
    bits = ((np.arange(height * width) * 11 + number) % 0x7C00).astype(np.uint16).reshape(height, width)
    bits[:4] = 0x7C00  # infinity
    metres = depth_codes.depth_table(SPEC).take(bits)
    rgb = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pose = np.eye(4)
    angle = 0.1 * number
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = [300 + number, -200, 0.5 * number]
    return Frame(number, RgbImage(rgb), metres, np.array([60.0, 61.0, 32.0, 24.0]), pose)


def write(root: Path, *, name: str = "0000", count: int = 3) -> list[Frame]:
    frames = [toy_frame(number) for number in range(count)]
    unpack(root, layouts.load("mvs-synth").encode_files(name, ((frame,) for frame in frames)))
    return frames


def cameras_of(root: Path, options: SourceOptions = SourceOptions()):  # noqa: B008 - frozen
    files = open_tree(root)
    [trajectory] = mvs_synth.find_trajectories(files, options).trajectories
    with Reader(files.root) as reader:
        return mvs_synth.read_cameras(trajectory, reader, options)


def edit(root: Path, number: int, **changes: object) -> None:
    path = root / f"GTAV_540/0000/poses/{number:04d}.json"
    camera = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in camera.items() if value is not ...}))


def test_what_is_written_is_left_handed_and_in_raw_units(tmp_path: Path) -> None:
    frames = write(tmp_path)
    camera = json.loads((tmp_path / "GTAV_540/0000/poses/0002.json").read_text())
    extrinsic = np.array(camera["extrinsic"])
    assert np.isclose(np.linalg.det(extrinsic[:3, :3]), -1)
    centre = -extrinsic[:3, :3].T @ extrinsic[:3, 3]
    assert np.allclose(centre, [3020, 2000, 10])  # tenths of a metre; y mirrored
    assert (camera["f_x"], camera["f_y"], camera["c_x"], camera["c_y"]) == (60, 61, 32, 24)
    raw = exr.parse_exr((tmp_path / "GTAV_540/0000/depths/0002.exr").read_bytes(), HERE)
    known = np.isfinite(frames[2].depth_m)
    assert raw.dtype == np.float16
    assert np.allclose(raw[known], frames[2].depth_m[known] * 10, rtol=1e-3, atol=1e-6)


def test_cameras_round_trip(tmp_path: Path) -> None:
    frames = write(tmp_path)
    cameras = cameras_of(tmp_path)
    assert cameras.problems == {}
    assert cameras.camera_to_world is not None
    for frame, pose, intrinsics in zip(frames, cameras.camera_to_world, cameras.intrinsics, strict=True):
        assert np.allclose(pose, frame.camera_to_world, atol=1e-9)
        assert np.array_equal(intrinsics, frame.intrinsics)
    edit(tmp_path, 1, f_x=...)
    other = cameras_of(tmp_path, SourceOptions(intrinsics=(1.0, 2.0, 3.0, 4.0)))
    assert other.problems == {}
    assert np.array_equal(other.intrinsics, [[1, 2, 3, 4]] * 3)


EYE = np.diag([1.0, -1.0, 1.0, 1.0])
BAD_CAMERAS = {
    "f_x": (..., "lacks f_x, expected f_x, f_y, c_x, c_y and extrinsic"),
    "c_y": ("wide", "c_y is not a number"),
    "c_x": (float("nan"), "is not valid JSON .NaN is no number of JSON"),
    "f_x ": (True, "f_x is not a number"),
    " f_x": ("60", "f_x is not a number"),
    "with true": ([[True, 0, 0, 0], *EYE[1:].tolist()], "extrinsic is not 4x4 numbers"),
    "with text": ([["1", 0, 0, 0], *EYE[1:].tolist()], "extrinsic is not 4x4 numbers"),
    "f_y": (-3, "f_x, f_y are 60, -3, expected positive numbers"),
    "extrinsic": (..., "lacks extrinsic, expected"),
    "3x3": (EYE[:3, :3].tolist(), "extrinsic is 3x3, expected 4x4 numbers"),
    "a number": (7, "extrinsic is one number, expected 4x4 numbers"),
    "ragged": ([[1, 2], [3]], "extrinsic is not 4x4 numbers"),
    "infinite": (np.full((4, 4), np.inf).tolist(), "is not valid JSON .Infinity is no number of JSON"),
    "too large": ((EYE * 10**200).tolist(), "extrinsic is not finite"),
    "scaled": ((EYE * 2).tolist(), "extrinsic is no rotation and translation"),
    "flat": (np.zeros((4, 4)).tolist(), "extrinsic is no rotation and translation"),
    "transposed": ((EYE + np.eye(4, k=-3)).tolist(), "extrinsic is no rotation and translation with a last row of 0 0"),
    "right-handed": (np.eye(4).tolist(), r"extrinsic has det\(R\) = 1, expected -1"),
}


@pytest.mark.parametrize("kind", BAD_CAMERAS)
def test_a_bad_camera_is_a_problem_of_its_frame(kind: str, tmp_path: Path) -> None:
    write(tmp_path)
    value, sentence = BAD_CAMERAS[kind]
    edit(tmp_path, 1, **{kind.strip() if "_" in kind else "extrinsic": value})
    problems = cameras_of(tmp_path).problems
    assert list(problems) == [1]
    with pytest.raises(ValueError, match=f"has no usable camera: GTAV_540/0000/poses/0001.json: {sentence}"):
        raise ValueError(problems[1])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "has no camera: poses/0001.json is missing"),
        (b'{"f_x": 1', "0001.json: is not valid JSON"),
        (b"\xff\xfe{", "0001.json: is UTF-16, expected text in UTF-8"),
        (b"[" * 100_000, "0001.json: is nested deeper than 32 levels"),
        (b"[1, 2]", "0001.json: holds a JSON list, expected a JSON object"),
    ],
)
def test_a_camera_file_that_is_none(data: bytes | None, sentence: str, tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "GTAV_540/0000/poses/0001.json"
    path.unlink() if data is None else path.write_bytes(data)
    problems = cameras_of(tmp_path).problems
    assert list(problems) == [1]
    assert sentence in problems[1]


@pytest.mark.parametrize(
    ("width", "c_x", "repaired", "said"),
    [
        (960, 404.6, 404.6 * 960 / 810, ["c_x is near 405 in images 960 pixels wide; multiplied by 960/810."]),
        (960, 480.2, 480.2, []),
        (960, 402.0, 402.0, []),
        (810, 404.6, 404.6, []),
        (810, 480.2, 480.2 * 810 / 960, ["c_x is near 480 in images 810 pixels wide; multiplied by 810/960."]),
    ],
)
def test_the_old_principal_point_is_repaired(
    width: int, c_x: float, repaired: float, said: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path)
    for number in range(3):
        edit(tmp_path, number, c_x=c_x)
        cv2.imwrite(str(tmp_path / f"GTAV_540/0000/images/{number:04d}.png"), np.zeros((4, width, 3), np.uint8))
    (tmp_path / "GTAV_540/0000/images/0000.png").write_bytes(b"cut")  # the next one tells the width
    with caplog.at_level(logging.WARNING, logger="vdaprep"):
        cameras = cameras_of(tmp_path)
    assert np.allclose(cameras.intrinsics[:, 2], repaired)
    assert np.array_equal(cameras.intrinsics[:, :2], [[60, 61]] * 3)
    assert [record.getMessage() for record in caplog.records] == [f"0000: {line}" for line in said]


# ---------------------------------------------------------------------------------------------------------------- EXR


def an_exr(channels: dict[str, np.ndarray], compression: OpenEXR.Compression = OpenEXR.ZIP_COMPRESSION) -> bytes:
    stream = io.BytesIO()
    OpenEXR.File({"compression": compression, "type": OpenEXR.scanlineimage}, channels).write(stream)
    return stream.getvalue()


def slope(kind: str = "f2", height: int = 70, width: int = 30) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (20 + 0.7 * y + np.sin(x)).astype(kind)


@given(arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 5))))
def test_half_floats_round_trip_bit_for_bit(bits: np.ndarray) -> None:
    values = exr.parse_exr(exr.encode_exr(bits.view(np.float16)), HERE)
    assert values.dtype == np.float16
    assert np.array_equal(values.view(np.uint16), bits)


COMPRESSIONS = {  # whether values of half floats, and of floats, come back as they were
    **dict.fromkeys(["NO", "RLE", "ZIPS", "ZIP", "PIZ"], (True, True)),
    "PXR24": (True, False),
    **dict.fromkeys(["B44", "B44A"], (False, True)),
    **dict.fromkeys(["DWAA", "DWAB"], (False, False)),
}


@pytest.mark.parametrize("kind", ["f2", "f4"])
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_compression_that_changes_depth_is_said_once(name: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    exr._note_loss.cache_clear()
    exr._note_channels("Y (float32)", "Y")  # said already
    noise = np.random.default_rng(0).random((96, 96))
    values = (np.linspace(5, 60, 96) + 0.1 * noise).astype(kind)  # nothing but noise is stored as it is
    data = an_exr({"Y": values}, getattr(OpenEXR, f"{name}_COMPRESSION"))
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="vdaprep"):
        found = [exr.parse_exr(data, HERE) for _ in range(2)][0]
    is_kept = COMPRESSIONS[name][kind == "f4"]
    assert np.array_equal(found, values) == is_kept
    said = [record.getMessage() for record in caplog.records]
    assert [f"EXR files are compressed with {name}, which changes depth" in line for line in said] == [True] * (
        not is_kept
    )


@pytest.mark.parametrize("kind", ["f2", "f4"])
@pytest.mark.parametrize("names", ["Y", "R", "RGB", "RGBA"])
def test_other_spellings_of_depth_are_read_with_one_note(
    kind: str, names: str, caplog: pytest.LogCaptureFixture
) -> None:
    exr._note_channels.cache_clear()
    data = an_exr({name: slope(kind) * (2 if name == "A" else 1) for name in names})
    with caplog.at_level(logging.WARNING, logger="vdaprep"):
        for _ in range(3):
            values = exr.parse_exr(data, HERE)
    assert values.dtype == np.dtype(kind)
    assert np.array_equal(values, slope(kind))
    notes = [record.getMessage() for record in caplog.records]
    if (names, kind) == ("Y", "f2"):
        assert notes == []
    else:
        [note] = notes
        assert f"depth is taken from {names[0]}; a frame whose values are no half floats is rejected" in note


@pytest.mark.parametrize("other", ["G", "B"])
def test_colours_that_differ_are_no_depth(other: str) -> None:
    data = an_exr({name: slope() * (2 if name == other else 1) for name in "RGB"})
    with pytest.raises(FrameError, match="has colours, R unlike G or B, expected one channel Y of half floats, or thr"):
        exr.parse_exr(data, HERE)


@pytest.mark.parametrize(
    ("channels", "found"),
    [
        ({"Z": "f2"}, r"Z \(float16\)"),
        ({"Y": "f2", "Z": "f4"}, r"Y \(float16\), Z \(float32\)"),
        ({"G": "f2", "B": "f2"}, r"B \(float16\), G \(float16\)"),
        ({"Y": "u4"}, r"Y \(uint32\)"),
    ],
)
def test_other_channels_are_named(channels: dict[str, str], found: str) -> None:
    data = an_exr({name: slope(kind) for name, kind in channels.items()})
    with pytest.raises(FrameError, match=f"x.exr: has the channels {found}, expected one channel Y of half floats"):
        exr.parse_exr(data, HERE)


CUT = "x.exr: (is not an EXR|the EXR's header is cut short|the EXR is cut short after)"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ZIP", "PIZ", "NO"])
def test_every_cut_of_an_exr_is_noticed_in_silence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """OpenEXR itself prints, and returns a file without parts."""
    data = an_exr({"Y": slope()}, getattr(OpenEXR, f"{name}_COMPRESSION"))
    for length in range(len(data)):
        with pytest.raises(FrameError, match=CUT):
            exr.parse_exr(data[:length], HERE)
    assert capfd.readouterr() == ("", "")


def test_damage_of_blocks_is_noticed_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    data = exr.encode_exr(slope())
    table = exr._parse_header(data, HERE).table
    for position in range(table, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(FrameError, match=r"x.exr: the EXR is (damaged near byte \d+|cut short after \d+ bytes)"):
            exr.parse_exr(bytes(damaged), HERE)
    assert capfd.readouterr() == ("", "")


def test_sizes_that_lie_allocate_nothing() -> None:
    data = bytearray(exr.encode_exr(slope()))
    window = data.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    for corner, sentence in ((10**9, "is 1000000001x70 pixels by its header"), (-1, "is 0x70 pixels by its header")):
        data[window + 8 : window + 12] = corner.to_bytes(4, "little", signed=True)
        with pytest.raises(FrameError, match=f"x.exr: {sentence}"):
            exr.parse_exr(bytes(data), HERE)


def test_what_is_no_plain_exr() -> None:
    tiled = bytearray(exr.encode_exr(slope()))
    tiled[5] |= 0x02
    with pytest.raises(FrameError, match="is an EXR of tiles, deep pixels or several parts, expected scan lines"):
        exr.parse_exr(bytes(tiled), HERE)
    with pytest.raises(FrameError, match="the EXR's header lacks 'channels'"):
        exr.parse_exr(exr.encode_exr(slope()).replace(b"channels\0", b"channelz\0"), HERE)
    with pytest.raises(FrameError, match="is not an EXR"):
        exr.parse_exr(b"\x89PNG", HERE)


# ------------------------------------------------------------------------------------------------- the command line


def record_of(out: Path) -> DatasetRecord:
    path = out / "mvs-synth" / "dataset.json"
    return DatasetRecord.from_bytes(path.read_bytes(), where=str(path))


def test_the_bits_of_half_floats_go_through_the_command_line(vdaprep, tmp_path: Path) -> None:
    frames = write(tmp_path / "raw")
    write(tmp_path / "raw", name="0118", count=1)
    convert = ("convert", "mvs-synth", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1)
    result = vdaprep(*convert, "--no-check")  # poses are made up
    assert (result.code, result.err) == (0, "")
    record = record_of(tmp_path / "out")
    assert record.splits == {"train": ["0000"], "val": ["0118"]}
    tar = tmp_path / "out" / "mvs-synth" / "train" / "shard-0001.tar"
    [(key, meta, values)] = decode_shards(tar)
    assert key == clip_key("mvs-synth", "0000", 0)
    assert np.allclose(meta.camera_to_world, [frame.camera_to_world for frame in frames], atol=1e-9)
    depths = values["depth.zst"]
    for number, depth_m in enumerate(depths):
        path = tmp_path / f"raw/GTAV_540/0000/depths/{number:04d}.exr"
        bits = exr.parse_exr(path.read_bytes(), HERE).view(np.uint16).copy()
        codes, _ = depth_codes.code_depth(depth_m, SPEC)
        bits[bits == 0x7C00] = depth_codes.SKY_CODE
        bits[(bits > 0x7C00) & (bits < depth_codes.SKY_CODE)] = depth_codes.UNKNOWN_CODE  # nan
        assert np.array_equal(codes, bits)
    assert depths[0][np.isfinite(depths[0])].max() > 6500
    assert np.isinf(depths[0][:4]).all()


def test_bad_frames_are_listed_and_the_rest_is_converted(vdaprep, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write(raw, count=9)
    folder = raw / "GTAV_540" / "0000"
    edit(raw, 1, f_y=...)
    edit(raw, 2, extrinsic=np.eye(3).tolist())
    depths = [folder / "depths" / f"{number:04d}.exr" for number in range(9)]
    depths[3].write_bytes(depths[3].read_bytes()[:-5])
    depths[4].write_bytes(an_exr({"Z": slope()}))
    depths[5].unlink()
    (folder / "images" / "0006.png").unlink()
    depths[7].write_bytes(an_exr({"Y": np.full((48, 64), 1.2345678, np.float32)}))
    result = vdaprep("convert", "mvs-synth", "--raw", raw, "--out", tmp_path / "out", "--workers", 1)
    assert result.code == 0
    lines = [line for line in result.err.splitlines() if line.startswith("rejected: ")]
    expected = [
        "images/0001.png: has no usable camera: GTAV_540/0000/poses/0001.json: lacks f_y, expected",
        "images/0002.png: has no usable camera: GTAV_540/0000/poses/0002.json: extrinsic is 3x3, expected 4x4 numbers",
        "depths/0003.exr: the EXR is cut short after",
        "depths/0004.exr: has the channels Z (float16), expected one channel Y of half floats",
        "images/0005.png: has no depth map beside it in depths",
        "depths/0006.exr: has no image beside it in images",
        "depths/0007.exr: depth 0.123457 m at row 0, column 0 would decode as",
    ]
    assert len(lines) == len(expected)
    for line, sentence in zip(lines, expected, strict=True):
        assert line.startswith(f"rejected: GTAV_540/0000/{sentence}")
    assert record_of(tmp_path / "out").totals["frames"] == 2


def test_another_data_set_is_refused_with_advice(raw, vdaprep, tmp_path: Path) -> None:
    result = vdaprep("convert", "mvs-synth", "--raw", raw.root, "--out", tmp_path / "out")
    assert result.code == 1
    assert "no MVS-Synth trajectory among " in result.err
    assert "looked for GTAV_{540,720,1080}/0000/" in result.err
    assert "phuang17.github.io/DeepMVS/mvs-synth.html" in result.err
