"""Videos in and out: every kind of input, every kind of output, and what is said of bad ones."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import imageio.v3 as iio
import numpy as np
import pytest

from vdaprep.errors import DataError, UsageError, VdakitError
from vdaprep.shards.dataset import open_shards
from vdatrain.inference.video_reader import DEFAULT_DIFF, by_trajectory, open_video, read_trajectory
from vdatrain.inference.video_writer import DISPARITY_FILE, DisparityFile, Timeline, check_output, write_output


def pictures(count: int, *, size: tuple[int, int] = (32, 48)) -> list[np.ndarray]:
    y, x = np.mgrid[: size[0], : size[1]]
    return [np.stack([4 * x + n, 6 * y + n, 128 + 0 * x], axis=-1).clip(0, 255).astype(np.uint8) for n in range(count)]


def write_movie(path: Path, frames: list[np.ndarray], *, fps: int = 15) -> Path:
    iio.imwrite(path, np.stack(frames), plugin="pyav", codec="libx264", fps=fps, out_pixel_format="yuv420p")
    return path


def write_images(folder: Path, frames: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:03d}.png"), frame[..., ::-1])
    return folder


# -------------------------------------------------------------------------------------------------------------- input


def test_a_video_file_can_be_read_twice(tmp_path: Path) -> None:
    frames = pictures(5)
    video = open_video(write_movie(tmp_path / "a.mp4", frames))
    assert (video.num_frames, video.fps, video.diff) == (5, 15, DEFAULT_DIFF)
    for _ in range(2):
        found = list(video.frames())
        assert [frame.number for frame in found] == [0, 1, 2, 3, 4]
        assert all(np.abs(a.rgb.astype(int) - b).mean() < 5 for a, b in zip(found, frames, strict=True))


@pytest.mark.slow
def test_a_video_of_a_phone_held_upright_is_turned(tmp_path: Path) -> None:
    path = write_movie(tmp_path / "a.mp4", pictures(2))
    one, nought = (1 << 16).to_bytes(4, "big"), bytes(4)
    still = one + 3 * nought + one + 3 * nought + (1 << 30).to_bytes(4, "big")
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    turned = nought + one + nought + minus + 4 * nought + (1 << 30).to_bytes(4, "big")  # 90 degrees clockwise
    data = path.read_bytes()
    at = data.index(still, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    [first, _] = open_video(path).frames()
    expected = np.rot90(pictures(1)[0], -1)
    assert first.rgb.shape == expected.shape == (48, 32, 3)
    assert np.abs(first.rgb.astype(int) - expected).mean() < 5


def test_a_folder_of_images_goes_by_name(tmp_path: Path) -> None:
    frames = pictures(3)
    folder = write_images(tmp_path / "images", frames)
    (folder / "notes.txt").write_text("no image")
    video = open_video(folder)
    assert video.num_frames == 3
    assert all(np.array_equal(a.rgb, b) for a, b in zip(video.frames(), frames, strict=True))


def test_a_single_picture_is_a_video(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", pictures(1))
    assert len(list(open_video(folder / "000.png").frames())) == 1


def test_a_shard(toy_shards: Path, toy_frame) -> None:
    tar = toy_shards / "alpha" / "train" / "shard-0001.tar"
    video = open_video(tar, trajectory="walk/01")
    found = list(video.frames())
    assert (video.num_frames, len(found)) == (3, 3)
    assert np.abs(found[1].rgb.astype(int) - toy_frame(1, 1, (60, 80))[0]).mean() < 4
    for choice, sentence in [(None, "choose one with --trajectory"), ("walk/77", "--trajectory walk/77 is not one")]:
        with pytest.raises(UsageError, match=f"holds the trajectories walk/00, walk/01; {sentence}"):
            open_video(tar, trajectory=choice)


def test_the_clips_of_a_trajectory_follow_one_another_but_over_a_gap(toy_shards: Path) -> None:
    clips = open_shards(toy_shards).clips(split="train")
    assert [len(parts) for parts in by_trajectory(clips[::-1]).values()] == [1] * len(clips)
    assert list(by_trajectory(clips[::-1])) == sorted(by_trajectory(clips))
    # The first difference of the first clip is not valid, that of the second is.
    numbers = [number for number, _, _ in read_trajectory([clips[1], clips[0]])]
    gap = clips[1].num_frames
    assert numbers == [*range(gap), *range(gap + 1, gap + 1 + clips[0].num_frames)]


@pytest.mark.slow
def test_inputs_that_cannot_be_read(tmp_path: Path, toy_shards: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "nothing.mp4").write_bytes(b"")
    shutil.copy(toy_shards / "alpha" / "train" / "shard-0001.tar", tmp_path / "alone.tar")
    whole = write_movie(tmp_path / "whole.mp4", pictures(20)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name, sentence in [
        ("missing.mp4", "there is no such video; give a video file, a folder of images or a shard"),
        ("empty", "has no images; looked for files that end in .avif, .bmp"),
        ("text.mp4", "cannot be read as a video"),
        ("nothing.mp4", "cannot be read as a video"),
        ("cut.mp4", "cannot be read as a video"),
        ("alone.tar", "alone.json: is missing; a shard is read with the record"),
    ]:
        with pytest.raises(DataError, match=sentence):
            list(open_video(tmp_path / name).frames())
    with pytest.raises(UsageError, match="--trajectory chooses from a shard"):
        open_video(tmp_path / "whole.mp4", trajectory="walk/00")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.wav", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(DataError, match="has no video stream"):
        open_video(tmp_path / "a.wav")


def test_images_that_do_not_go_together(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", pictures(2))
    cv2.imwrite(str(folder / "002.png"), pictures(1, size=(20, 48))[0])
    with pytest.raises(DataError, match="002.png: is 48x20 pixels, the frames before it are 48x32"):
        list(open_video(folder).frames())


# ------------------------------------------------------------------------------------------------------------- output


def file_of(out: Path, count: int = 3, *, size: tuple[int, int] = (31, 47)) -> tuple[DisparityFile, np.ndarray]:
    values = np.random.default_rng(0).uniform(0.5, 9, (count, *size)).astype(np.float32)
    file = DisparityFile(out)
    for value in values:
        file.append(value)
    return file, values


def timeline(file: DisparityFile, fps: Fraction) -> Timeline:
    return Timeline([number / fps for number in range(file.count)], fps, 1 / fps)


def test_an_array(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.npz"
    file, values = file_of(out)
    with file:
        write_output(out, file, timeline(file, Fraction(10)), beside=None)
    with np.load(out, allow_pickle=False) as arrays:
        assert list(arrays) == ["disparity", "seconds"]
        assert np.array_equal(arrays["seconds"], np.arange(3) / 10)
        assert arrays["disparity"].dtype == np.float32
        assert np.array_equal(arrays["disparity"], values)
    assert [path.name for path in out.parent.iterdir()] == ["a.npz"]


def test_a_folder_of_sixteen_bits(tmp_path: Path) -> None:
    out = tmp_path / "depth"
    file, values = file_of(out)
    with file:
        write_output(out, file, timeline(file, Fraction(10)), beside=None)
    facts = json.loads((out / DISPARITY_FILE).read_text())
    images = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(out.glob("*.png"))]
    assert facts["frames"] == len(images) == 3
    assert images[0].dtype == np.uint16
    assert np.abs(facts["scale"] * np.stack(images) - values).max() <= facts["scale"] * 0.51
    with pytest.raises(UsageError, match="is a folder with something in it"):
        check_output(out)


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_a_video_is_even_and_its_colours_span_all_frames(tmp_path: Path, beside: bool) -> None:
    out = tmp_path / "a.mp4"
    ramp = np.tile(np.linspace(0, 1, 47, dtype=np.float32), (31, 1))
    with DisparityFile(out) as file:
        for n in range(4):
            file.append(ramp + n)
        left = pictures(4, size=(31, 47)) if beside else None
        write_output(out, file, timeline(file, Fraction(30000, 1001)), beside=left)
    found = iio.imread(out, plugin="pyav")
    assert found.shape == (4, 32, 94 if beside else 48, 3)
    assert iio.immeta(out, plugin="pyav")["fps"] == pytest.approx(30000 / 1001)
    brightness = found[:, :, -46:].mean((1, 2, 3))
    assert (np.diff(brightness) > 10).all()
    if beside:
        assert np.abs(found[2, :31, :47].astype(int) - pictures(4, size=(31, 47))[2]).mean() < 8


def test_a_flat_disparity_can_be_shown(tmp_path: Path) -> None:
    for name in ("a.mp4", "folder", "a.npz"):
        with DisparityFile(tmp_path / name) as file:
            file.append(np.zeros((16, 16), np.float32))
            write_output(tmp_path / name, file, timeline(file, Fraction(24)), beside=None)
    assert cv2.imread(str(tmp_path / "folder" / "000000.png"), cv2.IMREAD_UNCHANGED).max() == 0


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with (
        DisparityFile(tmp_path / "a.npz") as file,
        pytest.raises(DataError, match="frame 1: the model gives nan or infinity"),
    ):
        file.append(np.zeros((2, 2), np.float32))
        file.append(np.full((2, 2), np.nan, np.float32))
    assert not list(tmp_path.iterdir())


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "is.mp4").mkdir()
    for name, beside, sentence in [
        ("a.avi", False, ".avi is not known; expected .mp4, .npz or a folder"),
        ("a.npz", True, "--side-by-side shows the video beside its disparity"),
        ("is.mp4", False, "is a folder; expected the name of a file"),
    ]:
        with pytest.raises(VdakitError, match=sentence):
            check_output(tmp_path / name, side_by_side=beside)


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "depth"
    file, _ = file_of(out)

    def fails(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "imencode", fails)
    with file, pytest.raises(KeyboardInterrupt):
        write_output(out, file, timeline(file, Fraction(10)), beside=None)
    assert not list(tmp_path.iterdir())
