"""`vdatrain label`: images, videos and shards without labels become shards that a run learns from."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.models import stirred
from tests.unit.train.conftest import _write_dataset, toy_frame
from tests.videos import write_video
from vdaprep.analysis.verify import verify
from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.records import DataTerms
from vdaprep.storage.output import LocalOutput
from vdatrain.device import Precision
from vdatrain.inference.labelling import shards as labelling
from vdatrain.inference.labelling.inputs import Item, items_of
from vdatrain.inference.labelling.shards import RELATIVE, label_items
from vdatrain.inference.labelling.teacher import Teacher, as_teacher
from vdatrain.inference.predictor import Predictor
from vdatrain.models import tensor_files, variants

TENTHS = [number / 10 for number in range(70)]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = stirred(variants.build("basic", encoder="tiny")).eval()
    facts = {"teacher": "toy", "teacher_sha256": "0" * 64, "teacher_licence": "toys (CC0)", "teacher_size": "28"}
    terms = (DataTerms("toys", "CC0", "", True),)
    return Teacher(Predictor(model, Precision(torch.device("cpu")), size=28), facts, terms, sees_time=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of several sizes, one with a name that no key may have, and what is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (name, size) in enumerate([("a.jpg", (40, 60)), ("b c.png", (64, 40)), ("ü.jpg", (40, 60))]):
        cv2.imwrite(str(folder / name), toy_frame(number, 0, size)[0])
    (folder / "notes.txt").write_text("no image")
    return folder


def listed(place: Path, **options: object) -> list[Item]:
    return items_of(str(place), **{"name": "labelled", "split": "train", "short_side": 32, **options})


def labelled(items: list[Item], teacher: Teacher, out: Path) -> Path:
    label_items(items, teacher, LocalOutput(out))
    assert [str(finding) for finding in verify(out, deep=True).findings] == []
    return out


def test_photographs_become_single_frames_with_the_teachers_disparity(
    photos: Path, teacher: Teacher, tmp_path: Path
) -> None:
    clips = open_shards(labelled(listed(photos), teacher, tmp_path / "out")).clips()
    assert [clip.num_frames for clip in clips] == [1, 1, 1]
    for clip in clips:
        frames, meta = clip.read(), clip.meta
        expected = teacher.predictor.predict_window([teacher.predictor.prepare(_frame(frames.rgb[0]))])[0].numpy()
        assert min(meta.height, meta.width) == 32
        assert meta.source["teacher_sha256"] == "0" * 64
        least, greatest = meta.teacher_disparity or (0, 0)
        restored = least + (greatest - least) / frames.depth_m[0]
        # The teacher saw the image before it became a JPEG.
        assert np.abs(restored - expected).mean() < 0.05 * (greatest - least)
    [record] = open_shards(tmp_path / "out").records.values()
    assert record.source["teacher"] == "toy"
    assert [terms.dataset for terms in record.teacher_terms] == ["toys"]


def _frame(rgb: np.ndarray):
    from vdatrain.inference.video import VideoFrame

    return VideoFrame(0, rgb)


def test_a_video_becomes_clips_of_one_scale(teacher: Teacher, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", TENTHS)
    clips = open_shards(labelled(listed(film), teacher, tmp_path / "out")).clips()
    assert [clip.num_frames for clip in clips] == [64, 6]
    assert [clip.meta.frame_ids[0] for clip in clips] == [0, 64]
    whole = teacher.predictor.predict(np.concatenate([clip.read().rgb for clip in clips]))
    restored = []
    for clip in clips:
        least, greatest = clip.meta.teacher_disparity or (0, 0)
        restored.append(least + (greatest - least) / clip.read().depth_m)
    assert np.abs(np.concatenate(restored) - whole).mean() < 0.05 * np.ptp(whole)


def test_clips_without_labels_keep_their_images_and_cameras(teacher: Teacher, tmp_path: Path) -> None:
    waiting = _write_dataset(tmp_path / "waiting", lengths=(3, 1, 2), size=(44, 60), depth=None)
    before = open_shards(waiting).clips()
    after = open_shards(labelled(listed(waiting), teacher, tmp_path / "out")).clips()
    assert [clip.key for clip in after] == [clip.key for clip in before]
    for ours, theirs in zip(after, before, strict=True):
        assert np.array_equal(ours.read().rgb, theirs.read().rgb)
        assert ours.meta.intrinsics == theirs.meta.intrinsics
        assert ours.meta.camera_to_world == theirs.meta.camera_to_world
        assert ours.meta.depth is not None
        assert ours.meta.depth.kind == RELATIVE.kind
        assert np.array_equal(ours.read().diff_valid, theirs.read().diff_valid)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_what_was_killed_goes_on_to_the_same_bytes(
    photos: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second shard breaks off in its middle; the first is then kept and not labelled again."""
    monkeypatch.setattr(labelling, "FRAMES_PER_SHARD", 1)
    whole = labelled(listed(photos), teacher, tmp_path / "whole")
    done: list[int] = []

    class Killed(BaseException):
        pass

    def stop(count: int) -> None:
        done.append(count)
        if len(done) == 2:
            raise Killed

    with pytest.raises(Killed):
        label_items(listed(photos), teacher, LocalOutput(tmp_path / "out"), on_frames=stop)
    assert not (tmp_path / "out/labelled/dataset.json").exists()
    first = (tmp_path / "out/labelled/train/shard-0001.tar").stat().st_mtime_ns
    assert contents(labelled(listed(photos), teacher, tmp_path / "out")) == contents(whole)
    assert (tmp_path / "out/labelled/train/shard-0001.tar").stat().st_mtime_ns == first


