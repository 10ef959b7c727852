"""Dynamic Replica's folders and zips, half floats in PNGs, PyTorch3D's cameras."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Run, pinhole, tree_bytes
from tests.exports import expect_exported, pack_zips
from tests.serving import serve
from vdaprep.raw.frames import Frame, SourceOptions
from vdaprep.raw.png import encode_png, encode_png16
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.sources.training import dynamic_replica
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

WIDTH, HEIGHT, FRAMES = 128, 96, 16
NAMES = ("train/0a1b2c-3_obj", "valid/f00d00-7_obj")
FORMATS = ("ndc_norm_image_bounds", "ndc_isotropic")
FLIP = np.diag([-1.0, -1.0, 1.0])  # PyTorch3D's x points left, y up


@pytest.fixture(scope="module")
def frames() -> dict[str, list[Frame]]:
    """Two rooms whose depth is half floats."""
    fx, fy, cx, cy = pinhole(width=WIDTH, height=HEIGHT)
    intrinsics = np.array([fx, fy * 1.1, cx + 3, cy - 2])
    return {name: _room(seed, intrinsics) for name, seed in zip(NAMES, (2, 6), strict=True)}


def _room(seed: int, intrinsics: np.ndarray) -> list[Frame]:
    scene = make_scene(seed)
    found = (render_as_frame(scene, 2 * i, size=(WIDTH, HEIGHT), intrinsics=intrinsics) for i in range(FRAMES))
    return [replace(frame, depth_m=frame.depth_m.astype(np.float16).astype(np.float32)) for frame in found]


def stored_depth(frame: Frame) -> np.ndarray:
    """What is left of a frame's depth: sky is unknown, and so are the pixels that `png_of` spoils."""
    depth_m = np.where(np.isfinite(frame.depth_m), frame.depth_m, np.nan)
    depth_m[0, :4] = np.nan
    return depth_m


def png_of(frame: Frame) -> bytes:
    halves = frame.depth_m.astype(np.float16)
    halves[0, :4] = 0, np.inf, np.nan, -1
    return encode_png16(halves.view(np.uint16))


def viewpoint_of(frame: Frame, kind: str) -> dict[str, Any]:
    """A camera as PyTorch3D has it: points are rows, and pixels' corners at integers."""
    world_to_camera = np.linalg.inv(frame.camera_to_world)
    fx, fy, cx, cy = frame.intrinsics
    x, y = (WIDTH / 2, HEIGHT / 2) if kind == "ndc_norm_image_bounds" else (HEIGHT / 2, HEIGHT / 2)
    return {
        "R": (FLIP @ world_to_camera[:3, :3]).T.tolist(),
        "T": (FLIP @ world_to_camera[:3, 3]).tolist(),
        "focal_length": [fx / x, fy / y],
        "principal_point": [(WIDTH / 2 - cx - 0.5) / x, (HEIGHT / 2 - cy - 0.5) / y],
        "intrinsics_format": kind,
    }


def entries_of(name: str, frames: list[Frame], kind: str) -> Iterator[dict[str, Any]]:
    sequence = name.partition("/")[2]
    for camera in ("left", "right"):
        folder = f"{sequence}_source_{camera}"
        for number, frame in enumerate(frames):
            yield {
                "sequence_name": sequence,
                "camera_name": camera,
                "frame_number": number,
                "frame_timestamp": number / 30,
                "image": {"path": f"{folder}/images/{folder}-{number:04d}.png", "size": [HEIGHT, WIDTH]},
                "depth": {"path": f"{folder}/depths/{folder}_{number:04d}.geometric.png", "scale_adjustment": 1.0},
                "viewpoint": viewpoint_of(frame, kind),
            }


def jgz(entries: list[dict[str, Any]]) -> bytes:
    return gzip.compress(json.dumps(entries).encode(), mtime=0)


