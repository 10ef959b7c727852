"""NYU Depth V2: raw frames of a Kinect, projected, and the ready-made forms of them."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Run, decode_shards, tree_bytes
from vdaprep import sources
from vdaprep.errors import FrameError
from vdaprep.raw.frames import FrameFiles, SourceOptions
from vdaprep.raw.png import encode_png, encode_png16
from vdaprep.raw.tree import Location, Reader, Tree, open_tree
from vdaprep.sources.evaluation import nyuv2
from vdaprep.synthetic.sample import render_as_frame, unpack
from vdaprep.synthetic.scene import make_scene

SCENE = "basement_0001a"
WIDTH, HEIGHT = 640, 480
START_S = 1294439278.432340
Files = dict[str, bytes]

# A plane in the colour camera's axes, n x = d: 2.5 m away, slanted by some degrees.
NORMAL = np.array([0.2, -0.15, 1.0]) / np.linalg.norm([0.2, -0.15, 1.0])
AWAY_M = 2.5


def matrix(camera: tuple[float, float, float, float]) -> np.ndarray:
    fx, fy, cx, cy = camera
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def plane_seen(camera: tuple[float, float, float, float], normal: np.ndarray, away_m: float) -> np.ndarray:
    """The depth of a plane in each pixel of a camera without distortion."""
    fx, fy, cx, cy = camera
    rows, columns = np.indices((HEIGHT, WIDTH))
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones((HEIGHT, WIDTH))], axis=-1)
    return away_m / (rays @ normal)


def plane_by_depth_camera() -> np.ndarray:
    """The raw depth of the plane, by way of the forward distortion: x_colour = R x_depth + t, so R' n x = d - n t."""
    normal, away_m = nyuv2.ROTATION.T @ NORMAL, AWAY_M - NORMAL @ nyuv2.TRANSLATION_M
    x, y = np.meshgrid(np.linspace(-0.75, 0.75, 1500), np.linspace(-0.6, 0.6, 1200))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    pixels, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix(nyuv2.DEPTH), np.array(nyuv2.DEPTH_DISTORTION))
    columns, rows = np.rint(pixels[:, 0]).astype(int).T
    inside = (columns >= 0) & (columns < WIDTH) & (rows >= 0) & (rows < HEIGHT)
    seen = np.full((HEIGHT, WIDTH), np.nan)
    seen[rows[inside], columns[inside]] = away_m / (rays[inside] @ normal)
    return seen


def raw_of(depth_m: np.ndarray) -> np.ndarray:
    """Whole raw values, 2047 unknown, by the formula of the toolbox turned round."""
    return np.nan_to_num(np.rint(1092.5 - 351.3 / depth_m), nan=2047).astype(np.uint16)


def ppm(pixels: np.ndarray) -> bytes:
    return f"P6 {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + pixels.tobytes()


def pgm(raw: np.ndarray) -> bytes:
    """A PGM as the data set has them: bytes little-endian, against the format."""
    return f"P5 {raw.shape[1]} {raw.shape[0]} 65535\n".encode() + raw.astype("<u2").tobytes()


def name(kind: str, at_s: float, count: int) -> str:
    ending = {"r": "ppm", "d": "pgm", "a": "dump"}[kind]
    return f"{SCENE}/{kind}-{START_S + at_s:.6f}-{count}.{ending}"


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    scene = make_scene(2)
    camera = np.array(nyuv2.COLOUR)
    return [render_as_frame(scene, number, size=(WIDTH, HEIGHT), intrinsics=camera).rgb.pixels for number in range(4)]


@pytest.fixture(scope="module")
def raw_map() -> np.ndarray:
    return raw_of(plane_by_depth_camera())


def raw_scene(images: list[np.ndarray], raw_map: np.ndarray) -> Files:
    """Four images at 29.9 Hz and five depth maps at 30 Hz, the map of frame k being k raw steps farther away."""
    files = {f"{SCENE}/INDEX.txt": b"listed\n", name("a", 0.001, 7): bytes(28)}
    for number, image in enumerate(images):
        files[name("r", number / 29.9, 1000 + number)] = ppm(image)
    for number in range(len(images) + 1):
        shifted = np.where(raw_map == 2047, 2047, raw_map + number).astype(np.uint16)
        files[name("d", 0.008 + number / 30 - (0.02 if number == 4 else 0), 5000 + number)] = pgm(shifted)
    return files


# ---------------------------------------------------------------------------------------------------------- projection


