"""What a run tells TensorBoard, W&B and the terminal, and what becomes of the run when they fail."""

import io
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import open_shards
from vdatrain.cli.views.progress import LiveView
from vdatrain.config import TrainConfig
from vdatrain.data.sampler import WindowShape
from vdatrain.device import Precision
from vdatrain.evaluation.evaluate import Evaluation, EvaluationPlan, Gallery, evaluate_clips
from vdatrain.evaluation.figures import comparison_sheet
from vdatrain.evaluation.files import read_gallery
from vdatrain.objectives.metrics import ClipMetrics
from vdatrain.training.trackers import TrackerError, Tracking, start_tracking

FIGURES = {"total": 0.5, "lr": 1e-4, "frames_per_s": 80.0, "waiting": 0.02, "step_s": 0.2, "memory_bytes": 3 << 30}


def gallery(frames: int = 2, height: int = 28, width: int = 42) -> Gallery:
    truth = np.tile(np.linspace(0, 255, width).astype(np.uint8), (frames, height, 1))
    known = np.ones_like(truth, bool)
    known[:, -4:] = False
    prediction = np.full_like(truth, 128)
    return Gallery(np.full((frames, height, width, 3), 77, np.uint8), truth, prediction, known)


def evaluation(absrel: float = 0.1) -> Evaluation:
    metrics = {
        "alpha": ClipMetrics(absrel, 0.9, 1.5, 2.5, 0.8),
        "beta": ClipMetrics(3 * absrel, 0.7, 2.5, None, 0.0),
    }
    return Evaluation(metrics, {"alpha": 0.2, "beta": 0.4}, {"alpha": 3, "beta": 2}, {}, {"alpha-walk-000": gallery()})


def read_events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def tell(folder: Path, steps: range, *, begun: int = 0, warn=pytest.fail) -> None:
    with start_tracking(TrainConfig(shards="s"), folder, step=begun, warn=warn) as tracking:
        for step in steps:
            tracking.on_step(step, {**FIGURES, "total": step / 10})
            tracking.on_evaluation(step, evaluation(step / 100))


# -------------------------------------------------------------------------------------------------------- tensorboard


def test_tensorboard_gets_every_figure_and_the_pictures(tmp_path: Path) -> None:
    tell(tmp_path, range(1, 4))
    events = read_events(tmp_path)
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("train/total")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
    ]
    assert {f"train/{name}" for name in FIGURES} <= set(events.Tags()["scalars"])
    assert [round(event.value, 4) for event in events.Scalars("held_out_absrel/beta")] == [0.03, 0.06, 0.09]
    assert round(events.Scalars("held_out_absrel/average")[1].value, 4) == 0.04
    assert "held_out_tae/alpha" in events.Tags()["scalars"]
    assert "held_out_tae/beta" not in events.Tags()["scalars"]  # it has no poses
    pictures = events.Images("held_out/alpha-walk-000")
    assert [picture.step for picture in pictures] == [1, 2, 3]
    pixels = cv2.imdecode(np.frombuffer(pictures[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(pixels, comparison_sheet(gallery()))


def test_a_resumed_run_leaves_no_step_twice(tmp_path: Path) -> None:
    tell(tmp_path, range(6))
    tell(tmp_path, range(4, 8), begun=3)
    events = read_events(tmp_path)
    for name in ("train/total", "held_out_loss/alpha"):
        assert [event.step for event in events.Scalars(name)] == list(range(8))
    assert [picture.step for picture in events.Images("held_out/alpha-walk-000")][-4:] == [4, 5, 6, 7]
    tell(tmp_path, range(2), begun=0)  # it was killed before its first checkpoint
    assert [event.step for event in read_events(tmp_path).Scalars("train/total")] == [0, 1]


def test_none_tracks_nothing(tmp_path: Path) -> None:
    with start_tracking(TrainConfig(shards="s", track="none"), tmp_path, step=0, warn=pytest.fail) as tracking:
        tracking.on_step(1, FIGURES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("track", ["", "tensorboard,none", "mlflow", "wandb,"])
def test_unknown_trackers_are_refused(track: str) -> None:
    with pytest.raises(UsageError, match="--track .*: expected tensorboard, wandb, both with a comma between, or none"):
        TrainConfig(shards="s", track=track)


# ----------------------------------------------------------------------------------------------------------- failures


class Failing:
    name = "failing"
    failures: tuple[type[Exception], ...] = (KeyError,)

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def add(self, step: int, scalars: Mapping[str, int | float], pictures: Mapping[str, np.ndarray]) -> None:
        self.calls += 1
        raise self.error

    def close(self) -> None:
        self.calls += 1


class Counting(Failing):
    name = "counting"

    def add(self, step: int, scalars: Mapping[str, int | float], pictures: Mapping[str, np.ndarray]) -> None:
        self.calls += 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("gone")])
def test_a_tracker_that_fails_is_said_once_and_left_out(error: Exception) -> None:
    said: list[str] = []
    failing, other = Failing(error), Counting(error)
    with Tracking([failing, other], warn=said.append) as tracking:
        for step in range(3):
            tracking.on_step(step, FIGURES)
    assert failing.calls == 2  # once to tell it, once to close it
    assert other.calls == 4
    assert len(said) == 1
    assert said[0].startswith("--track failing is off from here on (")
    assert said[0].endswith("the run and its log go on.")


def test_what_is_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), Tracking([Failing(ZeroDivisionError())], warn=pytest.fail) as tracking:
        tracking.on_step(1, FIGURES)


def test_a_full_disk_ends_tensorboard_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    with start_tracking(TrainConfig(shards="s"), tmp_path, step=0, warn=said.append) as tracking:
        monkeypatch.setattr(LocalFileSystem, "append", full)
        for step in range(3):
            tracking.on_step(step, FIGURES)
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    said: list[str] = []
    start_tracking(TrainConfig(shards="s"), tmp_path, step=0, warn=said.append).close()
    assert len(said) == 1
    assert said[0].startswith("--track tensorboard is off (")


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if re.match(rf"(torch.utils.)?{name}\b", module)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=f"--track {name}: is not installed .*; `pip install {name}`, or leave"):
        start_tracking(TrainConfig(shards="s", track=name), tmp_path, step=0, warn=pytest.fail)