def files_of(name: str, frames: list[Frame]) -> Iterator[tuple[str, bytes]]:
    for camera in ("left", "right"):
        folder = f"{name.rpartition('/')[2]}_source_{camera}"
        above = f"{name}_source_{camera}"
        for number, frame in enumerate(frames):
            yield f"{above}/images/{folder}-{number:04d}.png", encode_png(frame.rgb.pixels)
            yield f"{above}/depths/{folder}_{number:04d}.geometric.png", png_of(frame)
            yield f"{above}/flow_forward/{folder}_{number:04d}.png", os.urandom(100_000)
            yield f"{above}/trajectories/{number:06d}.pth", os.urandom(100_000)
        yield f"{above}/images/done.ok", b""


def write(root: Path, frames: dict[str, list[Frame]]) -> Path:
    for (name, items), kind in zip(frames.items(), FORMATS, strict=False):
        unpack(root, files_of(name, items))
        split = name.partition("/")[0]
        unpack(root, [(f"{split}/frame_annotations_{split}.jgz", jgz(list(entries_of(name, items, kind))))])
    return root


@pytest.mark.slow
def test_it_converts_verifies_and_exports_equal_to_its_source(
    frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    loose, packed = write(tmp_path / "loose", frames), tmp_path / "packed"
    for split in ("train", "valid"):  # each zip is to be unpacked into a folder of its split's name
        pack_zips(packed, loose, {f"{split}_000.zip": [f"{split}/**/*"]}, above=split)
    with serve(packed) as server:
        urls = ",".join(f"{server.url}/{split}_000.zip" for split in ("train", "valid"))
        for raw, out in ((loose, "loose"), (packed, "packed"), (urls, "remote")):
            convert = ("convert", "dynamic-replica", "--raw", raw, "--out", tmp_path / f"{out}-out", "--workers", 1)
            result = vdaprep(*convert, "--strict")
            assert (result.code, result.err) == (0, "")
        whole = sum(path.stat().st_size for path in packed.iterdir())
        assert sum(server.sent.values()) < whole / 4  # of four fifths, flow and tracks, nothing is fetched
    shards = [tree_bytes(tmp_path / f"{out}-out/dynamic-replica") for out in ("loose", "packed", "remote")]
    splits = [json.loads(found.pop("dataset.json"))["splits"] for found in shards]
    assert shards[0] == shards[1] == shards[2]
    assert splits == [{"train": [f"{NAMES[0]}_source_left"], "val": [f"{NAMES[1]}_source_left"]}] * 3
    out = tmp_path / "loose-out"
    result = vdaprep("verify", out, "--deep", "--geometry")
    assert (result.code, result.err) == (0, "")
    assert vdaprep("export", out, "--out", tmp_path / "export").code == 0
    for name, items in frames.items():
        folder = tmp_path / "export" / f"{name}_source_left"
        expect_exported(folder, dict(enumerate(items)), depth_of=stored_depth, relative_error=0)


def _inverted(entry: dict[str, Any], frames: list[Frame]) -> None:
    frame = frames[entry["frame_number"]]
    assert frame.camera_to_world is not None
    entry["viewpoint"] = viewpoint_of(replace(frame, camera_to_world=np.linalg.inv(frame.camera_to_world)), FORMATS[0])


def _shifted(entry: dict[str, Any], frames: list[Frame]) -> None:
    entry["viewpoint"] = viewpoint_of(frames[(entry["frame_number"] - 3) % FRAMES], FORMATS[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "fault"), [(_inverted, "the poses look like world-to-camera"), (_shifted, "poses look shifted")]
)
def test_a_broken_twin_is_named(
    damage: Callable[[dict[str, Any], list[Frame]], None],
    fault: str,
    frames: dict[str, list[Frame]],
    vdaprep: Run,
    tmp_path: Path,
) -> None:
    raw, (name, items) = write(tmp_path / "raw", {NAMES[0]: frames[NAMES[0]]}), (NAMES[0], frames[NAMES[0]])
    entries = list(entries_of(name, items, FORMATS[0]))
    for entry in entries:
        damage(entry, items)
    (raw / "train/frame_annotations_train.jgz").write_bytes(jgz(entries))
    convert = ("convert", "dynamic-replica", "--raw", raw, "--out", tmp_path / "out", "--workers", 1, "--no-check")
    assert vdaprep(*convert).code == 0
    result = vdaprep("verify", tmp_path / "out", "--geometry")
    assert result.code == 1
    assert fault in " ".join(result.out.split())


numbers = st.floats(-3, 3)


@given(st.lists(numbers, min_size=3, max_size=3), st.lists(numbers, min_size=3, max_size=3), st.sampled_from(FORMATS))
def test_a_point_is_seen_where_pytorch3d_has_it(turn: list[float], place: list[float], kind: str) -> None:
    """By the formulas of its notes on cameras: rows, x left, y up, and NDC of corners."""
    rotation, translation = cv2.Rodrigues(np.array(turn))[0], np.array(place)
    focal, principal = np.array([1.2, 1.5]), np.array([0.1, -0.2])
    in_camera = np.array([0.3, -0.4, 4.0])
    world = (in_camera - translation) @ rotation.T  # as in_camera is world @ rotation + translation
    half = np.array([WIDTH, HEIGHT]) / (2, 2) if kind == FORMATS[0] else np.full(2, HEIGHT / 2)
    corner_px = np.array([WIDTH, HEIGHT]) / 2 - half * (focal * in_camera[:2] / in_camera[2] + principal)
    entry = {
        "frame_number": 0,
        "image": {"path": "a-0000.png", "size": [HEIGHT, WIDTH]},
        "viewpoint": {
            "R": rotation.tolist(),
            "T": place,
            "focal_length": focal.tolist(),
            "principal_point": principal.tolist(),
            "intrinsics_format": kind,
        },
    }
    view = dynamic_replica.parse_view(entry, where="x")
    assert isinstance(view, bytes)
    fx, fy, cx, cy, *_ = np.frombuffer(view)
    x, y, z, _ = np.linalg.inv(np.frombuffer(view)[6:].reshape(4, 4)) @ [*world, 1]
    assert np.isclose(z, in_camera[2])
    assert np.allclose([fx * x / z + cx, fy * y / z + cy], corner_px - 0.5)


def test_the_right_camera_is_read_on_request(frames: dict[str, list[Frame]], tmp_path: Path) -> None:
    write(tmp_path, {NAMES[0]: frames[NAMES[0]][:2]})
    tree = open_tree(tmp_path)
    [found] = dynamic_replica.find_trajectories(tree, SourceOptions(camera=1)).trajectories
    assert found.name == f"{NAMES[0]}_source_right"
    with Reader(tree.root) as reader:
        assert not dynamic_replica.read_cameras(found, reader, SourceOptions(camera=1)).problems


def test_folders_of_all_splits_side_by_side_have_their_cameras(frames: dict[str, list[Frame]], tmp_path: Path) -> None:
    """As other programs unpack the zips: then a name does not say the split."""
    write(tmp_path / "raw", {name: items[:2] for name, items in frames.items()})
    for path in [*(tmp_path / "raw").glob("*/*")]:
        path.rename(tmp_path / "raw" / path.name)
    tree = open_tree(tmp_path / "raw")
    found = dynamic_replica.find_trajectories(tree, SourceOptions()).trajectories
    assert [item.name for item in found] == [f"{name.partition('/')[2]}_source_left" for name in NAMES]
    with Reader(tree.root) as reader:
        assert not any(dynamic_replica.read_cameras(item, reader, SourceOptions()).problems for item in found)


def changed(**values: Any) -> Callable[[list[dict[str, Any]]], bytes]:
    """Change fields of frame 1's entry, or of its viewpoint."""

    def change(entries: list[dict[str, Any]]) -> bytes:
        for key, value in values.items():
            where = entries[1]["viewpoint"] if key in entries[1]["viewpoint"] else entries[1]
            where[key] = value
        return jgz(entries)

    return change


BAD: dict[str, tuple[Callable[[list[dict[str, Any]]], bytes | None], str, list[int]]] = {
    "none": (lambda entries: None, "frame_annotations_train.jgz is missing; it comes with the zips", [0, 1, 2]),
    "damaged": (lambda entries: jgz(entries)[:-9], "is cut short", [0, 1, 2]),
    "another list": (lambda entries: jgz([{"a": 1}]), "does not list 0a1b2c-3_obj, left", [0, 1, 2]),
    "nameless": (changed(sequence_name=3), "an entry lacks sequence_name or frame_number", [0, 1, 2]),
    "fewer frames": (lambda entries: jgz(entries[:1]), "lists other frames of 0a1b2c-3_obj, left", [1, 2]),
    "twice": (lambda entries: jgz([*entries, entries[1]]), "lists it twice", [1]),
    "another image": (changed(image={"path": "a-0002.png", "size": [1, 1]}), "gives frame 1 the image 'a-0002.", [1]),
    "no viewpoint": (changed(viewpoint=None), "cannot be read (Type", [1]),
    "a format": (changed(intrinsics_format="pixels"), "intrinsics_format is 'pixels'", [1]),
    "a matrix": (changed(R=[[1, 0, 0]]), "expected 9 numbers", [1]),
    "texts": (changed(T=["1", "2", "3"]), "expected 3 numbers", [1]),
    "huge": (changed(T=[1, 2, 10**400]), "cannot be read (OverflowError", [1]),
    "no rotation": (changed(R=[[2, 0, 0], [0, 1, 0], [0, 0, 1]]), "is not a rotation and a translation", [1]),
    "no focal length": (changed(focal_length=[0, 1]), "they are no camera's", [1]),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_cameras_cost_a_sentence(kind: str, frames: dict[str, list[Frame]], tmp_path: Path) -> None:
    change, sentence, wrong = BAD[kind]
    items = frames[NAMES[0]][:3]
    write(tmp_path, {NAMES[0]: items})
    path = tmp_path / "train/frame_annotations_train.jgz"
    data = change(list(entries_of(NAMES[0], items, FORMATS[0])))
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    tree = open_tree(tmp_path)
    [found] = dynamic_replica.find_trajectories(tree, SourceOptions()).trajectories
    with Reader(tree.root) as reader:
        problems = dynamic_replica.read_cameras(found, reader, SourceOptions()).problems
    assert list(problems) == wrong
    assert sentence in problems[wrong[0]]


FILES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no depth": ("depths", lambda data: None, "has no depth map of the same number in depths"),
    "no image": ("images", lambda data: None, "has no image of the same number in images"),
    "cut": ("depths", lambda data: data[:-30], "the PNG is cut short"),
    "colours": (
        "depths",
        lambda data: encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        "expected one channel",
    ),
    "another size": (
        "depths",
        lambda data: encode_png16(np.ones((48, 64), np.uint16)),
        "the depth map is 64x48",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_bad_file_costs_its_frame_and_a_sentence(
    kind: str, frames: dict[str, list[Frame]], vdaprep: Run, tmp_path: Path
) -> None:
    folder, change, sentence = FILES[kind]
    raw = write(tmp_path / "raw", {NAMES[0]: frames[NAMES[0]][:3]})
    [path] = (raw / f"{NAMES[0]}_source_left" / folder).glob("*0001.*")
    data = change(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    convert = ("convert", "dynamic-replica", "--raw", raw, "--out", tmp_path / "out", "--workers", 1, "--no-check")
    result = vdaprep(*convert)
    assert result.code == 0
    [line] = [line for line in result.err.splitlines() if line.startswith("rejected: ")]
    assert "0001." in line
    assert sentence in line