@pytest.mark.slow
def test_a_plane_is_projected_to_where_the_colour_camera_sees_it() -> None:
    seen = plane_by_depth_camera()
    projected = nyuv2.project_depth(seen)
    expected = plane_seen(nyuv2.COLOUR, NORMAL, AWAY_M)
    known = np.isfinite(projected)
    inner = np.s_[45:471, 41:601]  # what evaluations crop to
    assert known[inner].mean() > 0.97
    # A pixel's depth is that of a point up to half a pixel away, whose plane is slanted: a thousandth at the edge.
    error = np.abs(projected - expected)[known] / expected[known]
    assert np.median(error) < 3e-4
    assert error.max() < 2e-3
    # Without the rotation, the translation or the distortion it is several times as far off.
    assert np.median(np.abs(seen - expected)[known & np.isfinite(seen)] / expected[known & np.isfinite(seen)]) > 2e-3


def test_the_matrices_are_those_that_the_toolbox_computes() -> None:
    listed = [
        9.9997798940829263e-01, 5.0518419386157446e-03, 4.3011152014118693e-03,
        -5.0359919480810989e-03, 9.9998051861143999e-01, -3.6879781309514218e-03,
        -4.3196624923060242e-03, 3.6662365748484798e-03, 9.9998394948385538e-01,
    ]  # fmt: skip
    toolbox = np.linalg.inv(np.reshape(-np.array(listed), (3, 3), order="F").T)
    points = np.random.default_rng(0).uniform((-1, -1, 1), (1, 1, 5), (100, 3))
    theirs = points @ toolbox.T + [2.5031875059141302e-02, -2.9342312935846411e-04, 6.6238747008330102e-04]
    ours = points @ nyuv2.ROTATION.T + nyuv2.TRANSLATION_M
    np.testing.assert_allclose(ours[:, :2] / ours[:, 2:], theirs[:, :2] / theirs[:, 2:], atol=3e-6)
    np.testing.assert_allclose(ours[:, 2], -theirs[:, 2], atol=2e-4)
    assert (ours[:, 2] > 0).all()


def test_what_is_near_hides_what_is_far() -> None:
    depth_m = np.full((HEIGHT, WIDTH), 5.0)
    depth_m[200:280, 280:360] = 1.0
    projected = nyuv2.project_depth(depth_m)
    # The colour camera stands 2.5 cm to the right: the near square moves 10 pixels farther to the left than the wall.
    square = projected < 2
    assert square.sum() == pytest.approx(80 * 80 * (519 / 582.6) ** 2, rel=0.05)
    columns = np.flatnonzero(square.any(axis=0))
    centre = (columns[0] + columns[-1]) / 2
    assert centre == pytest.approx((319.5 - 313.04) / 582.6 * 518.86 + 325.58 - 0.025 * 518.86, abs=3)
    shadow = projected[240, columns[-1] + 3 : columns[-1] + 9]
    assert np.isnan(shadow).all()


def test_raw_values_are_metres_as_in_the_toolbox() -> None:
    metres = nyuv2.raw_metres()
    assert metres[1000] == pytest.approx(351.3 / 92.5)
    known = np.flatnonzero(np.isfinite(metres))
    assert (known[0], known[-1]) == (600, 1057)
    assert np.nanmax(metres) <= 10


def test_straight_lines_are_straight_again() -> None:
    """Colour is undistorted: a grid drawn with the camera's distortion comes out as the grid without it."""
    lines = np.indices((HEIGHT, WIDTH)).astype(np.float32)
    fx, fy, cx, cy = nyuv2.COLOUR
    rows, columns = lines
    ideal = cv2.undistortPoints(
        np.stack([columns, rows], -1).reshape(-1, 1, 2).astype(float),
        matrix(nyuv2.COLOUR),
        np.array(nyuv2.COLOUR_DISTORTION),
        criteria=(cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 40, 1e-9),
    ).reshape(HEIGHT, WIDTH, 2)
    wave = 127 + 100 * np.sin((ideal[..., 0] * fx + cx) / 9) * np.sin((ideal[..., 1] * fy + cy) / 11)
    plain = 127 + 100 * np.sin(columns / 9) * np.sin(rows / 11)
    pixels = np.repeat(np.rint(wave).astype(np.uint8)[..., None], 3, axis=2)
    found = nyuv2.undistort_colour(pixels)[20:-20, 20:-20, 0].astype(float)
    assert np.abs(found - plain[20:-20, 20:-20]).max() < 2
    assert np.abs(pixels[20:-20, 20:-20, 0] - plain[20:-20, 20:-20]).max() > 50


# ------------------------------------------------------------------------------------------------- through the command