# -------------------------------------------------------------------------------------------------------------- wandb


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep W&B off the network, and its settings and caches in the test's folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # whoever calls out notices
    for name in ("WANDB__SERVICE_WAIT", "WANDB_INIT_TIMEOUT"):  # its own process takes long to start on a busy machine
        monkeypatch.setenv(name, "300")


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_wandb_offline_keeps_a_run_under_one_id(tmp_path: Path) -> None:
    config = TrainConfig(shards="s", track="wandb,tensorboard")
    folder = tmp_path / "run"
    for begun in (0, 1):
        with start_tracking(config, folder, step=begun, warn=pytest.fail) as tracking:
            tracking.on_step(begun + 1, FIGURES)
            tracking.on_evaluation(begun + 1, evaluation())
    identity = (folder / "wandb-id.txt").read_text().strip()
    # Two that begin in one second lie in folders of which W&B numbers the second.
    parts = sorted(folder.glob(f"wandb/offline-run-*-{identity}*/run-{identity}.wandb"))
    assert len(parts) == len({*folder.glob("wandb/offline-run-*")}) >= 1
    content = b"".join(part.read_bytes() for part in parts)
    for name in (b"train/total", b"held_out_absrel/beta", b"held_out/alpha-walk-000"):
        assert name in content
    assert len([*folder.glob("wandb/offline-run-*/files/media/images/**/*.png")]) >= 1
    assert len(read_events(folder).Scalars("train/total")) == 2


@pytest.mark.usefixtures("offline")
def test_no_tracker_is_told_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://user:SECRET@host/shards?token=SECRET"
    argv = ["vdatrain", "run", "--shards", url, f"--shards={url}"]
    monkeypatch.setattr(sys, "argv", argv)
    with start_tracking(
        TrainConfig(shards=url, track="wandb,tensorboard"), tmp_path, step=0, warn=pytest.fail
    ) as tracking:
        tracking.on_step(1, FIGURES)
    assert sys.argv is argv
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"https://host/shards" in content for content in contents)
    assert not any(b"SECRET" in content for content in contents)


def test_wandb_that_does_not_answer_is_left_out_and_without_a_key_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")

    def fails(error: Exception):
        def init(**options: object) -> None:
            raise error

        return init

    config = TrainConfig(shards="s", track="wandb")
    said: list[str] = []
    monkeypatch.setattr(wandb, "init", fails(wandb.errors.CommError("timed out")))
    start_tracking(config, tmp_path, step=0, warn=said.append).close()
    assert said == ["--track wandb is off (W&B does not answer: timed out); the run and its log go on."]
    monkeypatch.setattr(wandb, "init", fails(wandb.errors.UsageError("No API key configured")))
    with pytest.raises(UsageError, match="--track wandb: No API key configured; `wandb login`, set WANDB_MODE=offline"):
        start_tracking(config, tmp_path, step=0, warn=pytest.fail)
    assert issubclass(TrackerError, Exception)


