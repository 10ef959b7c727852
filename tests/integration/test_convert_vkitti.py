"""`vdaprep convert vkitti`: integers and JPEGs that survive, cameras, both layouts, bad input as sentences."""

import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import tree_bytes
from vdaprep.shards import codec
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.records import DatasetRecord
from vdaprep.synthetic.sample import SampleSpec, write_sample

SPEC = SampleSpec(trajectories=4, frames=5, width=62, height=38)
CLONE = "Scene02/clone"
FOG = "Scene02/fog"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vkitti")
    write_sample("vkitti", out=folder, spec=SPEC, archives=False, on_frame=lambda: None)
    return folder


@pytest.fixture
def raw(rendered: Path, tmp_path: Path) -> Path:
    """Four trajectories of five frames and two cameras, Scene01/clone held out; a copy to be changed."""
    return Path(shutil.copytree(rendered, tmp_path / "raw"))


@pytest.fixture
def convert(vdaprep, tmp_path: Path):
    def run(raw: Path, *options: object, out: str = "out"):
        return vdaprep("convert", "vkitti", "--raw", raw, "--out", tmp_path / out, "--workers", 1, *options)

    return run


def record(out: Path) -> DatasetRecord:
    path = out / "vkitti" / "dataset.json"
    return DatasetRecord.from_bytes(path.read_bytes(), where=str(path))


def clips(out: Path, split: str = "train") -> dict[str, tuple[ClipMeta, dict[str, bytes]]]:
    """Read the clips of a split: by trajectory, the metadata and the members' bytes by `f000.rgb.jpg` and so on."""
    found: dict[str, tuple[ClipMeta, dict[str, bytes]]] = {}
    for path in sorted((out / "vkitti" / split).glob("*.tar")):
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                members.setdefault(key, {})[kind] = file.read()
        for key, kinds in members.items():
            meta = ClipMeta.from_bytes(kinds.pop("json"), where=key)
            assert meta.trajectory not in found
            found[meta.trajectory] = meta, kinds
    return found


def depth_codes(meta: ClipMeta, members: dict[str, bytes], position: int) -> np.ndarray:
    return codec.unpack_codes(members[f"f{position:03d}.depth.zst"], meta.depth, height=meta.height, width=meta.width)


def centimetres(folder: Path, frame: int, camera: int = 0) -> np.ndarray:
    path = folder / "frames" / "depth" / f"Camera_{camera}" / f"depth_{frame:05d}.png"
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def jpeg_path(folder: Path, frame: int, camera: int = 0) -> Path:
    return folder / "frames" / "rgb" / f"Camera_{camera}" / f"rgb_{frame:05d}.jpg"


def rows(folder: Path, kind: str, camera: int) -> np.ndarray:
    table = np.loadtxt(folder / f"{kind}.txt", skiprows=1)
    return table[table[:, 1] == camera, 2:]


@pytest.mark.parametrize("camera", [0, 1])
def test_integers_jpegs_and_cameras_are_the_sources(camera: int, raw: Path, convert, tmp_path: Path) -> None:
    result = convert(raw, "--camera", camera)
    assert (result.code, result.err) == (0, "")
    train, val = clips(tmp_path / "out"), clips(tmp_path / "out", "val")
    assert (sorted(train), sorted(val)) == ([CLONE, FOG, "Scene06/clone"], ["Scene01/clone"])
    for name, (meta, members) in (train | val).items():
        folder = raw / name
        assert meta.frame_ids == (0, 1, 2, 3, 4)
        assert (meta.depth.kind, meta.depth.unit_m, meta.depth.relative_error) == ("linear", 0.01, 0)
        assert meta.source == {"layout": "2.0.3"}
        for i in range(5):
            assert np.array_equal(depth_codes(meta, members, i), centimetres(folder, i, camera))
            assert members[f"f{i:03d}.rgb.jpg"] == jpeg_path(folder, i, camera).read_bytes()
        assert np.array_equal(meta.intrinsics, rows(folder, "intrinsic", camera))
        product = np.array(meta.camera_to_world) @ rows(folder, "extrinsic", camera).reshape(-1, 4, 4)
        assert np.allclose(product, np.eye(4), atol=1e-12)
    assert train[CLONE][0].camera_to_world == train[FOG][0].camera_to_world


def test_a_smaller_size_encodes_again_and_keeps_integers(raw: Path, convert, tmp_path: Path) -> None:
    assert convert(raw, "--short-side", 19, "--select", CLONE).code == 0
    meta, members = clips(tmp_path / "out")[CLONE]
    assert (meta.width, meta.height) == (31, 19)
    assert codec.decode_rgb(members["f000.rgb.jpg"]).shape == (19, 31, 3)
    assert np.isin(depth_codes(meta, members, 0), centimetres(raw / CLONE, 0)).all()
    assert meta.intrinsics[0][0] == pytest.approx(725.0087 * 31 / 1242)


