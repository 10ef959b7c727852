"""7-Scenes: from folders and archives through the command line, and what may be wrong with them."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import tree_bytes
from tests.exports import expect_exported
from tests.unit.prep.rooms import room, units_of
from vdaprep.raw.frames import Frame, SourceOptions
from vdaprep.raw.png import encode_png, encode_png16
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.shards.cameras import invert_pose
from vdaprep.sources import _manifest
from vdaprep.sources.evaluation import seven_scenes

UNIT_M = 0.001
FRAMES = 12


def write(
    folder: Path, *, jpeg: bool = False, inverted: bool = False, depth_late: int = 0, start: int = 0
) -> list[Frame]:
    """Write a sequence in the set's own layout; returns its frames."""
    folder.mkdir(parents=True)
    fx, fy, cx, cy = _manifest.load("seven-scenes").versions[0]["intrinsics"]
    frames = room(list(range(start, start + FRAMES)), (fx, fy, cx, cy), unit_m=UNIT_M)
    for number, frame in enumerate(frames):
        stem = folder / f"frame-{number:06d}"
        colour = cv2.cvtColor(frame.rgb.pixels, cv2.COLOR_RGB2BGR)
        ending = "jpg" if jpeg else "png"
        Path(f"{stem}.color.{ending}").write_bytes(cv2.imencode(f".{ending}", colour)[1].tobytes())
        shown = frames[max(0, number - depth_late)]
        Path(f"{stem}.depth.png").write_bytes(encode_png16(units_of(shown, UNIT_M)))
        assert frame.camera_to_world is not None
        pose = invert_pose(frame.camera_to_world) if inverted else frame.camera_to_world
        Path(f"{stem}.pose.txt").write_text("".join("\t ".join(f"{x: .7e}" for x in row) + "\t \n" for row in pose))
    (folder / "Thumbs.db").write_bytes(b"?")
    (folder.parent / "TrainSplit.txt").write_text("sequence1\n")
    (folder.parent / "TestSplit.txt").write_text("sequence3\n")
    return frames


def pack_sequences(root: Path, out: Path) -> None:
    """Pack each sequence beside the lists, as unpacking a scene's zip leaves them."""
    for folder in sorted(root.glob("*/seq-*")):
        place = out / folder.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.make_archive(str(place / folder.name), "zip", folder.parent, folder.name)
        if place != folder.parent:
            shutil.copy(folder.parent / "TestSplit.txt", place)


def convert(vdaprep, raw: Path, out: Path, *more: object):
    return vdaprep("convert", "seven-scenes", "--raw", raw, "--out", out, "--workers", 1, *more)


def record_of(out: Path) -> dict:
    return json.loads((out / "seven-scenes" / "dataset.json").read_text())


@pytest.mark.slow
def test_what_is_converted_is_what_was_written(vdaprep, tmp_path: Path) -> None:
    frames = write(tmp_path / "raw" / "chess" / "seq-01")
    pack_sequences(tmp_path / "raw", tmp_path / "packed")
    for number, raw in enumerate(("raw", "packed", "raw/chess", "packed/chess")):
        result = convert(vdaprep, tmp_path / raw, tmp_path / f"out{number}")
        assert (result.code, result.err) == (0, "")
        assert (
            "0 not recognised" in vdaprep("plan", "seven-scenes", "--raw", tmp_path / raw, "--out", tmp_path / "x").out
        )
    tars = [tmp_path / f"out{number}" / "seven-scenes" / "val" / "shard-0001.tar" for number in range(4)]
    assert len({tar.read_bytes() for tar in tars}) == 1
    assert record_of(tmp_path / "out0")["splits"] == {"val": ["chess/seq-01"]}
    assert vdaprep("verify", tmp_path / "out0", "--deep", "--geometry").code == 0
    assert vdaprep("export", tmp_path / "out0", "--out", tmp_path / "exported").code == 0
    folder = tmp_path / "exported" / "chess" / "seq-01"
    expect_exported(folder, dict(enumerate(frames)), relative_error=0)
    for number, frame in enumerate(frames):
        rgb = cv2.imread(str(folder / "rgb" / f"{number:06d}.png"))[..., ::-1]
        assert np.abs(rgb.astype(int) - frame.rgb.pixels).mean() < 3