# ----------------------------------------------------------------------------------------------------------- pictures


def test_a_sheet_has_a_row_a_frame_and_four_columns() -> None:
    shown = gallery(frames=3)
    sheet = comparison_sheet(shown)
    height, width = shown.truth.shape[1:]
    assert sheet.shape[1] == 4 * width
    assert sheet.shape[0] > 3 * height
    top = 26
    cells = sheet[top : top + 3 * height].reshape(3, height, 4, width, 3)
    assert (cells[:, :, 0] == 77).all()
    stripes = cells[:, -4:, 2:]  # the truth is not known there, nor is the error
    assert set(np.unique(stripes)) == {104, 168}
    assert (stripes[..., :1] == stripes).all()
    assert (cells[:, :-4, 2:] != cells[:, :-4, 2:, :, :1]).any()
    middle = width // 2
    error = cells[0, 0, 3].astype(int).sum(-1)
    assert error[0] > error[middle] + 100  # 128 against 0, and against itself
    assert (cells[0, 0, 3, 0] == cells[0, 0, 3, -1]).all()  # both beyond the scale's end


def test_a_sheet_tells_sky_and_metres_where_the_gallery_says_them() -> None:
    plain = gallery()
    ranged = replace(plain, disparity_range=np.array([1 / 80, 2.0]))
    height, width = plain.truth.shape[1:]
    assert (comparison_sheet(plain)[26, 2 * width] == (135, 180, 235)).all()  # disparity 0 that is known
    bar = comparison_sheet(ranged)[26 + 2 * height :, width : 3 * width]
    assert len(np.unique(bar[:10].reshape(-1, 3), axis=0)) > 40


def test_a_gallery_of_before_there_was_a_range_can_be_read(tmp_path: Path) -> None:
    old = asdict(gallery())
    del old["disparity_range"]
    np.savez_compressed(tmp_path / "gallery-old.npz", **old)
    found = read_gallery(tmp_path / "gallery-old.npz")
    assert np.array_equal(found.truth, gallery().truth)
    assert not found.disparity_range.any()
    np.savez_compressed(tmp_path / "gallery-bad.npz", **old, disparity_range=np.array([0, np.nan]))
    with pytest.raises(DataError, match="is no gallery that vdatrain wrote"):
        read_gallery(tmp_path / "gallery-bad.npz")


def test_stills_are_spread_over_the_window() -> None:
    long = gallery(frames=32)
    numbered = Gallery(
        long.frames, long.truth, np.arange(32, dtype=np.uint8)[:, None, None] + 0 * long.truth, long.known
    )
    assert [int(frame[0, 0]) for frame in numbered.stills().prediction] == [4, 12, 20, 28]
    assert len(gallery(frames=2).stills().frames) == 2


class Plane(torch.nn.Module):
    """Predicts half of the grey level, so that the fit has something to do."""

    def forward(self, frames: torch.Tensor, differences: object, diff_valid: object) -> torch.Tensor:
        return frames.mean(2) + 3


def test_the_same_windows_of_all_data_sets_are_shown_each_time(toy_shards: Path) -> None:
    clips = open_shards(toy_shards).clips(split="train")
    plan = EvaluationPlan(WindowShape(4, 1), size=28, windows=9)
    first, second = (evaluate_clips(Plane(), clips, plan, precision=Precision(torch.device("cpu"))) for _ in range(2))
    assert list(first.stills) == list(second.stills)
    assert len(first.stills) == 4
    assert {name.partition("-")[0] for name in first.stills} == {"alpha", "beta"}
    for shown in first.stills.values():
        assert not shown.known.all()
        assert shown.truth[~shown.known].max() == 0
    assert set(first.galleries) == {"alpha", "beta"}


def test_pictures_are_fitted_as_the_metrics_are(toy_shards: Path) -> None:
    """Sky takes no part in the fit: it would pull the prediction to where nothing is measured."""
    clips = open_shards(toy_shards).clips(split="train")
    plan = EvaluationPlan(WindowShape(4, 1), size=28, windows=2)
    shown = evaluate_clips(Plane(), clips, plan, precision=Precision(torch.device("cpu"))).galleries["alpha"]
    measured = shown.known & (shown.truth > 0)
    error = shown.prediction.astype(float) - shown.truth
    assert abs(error[measured].mean()) < 3  # a fit with a shift leaves no mean error where it was made
    assert abs(error[shown.known].mean()) > abs(error[measured].mean())