def test_what_cannot_be_labelled_is_left_out_and_named(
    photos: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = iter([True, False, False])

    def disparities(self: Teacher, frames: Iterator[object], **_: object) -> Iterator[np.ndarray]:
        for frame in frames:
            values = np.ones(frame.rgb.shape[:2], np.float32)  # type: ignore[attr-defined]
            values[0] += 0 if next(flat) else 1
            yield values

    monkeypatch.setattr(Teacher, "disparities", disparities)
    done = label_items(listed(photos), teacher, LocalOutput(tmp_path / "out"))
    assert done.frames == 2
    [left_out] = done.rejected
    assert left_out.reason.startswith("disparity has 1 everywhere")


@pytest.mark.parametrize(
    ("case", "error", "sentence"),
    [
        ("labels", DataError, "has labels already, of kind linear; vdatrain label is for frames without"),
        ("nothing", DataError, "there is no such file; give shards, a folder of images, or a video"),
        ("image teacher", UsageError, "is an image model, whose scale changes from frame to frame of film.mp4"),
        ("another teacher", UsageError, "shard-0001.tar: was labelled by another teacher; choose another --out"),
        ("other frames", UsageError, "shard-0001.tar: was labelled from other frames; choose another --out"),
    ],
)
def test_what_is_refused(
    case: str, error: type[Exception], sentence: str, photos: Path, teacher: Teacher, tmp_path: Path
) -> None:
    place, model = photos, teacher
    if case == "labels":
        place = _write_dataset(tmp_path / "known", lengths=(2,), size=(44, 60))
    elif case == "nothing":
        place = tmp_path / "nowhere"
    elif case == "image teacher":
        place = write_video(tmp_path / "film.mp4", TENTHS[:3])
        model = Teacher(teacher.predictor, teacher.facts, teacher.terms, sees_time=False)
    else:
        labelled(listed(photos), teacher, tmp_path / "out")
        if case == "other frames":
            (photos / "a.jpg").unlink()
        else:
            facts = {**teacher.facts, "teacher_sha256": "1" * 64}
            model = Teacher(teacher.predictor, facts, teacher.terms, sees_time=True)
    with pytest.raises(error, match=sentence):
        label_items(listed(place), model, LocalOutput(tmp_path / "out"))


def test_a_metric_teacher_is_refused(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "metric", True)
    with pytest.raises(UsageError, match="--teacher m.pth: predicts depth in metres, expected relative disparity"):
        as_teacher("m.pth", teacher.predictor)


@pytest.mark.slow
def test_labelled_images_are_learnt_from_beside_videos(
    vdatrain: Callable, toy_shards: Path, photos: Path, tmp_path: Path
) -> None:
    """A small teacher is trained, labels images, and a student learns from both; its run names the teacher's data."""
    small = (
        "--shards", toy_shards, "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 4,
        "--warmup", 1, "--ema", 0, "--log-every", 1, "--eval-every", 4, "--eval-windows", 1, "--track", "none",
    )  # fmt: skip
    assert vdatrain("run", *small, "--out", tmp_path / "teacher").code == 0
    weights = tmp_path / "teacher" / "best.pt"
    done = vdatrain("label", photos, "--teacher", weights, "--out", tmp_path / "images", "--short-side", 40)
    assert done.code == 0, done.err
    assert "3 clips of 3 frames; 0 left out" in done.err
    [record] = open_shards(tmp_path / "images").records.values()
    assert record.source["teacher_sha256"] == tensor_files.sha256_of(weights)
    beside = ("--images", tmp_path / "images", "--images-per-clip", 2)
    student = vdatrain("run", *small, *beside, "--out", tmp_path / "student")
    assert student.code == 0, student.err
    lines = [json.loads(line) for line in (tmp_path / "student" / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "total" in line]
    assert len(losses) == 4
    for line in losses:
        assert line["images"] > 0
        assert line["total"] == pytest.approx(line["spatial"] + 10 * line["temporal"] + line["images"], rel=1e-4)
    assert (tmp_path / "student" / "evaluation.json").exists()
    assert "tartanair" in student.err