@pytest.mark.slow
def test_raw_frames_convert_paired_and_projected(
    images: list[np.ndarray], raw_map: np.ndarray, vdaprep: Run, tmp_path: Path
) -> None:
    unpack(tmp_path / "raw", raw_scene(images, raw_map).items())
    result = vdaprep("convert", "nyuv2", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1)
    assert (result.code, result.err) == (0, "")
    assert vdaprep("verify", tmp_path / "out", "--deep", "--geometry").code == 0
    [tar] = (tmp_path / "out").rglob("*.tar")
    assert tar.parent.name == "val"
    [(_, meta, values)] = decode_shards(tar)
    assert (meta.trajectory, meta.frame_ids, meta.camera_to_world) == (SCENE, (0, 1, 2, 3), None)
    np.testing.assert_allclose(meta.intrinsics, np.tile(nyuv2.COLOUR, (4, 1)), atol=1e-4)
    for number in range(4):
        shifted = np.where(raw_map == 2047, 2047, raw_map + number)
        expected_m = nyuv2.project_depth(nyuv2.raw_metres().take(shifted))
        found_m = values["depth.zst"][number]
        np.testing.assert_array_equal(np.isnan(found_m), np.isnan(expected_m))
        assert np.nanmax(np.abs(found_m - expected_m)) <= 0.5 / 6000 + 1e-6
        off = values["rgb.jpg"][number].astype(float) - nyuv2.undistort_colour(images[number])
        assert np.abs(off).mean() < 3