@pytest.mark.slow
def test_zips_of_several_scenes_keep_apart(vdaprep, tmp_path: Path) -> None:
    names = ("chess/seq-01", "chess/seq-03", "fire/seq-01", "heads/seq-01", "stairs/seq-04")
    for number, name in enumerate(names):
        write(tmp_path / "raw" / name, jpeg=name.startswith("fire"), start=20 * number)
    pack_sequences(tmp_path / "raw", tmp_path / "packed")
    for raw in ("raw", "packed"):
        out = tmp_path / f"{raw}-out"
        assert convert(vdaprep, tmp_path / raw, out, "--splits", "test", "--no-check").code == 0
        assert record_of(out)["splits"] == {"val": ["chess/seq-03", "heads/seq-01", "stairs/seq-04"]}
        fire = convert(vdaprep, tmp_path / raw, tmp_path / f"{raw}-fire", "--select", "fire/*", "--no-check")
        assert (fire.code, fire.err) == (0, "")
    stored = (tmp_path / "packed-fire" / "seven-scenes" / "val" / "shard-0001.tar").read_bytes()
    image = (tmp_path / "raw" / "fire" / "seq-01" / "frame-000000.color.jpg").read_bytes()
    assert image in stored  # as it came


def test_a_sequence_beside_its_zip_counts_once(vdaprep, tmp_path: Path) -> None:
    write(tmp_path / "raw" / "chess" / "seq-01")
    pack_sequences(tmp_path / "raw", tmp_path / "raw")
    result = convert(vdaprep, tmp_path / "raw", tmp_path / "out", "--no-check")
    assert result.code == 0
    assert record_of(tmp_path / "out")["totals"]["frames"] == FRAMES
    assert "is a second rgb file of a frame of chess/seq-01, and 11 more like it" in result.err


@pytest.mark.slow
def test_zips_in_a_zip_are_read_if_they_are_not_packed_again(vdaprep, tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / "raw" / "chess" / f"seq-0{number}", start=20 * number)
    pack_sequences(tmp_path / "raw", tmp_path / "packed")
    for method, name in ((zipfile.ZIP_STORED, "stored"), (zipfile.ZIP_DEFLATED, "deflated")):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "chess.zip", "w", method) as file:
            for path in sorted((tmp_path / "packed/chess").iterdir()):
                file.write(path, f"chess/{path.name}")
    for name in ("packed", "stored"):
        result = convert(vdaprep, tmp_path / name, tmp_path / f"{name}-out", "--strict")
        assert (result.code, result.err) == (0, "")
    assert tree_bytes(tmp_path / "packed-out") == tree_bytes(tmp_path / "stored-out")
    result = convert(vdaprep, tmp_path / "deflated", tmp_path / "out")
    assert result.code == 1
    assert "chess.zip: chess/seq-01.zip is an archive packed inside another; unpack the outer one" in result.err
    assert "in folders, in SCENE.zip, or in SCENE/seq-01.zip, as unpacking SCENE.zip leaves them" in result.err