@pytest.mark.slow
def test_the_layout_changes_no_byte(raw: Path, convert, vdaprep, tmp_path: Path) -> None:
    """As in the archives, as users unpack each archive, with upper-case endings, in the archives as downloaded."""
    parted, upper = tmp_path / "parted", tmp_path / "upper"
    for path in sorted(path.relative_to(raw) for path in raw.rglob("*.*")):
        kind = next((part for part in ("rgb", "depth") if part in path.parts), "textgt")
        for target in (parted / f"vkitti_2.0.3_{kind}" / path, upper / path.with_suffix(path.suffix.upper())):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(raw / path, target)
    size = f"{SPEC.width}x{SPEC.height}"
    numbers = ("--trajectories", SPEC.trajectories, "--frames", SPEC.frames, "--size", size)
    assert vdaprep("sample", "vkitti", "--out", tmp_path / "tars", *numbers, "--archives").code == 0
    assert sorted(path.name for path in (tmp_path / "tars").iterdir()) == [
        "vkitti_2.0.3_depth.tar", "vkitti_2.0.3_rgb.tar", "vkitti_2.0.3_textgt.tar.gz",
    ]  # fmt: skip
    roots = {"plain": raw, "parted": parted, "upper": upper, "tars": tmp_path / "tars"}
    for out, root in roots.items():
        result = convert(root, out=f"of-{out}")
        assert (result.code, result.err) == (0, "")
    one, *others = (tree_bytes(tmp_path / f"of-{out}") for out in ("plain", "parted", "upper", "tars"))
    # But for dataset.json, which names the raw root.
    shards = {name for name in one if "shard" in name}
    assert len(shards) == 4
    for other in others:
        assert {name: other[name] for name in shards} == {name: one[name] for name in shards}


def test_scenes_and_variants_are_selected_and_split(raw: Path, convert, tmp_path: Path) -> None:
    assert convert(raw, "--select", "Scene0[12]/clone", out="a").code == 0
    assert record(tmp_path / "a").splits == {"train": [CLONE], "val": ["Scene01/clone"]}
    assert convert(raw, "--splits", "scene06", out="b").code == 0
    assert record(tmp_path / "b").splits == {"train": ["Scene01/clone", CLONE, FOG], "val": ["Scene06/clone"]}


def write_version_1(raw: Path, root: Path) -> None:
    """Write Scene02/clone in the layout of 1.3.1, whose images are PNGs, scaled to a small copy of its frames."""
    old, new = raw / CLONE, root / "vkitti_1.3.1_{}" / "0002" / "clone"
    for frame in range(SPEC.frames):
        for kind, image in (("rgb", cv2.imread(str(jpeg_path(old, frame)))), ("depthgt", centimetres(old, frame))):
            target = Path(str(new).format(kind)) / f"{frame:05d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), cv2.resize(image, (207, 62), interpolation=cv2.INTER_NEAREST))
    table = root / "vkitti_1.3.1_extrinsicsgt" / "0002_clone.txt"
    table.parent.mkdir()
    matrices = rows(old, "extrinsic", 0)
    text = ["frame r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0.1 0.2 1"]
    text += [f"{frame} " + " ".join(f"{number:.17g}" for number in row) for frame, row in enumerate(matrices)]
    table.write_text("\n".join(text))


def test_version_1_converts_beside_version_2(raw: Path, convert, tmp_path: Path) -> None:
    write_version_1(raw, raw)
    result = convert(raw, "--select", "*2/clone")
    assert (result.code, result.err) == (0, "")
    found = clips(tmp_path / "out")
    assert list(found) == ["0002/clone", CLONE]
    meta, members = found["0002/clone"]
    folder = raw / "vkitti_1.3.1_{}" / "0002" / "clone"
    for i in range(SPEC.frames):
        source = cv2.imread(str(folder).format("depthgt") + f"/{i:05d}.png", cv2.IMREAD_UNCHANGED)
        assert np.array_equal(depth_codes(meta, members, i), source)
        image = cv2.imread(str(folder).format("rgb") + f"/{i:05d}.png")
        assert np.abs(codec.decode_rgb(members[f"f{i:03d}.rgb.jpg"])[..., ::-1].astype(int) - image).mean() < 4
    assert meta.source == {"layout": "1.3.1"}
    assert meta.camera_to_world == found[CLONE][0].camera_to_world
    assert meta.intrinsics[0] == pytest.approx([725 / 6, 725 * 62 / 375, 103, (187.5 * 62 / 375) - 0.5], abs=1e-9)


