"""Reading of npy and tables, scaling of frames and cameras."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdaprep.errors import FrameError
from vdaprep.raw.arrays import parse_npy
from vdaprep.raw.frames import Cameras, Frame, FrameFiles, RgbImage, fit_short_side, make_frame
from vdaprep.raw.tree import Location
from vdaprep.shards.cameras import scale_intrinsics

HERE = Location("", "x")


def npy(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5))), st.booleans())
def test_npy_round_trip(array: np.ndarray, fortran: bool) -> None:
    stored = np.asfortranarray(array) if fortran else array
    assert np.array_equal(parse_npy(npy(stored), HERE), array, equal_nan=True)


def test_npy_of_other_floats() -> None:
    for kind in ("<f2", ">f4", "<f8"):
        assert np.array_equal(parse_npy(npy(np.array([[1.5, 2]], kind)), HERE), [[1.5, 2]])


def test_npy_of_version_two() -> None:
    array = np.array([[1.5, 2], [3, 4]], np.float32)
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(2, 0))
    assert np.array_equal(parse_npy(stream.getvalue(), HERE), array)
    with pytest.raises(FrameError, match="has 15 bytes of numbers"):
        parse_npy(stream.getvalue()[:-1], HERE)


def test_npy_of_equal_headers_are_read_each() -> None:
    arrays_ = [np.full((3, 4), number, np.float32) for number in range(3)]
    assert all(np.array_equal(parse_npy(npy(array), HERE), array) for array in arrays_)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (npy(np.array([[{"a": 1}]], object), allow_pickle=True), "holds pickled objects, which are never loaded"),
        (npy(np.zeros(5, np.float32)), r"holds float32 \(5,\), expected floats in two dimensions"),
        (npy(np.zeros((2, 2), np.int32)), "holds int32"),
        (npy(np.zeros((4, 4), np.float32))[:-1], r"has 63 bytes of numbers for float32 \(4, 4\)"),
        (npy(np.zeros((4, 4), np.float32)) + b"!", "has 65 bytes of numbers"),
        (b"", "is not a whole .npy"),
        (npy(np.zeros((4, 4), np.float32))[:30], "is not a whole .npy"),
        (b"PK\x03\x04 an npz", "is not a whole .npy"),
    ],
)
def test_npy_that_is_no_depth_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(FrameError, match=sentence):
        parse_npy(data, HERE)


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4', 'shape': ((((", "{'descr': [], 'shape': (2, 2)}", "[1, 2]", "1 1"]
)
def test_npy_headers_that_cannot_be_parsed_are_refused(header: str) -> None:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(FrameError, match="is not a whole .npy"):
        parse_npy(data, HERE)


@pytest.mark.parametrize(
    "change", [{0: 2.0}, {0: -1.0}, {15: 2.0}, {12: 1.0}, {0: 0.0, 5: 0.0}, {3: np.inf}, {7: np.nan}]
)
def test_a_pose_that_is_not_rigid_is_a_problem(change: dict[int, float]) -> None:
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[2].ravel()[list(change)] = list(change.values())
    cameras = Cameras(np.ones((4, 4)), poses, {3: "is missing"}, pose_file=HERE)
    sentence = "has no usable pose: its matrix in x is not a rotation and a translation"
    assert cameras.problems == {2: sentence, 3: "is missing"}


def test_a_size_that_lies_allocates_nothing() -> None:
    data = npy(np.zeros((4, 4), np.float32)).replace(b"(4, 4), }      ", b"(99999999, 4), }")
    with pytest.raises(FrameError, match="is 4x99999999 pixels by its header"):
        parse_npy(data, HERE)


def a_frame(height: int, width: int) -> Frame:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rgb = np.stack([x * 255 / width, y * 255 / height, 0 * x], axis=-1).astype(np.uint8)
    return Frame(0, RgbImage(rgb), 1 + x + 1000 * y, np.array([50.0, 60.0, 10.0, 20.0]), np.eye(4))


def test_frames_are_never_enlarged(tmp_path: Path) -> None:
    frame = a_frame(40, 60)
    assert fit_short_side(frame, None) is frame
    assert fit_short_side(frame, 40) is frame
    assert fit_short_side(frame, 540) is frame


def test_shrinking_keeps_depth_values_and_moves_the_camera_along() -> None:
    frame = a_frame(40, 60)
    small = fit_short_side(frame, 20)
    assert small.rgb.pixels.shape == (20, 30, 3)
    assert np.isin(small.depth_m, frame.depth_m).all()
    assert np.allclose(small.intrinsics, [25, 30, 4.75, 9.75])
    # The depth taken is that of a pixel whose centre, seen through either camera, is at most half a pixel away.
    x = (small.depth_m[0] - 1) % 1000
    assert np.abs((np.arange(30) + 0.5) * 2 - 0.5 - x).max() <= 0.5


def test_a_resized_copy_of_a_known_camera() -> None:
    files = FrameFiles(0, Location("", "a.png"), Location("", "a.npy"))
    cameras = Cameras(np.array([[320.0, 320.0, 320.0, 240.0]]), None, size=(640, 480))
    frame = make_frame(files, RgbImage(np.zeros((48, 64, 3), np.uint8)), np.ones((48, 64), np.float32), cameras, 0)
    assert np.allclose(frame.intrinsics, scale_intrinsics(cameras.intrinsics[0], x=0.1, y=0.1))
    with pytest.raises(FrameError, match=r"a.png: is 64x40 pixels, the data set's camera has 640x480; .*--intrinsics"):
        make_frame(files, RgbImage(np.zeros((40, 64, 3), np.uint8)), np.ones((40, 64), np.float32), cameras, 0)


def test_depth_of_another_size_is_refused() -> None:
    files = FrameFiles(0, Location("", "a.png"), Location("", "a.npy"))
    cameras = Cameras(np.ones((1, 4)), None)
    with pytest.raises(FrameError, match="a.npy: the depth map is 64x47 pixels, the image is 64x48"):
        make_frame(files, RgbImage(np.zeros((48, 64, 3), np.uint8)), np.ones((47, 64), np.float32), cameras, 0)


FILES = FrameFiles(0, Location("", "0.jpg"), Location("", "0.png"))


@pytest.mark.parametrize("size", [(8, 12), (16, 24), (24, 36), (16, 25), (1200, 1800)])
def test_an_image_that_covers_its_depth_map_is_scaled_down_to_it(size: tuple[int, int]) -> None:
    rows, columns = size
    pixels = np.repeat(np.arange(rows * columns, dtype=np.uint8).reshape(*size, 1), 3, axis=2)
    depth_m = np.ones((8, 12), np.float32)
    cameras = Cameras(np.array([[12.0, 12.0, 5.5, 3.5]]), None)
    image = RgbImage(pixels, jpeg=b"of this size", covers_depth=True)
    if size == (16, 25):
        with pytest.raises(FrameError, match="the depth map is 12x8 pixels, the image is 25x16"):
            make_frame(FILES, image, depth_m, cameras, 0)
        return
    frame = make_frame(FILES, image, depth_m, cameras, 0)
    blocks = pixels.reshape(8, rows // 8, 12, columns // 12, 3).mean(axis=(1, 3))
    assert np.abs(frame.rgb.pixels - blocks).max() <= 0.5 + 1e-3
    assert (frame.rgb.jpeg is None) == (size != (8, 12))


def test_images_are_scaled_only_as_far_as_their_source_says_and_never_up() -> None:
    cameras = Cameras(np.array([[12.0, 12.0, 5.5, 3.5]]), None)
    for image in (
        RgbImage(np.zeros((16, 24, 3), np.uint8)),
        RgbImage(np.zeros((4, 6, 3), np.uint8), covers_depth=True),
    ):
        with pytest.raises(FrameError, match="the depth map is 12x8 pixels, the image is"):
            make_frame(FILES, image, np.ones((8, 12), np.float32), cameras, 0)


def test_a_frame_whose_pose_is_not_known_is_kept_without_one() -> None:
    poses = np.stack([np.eye(4), np.full((4, 4), -np.inf), np.full((4, 4), np.nan)])
    cameras = Cameras(np.tile([12.0, 12.0, 5.5, 3.5], (3, 1)), poses, without_pose=frozenset({1}))
    assert list(cameras.problems) == [2]
    image, depth_m = RgbImage(np.zeros((8, 12, 3), np.uint8)), np.ones((8, 12), np.float32)
    assert make_frame(FILES, image, depth_m, cameras, 0).camera_to_world is not None
    assert make_frame(FILES, image, depth_m, cameras, 1).camera_to_world is None