@pytest.mark.parametrize(("twin", "expected"), [({"inverted": True}, "inverted"), ({"depth_late": 1}, "do not agree")])
def test_geometry_names_what_is_wrong(twin: dict, expected: str, vdaprep, tmp_path: Path) -> None:
    write(tmp_path / "raw" / "chess" / "seq-01", **twin)
    assert convert(vdaprep, tmp_path / "raw", tmp_path / "out", "--no-check").code == 0
    result = vdaprep("verify", tmp_path / "out", "--geometry")
    assert result.code == 1
    assert expected in result.out


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no pose": (lambda stem: Path(f"{stem}.pose.txt").unlink(), "has no pose: frame-000001.pose.txt is missing"),
    "a pose that is cut": (
        lambda stem: Path(f"{stem}.pose.txt").write_text("1 0 0 0\n0 1 0 0\n"), "is 2 rows, expected 4 of 4 numbers",
    ),
    "a pose of other numbers": (
        lambda stem: Path(f"{stem}.pose.txt").write_text("1 0 0 0\n0 nan 0 0\n0 0 1 0\n0 0 0 1\n"),
        "is 4 rows, expected 4 of 4 numbers",
    ),
    "no rotation": (
        lambda stem: Path(f"{stem}.pose.txt").write_text("2 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"), "is not a rotation",
    ),
    "no depth": (lambda stem: Path(f"{stem}.depth.png").unlink(), "has no depth map depth.png beside it"),
    "no colour": (
        lambda stem: Path(f"{stem}.color.png").unlink(), "has no image color.png or color.jpg beside it",
    ),
    "depth of 8 bits": (
        lambda stem: Path(f"{stem}.depth.png").write_bytes(encode_png(np.zeros((48, 64, 3), np.uint8))),
        "is a PNG of 3 channels of 8 bits",
    ),
    "colour that is a JPEG": (
        lambda stem: Path(f"{stem}.color.png").write_bytes(cv2.imencode(".jpg", np.ones((48, 64, 3), np.uint8))[1]),
        "is not a PNG (it is a JPEG: rename or convert it)",
    ),
    "depth of another size": (
        lambda stem: Path(f"{stem}.depth.png").write_bytes(encode_png16(np.ones((4, 4), np.uint16))),
        "the depth map is 4x4 pixels, the image is 64x48",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_costs_a_frame(case: str, vdaprep, tmp_path: Path) -> None:
    break_it, sentence = BAD[case]
    write(tmp_path / "raw" / "chess" / "seq-01")
    break_it(tmp_path / "raw" / "chess" / "seq-01" / "frame-000001")
    result = convert(vdaprep, tmp_path / "raw", tmp_path / "out", "--no-check")
    assert result.code == 0
    assert sentence in result.err
    assert record_of(tmp_path / "out")["totals"]["frames"] == FRAMES - 1


def test_other_sets_of_this_layout_are_not_taken_for_it(vdaprep, tmp_path: Path) -> None:
    write(tmp_path / "raw" / "sun3d-home" / "seq-01")
    result = convert(vdaprep, tmp_path / "raw", tmp_path / "out")
    assert result.code == 1
    assert "no 7-Scenes trajectory among 39 files" in result.err
    assert "of chess, fire, heads, office, pumpkin, redkitchen and stairs" in result.err


@pytest.mark.parametrize(
    ("archive", "first", "expected"),
    [
        ("chess/seq-01.zip", "", ["chess/seq-01"]),
        ("https://x.org/chess/seq-01.zip", "", ["chess/seq-01"]),
        ("a/chess/seq-01.zip", "seq-01/frame-000000.color.png", ["chess/seq-01"]),
        ("a/chess/seq-01.zip", "seq-02/frame-000000.color.png", None),
        ("seq-01.zip", "", None),
        ("chess.zip", "", None),
    ],
)
def test_archives_say_what_they_hold(archive: str, first: str, expected: list[str] | None) -> None:
    assert seven_scenes.named_by_place(archive, first) == expected


def test_depth_that_no_integer_holds_is_unknown(tmp_path: Path) -> None:
    write(tmp_path / "chess" / "seq-01")
    path = tmp_path / "chess" / "seq-01" / "frame-000000.depth.png"
    path.write_bytes(encode_png16(np.array([[0, 1, 1000, 65534, 65535]], np.uint16)))
    tree = open_tree(tmp_path)
    [trajectory] = seven_scenes.find_trajectories(tree, SourceOptions()).trajectories
    with Reader(tree.root) as reader:
        depth_m = seven_scenes.read_depth(trajectory.frames[0], reader)
    assert np.array_equal(depth_m, np.array([[np.nan, 0.001, 1, 65.534, np.nan]], np.float32), equal_nan=True)