# --------------------------------------------------------------------------------------------------------------- live


def show(*, terminal: bool) -> str:
    clock = iter(range(0, 1000, 10))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, soft_wrap=True)
    with LiveView(console, now=lambda: float(next(clock))) as view:
        view.on_start(TrainConfig(shards="s", steps=100), 10, None)
        view.on_step(20, FIGURES)
        view.on_evaluation(20, evaluation())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_a_line_says_all() -> None:
    first, second = show(terminal=False).splitlines()
    assert first == (
        "step 20 of 100: loss 0.5000, step 200 ms, frames/s 80.0, waiting for data 2.0%, memory 3.00 GiB, "
        "learning rate 1.00e-04, 0:01:20 left"
    )
    assert second == "step 20, held out: loss 0.3000, absrel 0.2000, delta1 0.8000, TAE 2.500"


def test_on_a_terminal_a_table_stands_below_the_bar() -> None:
    shown = show(terminal=True)
    for text in ("20/100", "0:01:20 left", "loss", "0.5000", "200 ms", "80.0", "3.00 GiB", "1.00e-04", "held out"):
        assert text in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_moves_every_step_and_an_evaluation_has_its_own(terminal: bool) -> None:
    """On a terminal; elsewhere an evaluation that takes long says every half minute how far it is."""
    clock = iter(range(0, 1000, 10))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, soft_wrap=True)
    seen: list[str] = []
    with LiveView(console, now=lambda: float(next(clock))) as view:
        view.on_start(TrainConfig(shards="s", steps=100), 0, None)
        for step in (1, 2):
            view.on_advance(step)
            seen.append(drawn(view))
        for done in range(1, 6):
            view.on_window(2, done, 5)
            seen.append(drawn(view))
        view.on_window(100, 1, 1)  # the last, of the best weights
    assert ["1/100" in seen[0], "2/100" in seen[1]] == [True, True]
    assert [f"{done}/5" in text for done, text in enumerate(seen[2:], start=1)] == [True, True, True, True, False]
    assert isinstance(console.file, io.StringIO)
    if not terminal:
        assert console.file.getvalue() == "step 2: 4 of 5 windows evaluated\n"


def drawn(view: LiveView) -> str:
    """Return what the bars show at this moment."""
    console = Console(file=io.StringIO(), width=120)
    console.print(view._progress)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().replace(" ", "")


# ------------------------------------------------------------------------------------------------------------ the run


SMALL = (
    "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 4, "--warmup", 2, "--log-every", 2,
    "--eval-every", 4, "--workers", 0,
)  # fmt: skip


@pytest.fixture(scope="module")
def split_shards(write_dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    write_dataset(folder / "alpha", lengths=(9, 7))
    write_dataset(folder / "gamma", lengths=(6,), split="val")
    return folder


def test_the_command_tracks_by_tensorboard_and_logs_the_same(split_shards: Path, vdatrain, tmp_path: Path) -> None:
    result = vdatrain("run", "--shards", split_shards, "--out", tmp_path / "a", *SMALL)
    assert result.code == 0, result.err
    events = read_events(tmp_path / "a")
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    logged = {line["step"]: line for line in lines if "total" in line}
    assert [event.step for event in events.Scalars("train/total")] == [*logged] == [2, 4]
    for name in ("total", "lr", "step_s", "memory_bytes", "frames_per_s", "waiting"):
        for event in events.Scalars(f"train/{name}"):
            assert event.value == pytest.approx(logged[event.step][name], rel=1e-6)
    assert [event.step for event in events.Scalars("held_out_absrel/gamma")] == [0, 4]
    assert len(events.Tags()["images"]) == 2
    assert "waiting for data" in result.err


@pytest.mark.slow
def test_a_tracker_that_fails_does_not_stop_the_run(
    split_shards: Path, vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vdatrain.training import trackers

    def full(self, step: int, scalars: object, pictures: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers.TensorBoard, "add", full)
    result = vdatrain("run", "--shards", split_shards, "--out", tmp_path / "b", *SMALL)
    assert result.code == 0
    assert result.err.count("--track tensorboard is off from here on") == 1
    assert (tmp_path / "b" / "best.pt").is_file()