def test_the_published_zip_gives_the_shards_of_its_folders(
    images: list[np.ndarray], raw_map: np.ndarray, vdaprep: Run, tmp_path: Path
) -> None:
    files = raw_scene(images[:2], raw_map)
    unpack(tmp_path / "folders", files.items())
    (tmp_path / "zips").mkdir()
    with zipfile.ZipFile(tmp_path / "zips" / "basements.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    for name in ("folders", "zips"):
        result = vdaprep("convert", "nyuv2", "--raw", tmp_path / name, "--out", tmp_path / f"of-{name}", "--workers", 1)
        assert (result.code, result.err) == (0, "")
    [tar] = (tmp_path / "of-zips").rglob("*.tar")
    assert tar.read_bytes() == (tmp_path / "of-folders" / tar.relative_to(tmp_path / "of-zips")).read_bytes()


def ready_made(images: list[np.ndarray], rgb: str, depth: str, values: np.ndarray) -> Files:
    files: Files = {}
    for number, image in enumerate(images):
        ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        assert ok
        files[f"{SCENE}/{rgb.format(number)}"] = data.tobytes()
        files[f"{SCENE}/{depth.format(number)}"] = encode_png16(values)
    return files


PROJECTED = ("rgb/{:04d}.jpg", "depth/{:04d}.png")
SYNCHRONISED = ("rgb_{:05d}.jpg", "sync_depth_{:05d}.png")


def integers(unit_m: float) -> np.ndarray:
    """Every whole number of a unit that a room has, some unknown."""
    least, most = round(0.8 / unit_m), round(10 / unit_m)
    values = np.resize(np.arange(least, most), (HEIGHT, WIDTH)).astype(np.uint16)
    values[0, :4] = 0, 65535, 1, most
    return values


@pytest.mark.parametrize(("names", "unit_m"), [(PROJECTED, 1 / 6000), (SYNCHRONISED, 1 / 1000)])
def test_ready_made_folders_keep_their_integers_and_jpegs(
    names: tuple[str, str], unit_m: float, images: list[np.ndarray], vdaprep: Run, tmp_path: Path
) -> None:
    values = integers(unit_m)
    files = ready_made(images, *names, values)
    unpack(tmp_path / "raw", files.items())
    result = vdaprep(
        "convert", "nyuv2", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--workers", 1, "--strict"
    )
    assert (result.code, result.err) == (0, "")
    assert vdaprep("verify", tmp_path / "out", "--deep").code == 0
    assert vdaprep("export", tmp_path / "out", "--out", tmp_path / "plain").code == 0
    expected_m = np.where((values == 0) | (values == 65535), np.nan, values * unit_m).astype(np.float32)
    exported = np.load(tmp_path / "plain" / SCENE / "depth/000002.npy")
    np.testing.assert_allclose(exported, expected_m, rtol=1e-7)
    np.testing.assert_array_equal(np.rint(np.nan_to_num(exported) / unit_m), np.where(values == 65535, 0, values))
    [tar] = (tmp_path / "out").rglob("*.tar")
    assert files[f"{SCENE}/{names[0].format(1)}"] in tar.read_bytes()


def test_several_forms_of_a_scene_are_told_apart(images: list[np.ndarray], tmp_path: Path) -> None:
    unpack(tmp_path, ready_made(images[:1], *PROJECTED, integers(1 / 6000)).items())
    unpack(tmp_path / "bts", ready_made(images[:1], *SYNCHRONISED, integers(1 / 1000)).items())
    found = sources.load("nyuv2").find_trajectories(open_tree(tmp_path), SourceOptions())
    assert [item.name for item in found.trajectories] == [f"projected/{SCENE}", f"synchronised/{SCENE}"]
    assert found.others == ()


def test_a_depth_map_that_is_missing_cuts_no_pairs_of_others(
    images: list[np.ndarray], raw_map: np.ndarray, tmp_path: Path
) -> None:
    files = raw_scene(images, raw_map)
    del files[name("d", 0.008 + 1 / 30, 5001)]
    tree = Tree(tmp_path, {path: Location("", path) for path in files}, ())
    for pairing, partners in (("time", [5000, None, 5002, 5003]), ("legacy-index", [5000, 5002, 5003, 5004])):
        options = SourceOptions(pairing=pairing)  # pyright: ignore[reportArgumentType]
        [trajectory] = sources.load("nyuv2").find_trajectories(tree, options).trajectories
        found = [None if frame.depth is None else int(frame.depth.member[-8:-4]) for frame in trajectory.frames]
        assert found == partners


# ---------------------------------------------------------------------------------------------------------- bad frames

SMALL, LARGE = (np.full(size, 1000, np.uint16) for size in ((48, 64), (HEIGHT, WIDTH)))
Read = Callable[[FrameFiles, Reader], object]
BAD: dict[str, tuple[str, bytes, str]] = {
    "high byte first": ("d.pgm", pgm(LARGE.byteswap()), "holds 59395, expected 11 bits"),
    "a small map": ("d.pgm", pgm(SMALL), "is 64x48 pixels, expected 640x480, which the calibration is of"),
    "a small image": ("r.ppm", ppm(np.zeros((48, 64, 3), np.uint8)), "is 64x48 pixels, expected 640x480"),
    "a cut map": ("d.pgm", pgm(SMALL)[:-1], "is cut short: it has 6143 bytes for 64x48 pixels, expected 6144"),
    "a long image": ("r.ppm", ppm(np.zeros((48, 64, 3), np.uint8)) + b"!", "goes on after its end: it has 9217 bytes"),
    "8 bits": ("d.pgm", b"P5 2 1 255\n\0\0", "is a PGM whose largest value is 255, expected 65535"),
    "a PGM as image": ("r.ppm", pgm(SMALL), "is not a PPM (it is a PGM or PPM: rename or convert it)"),
    "no pixels": ("r.ppm", b"P6 0 4 255\n", "is 0x4 pixels by its header, expected at least 1x1"),
    "huge": ("r.ppm", b"P6 999999 999999 255\n", "is 999999x999999 pixels by its header, expected at most"),
    "nothing": ("d.pgm", b"", "is not a PGM (it is empty)"),
    "a colour PNG": ("depth/1.png", encode_png(np.zeros((48, 64, 3), np.uint8)), "is a PNG of 3 channels of 8 bits"),
    "mm": ("depth/1.png", encode_png16(2 * SMALL), "has a median depth of 0.33 m in units of m/6000, expected"),
    "m/6000": ("sync_depth_1.png", encode_png16(12 * SMALL), "has a median depth of 12.00 m in units of mm"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_frame_costs_a_sentence(bad: str, tmp_path: Path) -> None:
    member, data, sentence = BAD[bad]
    (tmp_path / member).parent.mkdir(exist_ok=True)
    (tmp_path / member).write_bytes(data)
    location = Location("", member)
    read: Read = nyuv2.read_rgb if member.endswith("ppm") else nyuv2.read_depth
    with Reader(tmp_path) as reader, pytest.raises(FrameError) as caught:
        read(FrameFiles(0, location, location), reader)
    assert sentence in str(caught.value)


def test_comments_in_headers_are_passed(tmp_path: Path) -> None:
    header = b"P5\n# from a Kinect\n640 480\n# 16 bits\n65535\n"
    (tmp_path / "d.pgm").write_bytes(header + np.full((HEIGHT, WIDTH), 900, "<u2").tobytes())
    with Reader(tmp_path) as reader:
        depth_m = nyuv2.read_depth(FrameFiles(0, None, Location("", "d.pgm")), reader)
    assert np.nanmedian(depth_m) == pytest.approx(351.3 / 192.5, abs=0.02)
    assert len(tree_bytes(tmp_path)) == 1