# ---------------------------------------------------------------------------------------------------------- bad input


def damage(folder: Path, kind: str) -> None:
    """Spoil frame 2 of a trajectory in one way."""
    depth = folder / "frames" / "depth" / "Camera_0" / "depth_00002.png"
    image = jpeg_path(folder, 2)
    table = folder / "extrinsic.txt"
    lines = table.read_text().splitlines(keepends=True)
    [number] = [i for i, line in enumerate(lines) if line.startswith("2 0 ")]
    if kind == "no depth":
        depth.unlink()
    elif kind == "no image":
        image.unlink()
    elif kind == "cut image":
        image.write_bytes(image.read_bytes()[:-100])
    elif kind == "8 bits":
        cv2.imwrite(str(depth), cv2.imread(str(depth), cv2.IMREAD_UNCHANGED).astype(np.uint8))
    elif kind == "depth size":
        cv2.imwrite(str(depth), cv2.imread(str(depth), cv2.IMREAD_UNCHANGED)[:-1])
    elif kind == "no row":
        table.write_text("".join(lines[:number] + lines[number + 1 :]))
    elif kind == "two rows":
        table.write_text("".join([*lines, lines[number]]))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("no depth", "rgb/Camera_0/rgb_00002.jpg: has no depth map of the same number"),
        ("no image", "depth/Camera_0/depth_00002.png: has no image of the same number"),
        ("cut image", "rgb/Camera_0/rgb_00002.jpg: the JPEG is cut short after"),
        (
            "8 bits",
            "depth/Camera_0/depth_00002.png: is a PNG of one channel of 8 bits, expected one channel of 16 bits",
        ),
        ("depth size", "depth/Camera_0/depth_00002.png: the depth map is 62x37 pixels, the image is 62x38"),
        ("no row", f"rgb_00002.jpg: has no camera: {CLONE}/extrinsic.txt has no rows for frame 2 and camera 0"),
        ("two rows", f"rgb_00002.jpg: has no camera: {CLONE}/extrinsic.txt has 2 rows for frame 2 and camera 0"),
    ],
)
def test_a_bad_frame_is_rejected_and_cuts_the_clip(
    kind: str, sentence: str, raw: Path, convert, tmp_path: Path
) -> None:
    damage(raw / CLONE, kind)
    result = convert(raw, "--select", CLONE)
    assert result.code == 0
    assert result.err.startswith(f"rejected: {CLONE}/frames/")
    assert result.err.count("\n") == 1
    assert sentence in result.err
    assert record(tmp_path / "out").totals["frames"] == 4
    assert record(tmp_path / "out").totals["clips"] == 2


def test_text_tables_that_were_not_downloaded(raw: Path, convert) -> None:
    for table in raw.rglob("*.txt"):
        table.unlink()
    result = convert(raw)
    assert result.code == 1
    assert "none of 20 frames can be used" in result.err
    assert "the intrinsic table of Scene02/clone is missing; it is in vkitti_2.0.3_textgt.tar.gz" in result.err


def test_a_camera_that_is_not_there(raw: Path, convert) -> None:
    shutil.rmtree(raw / "Scene06")
    for folder in raw.rglob("Camera_1"):
        shutil.rmtree(folder)
    for camera, sentence in ((1, "has frames of camera 0 only"), (2, "Virtual KITTI has cameras 0 and 1")):
        result = convert(raw, "--camera", camera)
        assert result.code == 2
        assert result.err.startswith(f"vdaprep: --camera {camera}: ")
        assert result.err.count("\n") == 1
        assert sentence in result.err


def test_a_jpeg_with_bytes_after_its_end(raw: Path, convert, tmp_path: Path) -> None:
    whole = jpeg_path(raw / CLONE, 1).read_bytes()
    jpeg_path(raw / CLONE, 1).write_bytes(whole + bytes(300))
    assert convert(raw, "--select", CLONE).code == 0
    _, members = clips(tmp_path / "out")[CLONE]
    assert members["f001.rgb.jpg"] == whole


def test_the_wrong_data_set_says_what_was_looked_for(convert, tmp_path: Path) -> None:
    (tmp_path / "other" / "0000" / "images").mkdir(parents=True)
    (tmp_path / "other" / "0000" / "images" / "0000.png").touch()
    result = convert(tmp_path / "other")
    assert result.code == 1
    assert "no Virtual KITTI trajectory among 1 files" in result.err
    assert "vdaprep sample vkitti --out" in result.err
