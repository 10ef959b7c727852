"""`import vdatrain`: every public name is there, and the README's snippet runs, on toy shards with the tiny encoder."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import vdatrain

FRAMES, HEIGHT, WIDTH = 35, 34, 46
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import vdatrain
assert vdatrain.__version__ and "evaluate" in dir(vdatrain)
assert vdatrain.TrainConfig(shards="s").encoder == "vits"
try:
    vdatrain.build_model
except ImportError as error:
    assert isinstance(error, vdatrain.VdakitError)
    print(error)
"""


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So long that it takes two windows."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = [np.stack([127 + 90 * np.sin((x + 2 * n) / 6), 4 * y, 3 * x + n], axis=-1) for n in range(FRAMES)]
    path = tmp_path_factory.mktemp("movie") / "clip.mp4"
    video = np.stack(frames).clip(0, 255).astype(np.uint8)
    iio.imwrite(path, video, plugin="pyav", codec="libx264", fps=10, out_pixel_format="yuv420p")
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as they are published: of `basic`, bare."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "video_depth_anything_tiny.pth"
    torch.save(vdatrain.build_model("basic", encoder="tiny").state_dict(), path)
    return path


def test_every_public_name_is_there() -> None:
    assert sorted(vdatrain.__all__) == vdatrain.__all__
    for name in vdatrain.__all__:
        assert getattr(vdatrain, name).__doc__ or name == "__version__"
    assert set(vdatrain.__all__) <= set(dir(vdatrain))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(Path(vdatrain.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported - {"TYPE_CHECKING", "Any"} == set(vdatrain.__all__) - {"__version__"}  # what type checkers see
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        vdatrain.nonsense  # noqa: B018


def test_without_torch_a_sentence_says_what_to_install() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "vdatrain.build_model needs torch, which is not installed: pip install 'vdakit[train]'.\n"


def test_importing_the_package_imports_nothing_heavy() -> None:
    look = "import sys, vdatrain; print({'torch', 'numpy', 'cv2', 'av'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_weights_are_loaded_into_a_variant(published: Path) -> None:
    model = vdatrain.build_model("conv", encoder="tiny")
    report = vdatrain.load_weights(model, published)
    assert all(name.startswith("branch.") for name in report.missing)
    assert len(report.matched) == len(vdatrain.build_model("basic", encoder="tiny").state_dict())
    assert set(vdatrain.list_variants()) >= {"basic", "conv"}
    with pytest.raises(vdatrain.DataError, match="does not fit this model"):
        vdatrain.load_weights(vdatrain.build_model("basic", encoder="vits"), published)


def test_a_run_from_shards_to_a_predicted_video(toy_shards: Path, movie: Path, tmp_path: Path) -> None:
    with vdatrain.train_loader(toy_shards, frames=3, size=28, batch=2, seed=0) as loader:
        batch = next(iter(loader))
    assert batch.frames.shape == (2, 3, 3, 28, 28)
    config = vdatrain.TrainConfig(
        shards=str(toy_shards), variant="conv", encoder="tiny", frames=3, size=28, batch=1, steps=2, warmup=1,
        eval_every=2, workers=0, track="none", device="cpu",
    )  # fmt: skip
    result = vdatrain.train(config, out=tmp_path / "conv")
    assert (result.step, result.stopped) == (2, None)
    predictor = vdatrain.load_predictor(tmp_path / "conv" / "best.pt", device="cpu")
    assert (predictor.size, predictor.num_frames) == (28, 3)
    assert predictor.predict_video(movie).disparity.shape == (FRAMES, HEIGHT, WIDTH)
    found = vdatrain.evaluate(predictor, toy_shards, split="val")
    assert result.evaluation is not None
    assert found.average() == result.evaluation.average()


def test_a_model_is_evaluated_as_the_command_does(toy_shards: Path, published: Path, vdatrain) -> None:
    import vdatrain as library

    options = ("--encoder", "tiny", "--size", 28, "--frames", 4, "--json")
    result = vdatrain("eval", "--shards", toy_shards, "--checkpoint", published, *options)
    predictor = library.load_predictor(published, encoder="tiny", device="cpu")
    found = library.evaluate(predictor, toy_shards, split="val", frames=4, size=28)
    assert f"{found.average()['absrel']}" in result.out
    model = predictor.model
    model.train()
    assert library.evaluate(model, toy_shards, split="val", frames=4, size=28).to_json() == found.to_json()
    assert model.training


# ---------------------------------------------------------------------------------------------------------- inference


@pytest.fixture(scope="module")
def predictor(published: Path) -> "vdatrain.Predictor":
    return vdatrain.load_predictor(published, encoder="tiny", device="cpu", size=28)


@pytest.mark.slow
def test_a_video_is_predicted_as_its_frames_are(movie: Path, predictor: "vdatrain.Predictor") -> None:
    found = predictor.predict_video(movie).disparity
    assert (found.shape, found.dtype) == ((FRAMES, HEIGHT, WIDTH), np.float32)
    assert (found >= 0).all()
    frames = iio.imread(movie, plugin="pyav")
    assert np.array_equal(predictor.predict(frames), found)


@pytest.mark.slow
def test_a_stream_is_predicted_frame_by_frame(movie: Path, predictor: "vdatrain.Predictor") -> None:
    frames = iio.imread(movie, plugin="pyav")[:3]
    maps = list(predictor.stream(iter(frames)))
    assert [(item.shape, item.dtype) for item in maps] == 3 * [((HEIGHT, WIDTH), np.dtype(np.float32))]
    assert np.allclose(maps[0], predictor.predict(frames[:1])[0], atol=1e-4)


def test_what_cannot_be_predicted(predictor: "vdatrain.Predictor", published: Path) -> None:
    with pytest.raises(
        vdatrain.UsageError, match=r"frames are uint8 \[0, 34, 46, 3\]; expected RGB, uint8 \[t, h, w, 3\]"
    ):
        predictor.predict(np.zeros((0, 34, 46, 3), np.uint8))
    with pytest.raises(vdatrain.UsageError, match="--precision fp8: expected one of fp32, bf16, fp16"):
        vdatrain.load_predictor(published, encoder="tiny", precision="fp8")
    with pytest.raises(vdatrain.DataError, match="holds weights but no configuration"):
        vdatrain.load_predictor(published)
