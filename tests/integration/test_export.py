"""`vdatrain export`: what comes out goes in again, and says what it is."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.integration.conftest import refused
from vdatrain.config import TrainConfig
from vdatrain.device import Precision
from vdatrain.inference import export
from vdatrain.models import loading, tensor_files, variants
from vdatrain.models.layers.difference import CELLS_PER_PATCH
from vdatrain.models.layers.temporal import remember_frames
from vdatrain.models.loading import load_model
from vdatrain.models.variants.basic import VideoDepth
from vdatrain.run_dir import stored_config
from vdatrain.training import state

VARIANTS = variants.names()


def trained(variant: str, folder: Path, *, frames: int = 3) -> Path:
    """A checkpoint as a run writes it, its averaged weights unlike the others and nothing a no-op."""
    config = TrainConfig(shards="s", variant=variant, encoder="tiny", frames=frames, size=28)
    model = loading.build_from_config(config)
    generator = torch.Generator().manual_seed(1)
    average = {
        name: parameter.detach() + 0.02 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    path = folder / "best.pt"
    tensor_files.save(path, {"model": model.state_dict(), "average": average, "config": config.to_json(), "step": 6})
    return path


def window(num_frames: int = 3, *, cells_per_patch: int = CELLS_PER_PATCH) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    cells = 2 * cells_per_patch
    frames = torch.randn(1, num_frames, 3, 28, 28, generator=generator)
    differences = 0.1 * torch.randn(1, num_frames, 3, cells, cells, generator=generator)
    return frames, differences, torch.ones(1, num_frames, dtype=torch.bool)


def output(model: VideoDepth, *, num_frames: int = 3) -> Tensor:
    with torch.no_grad():
        return model.eval()(*window(num_frames, cells_per_patch=model.cells_per_patch))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "ending"), [*((variant, ".pth") for variant in VARIANTS), (VARIANTS[-1], ".safetensors")]
)
def test_what_is_exported_begins_a_run_with_equal_outputs(variant: str, ending: str, vdatrain, tmp_path: Path) -> None:
    path, out = trained(variant, tmp_path), tmp_path / "out" / f"model{ending}"
    result = vdatrain("export", "--checkpoint", path, "--out", out)
    assert (result.code, result.err) == (0, "")
    assert f"{out}: written" in result.out
    model, config, *_ = load_model(path)
    again = replace(config, init=str(out), seed=5)
    copy = loading.build_from_config(again)
    report = loading.initialise(copy, again)
    assert report is not None
    assert len(report.matched) == len(model.state_dict())
    assert torch.equal(output(copy), output(model))
    facts = json.loads((tmp_path / "out" / f"model{ending}.json").read_text())
    assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (facts["variant"], facts["encoder"], facts["frames"]) == (variant, "tiny", 3)
    own = {name for name in model.state_dict() if name.startswith(variants.own_prefixes(variant))}
    assert facts["own"].keys() == own
    assert facts["mean"] == [0.485, 0.456, 0.406]
    assert facts["versions"].keys() == {"vdakit", "torch", "timm"}
    assert {item.name for item in out.parent.iterdir()} == {out.name, f"{out.name}.json"}


def test_a_longer_position_table_is_cut_to_the_published_one_and_comes_back(vdatrain, tmp_path: Path) -> None:
    path, out = trained("basic", tmp_path, frames=40), tmp_path / "model.pth"
    assert vdatrain("export", "--checkpoint", path, "--out", out).code == 0
    state = torch.load(out, weights_only=True)
    assert {value.shape[1] for name, value in state.items() if name.endswith(".pe")} == {32}
    model, config, *_ = load_model(path)
    copy = loading.build_from_config(config)
    report = loading.initialise(copy, replace(config, init=str(out)))
    assert report is not None
    assert len(report.rebuilt) == 8
    with torch.no_grad():
        pixels = window(40)[0][..., :14, :14]
        assert torch.equal(copy.eval()(pixels), model.eval()(pixels))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_computes_what_the_model_does(variant: str, vdatrain, tmp_path: Path) -> None:
    import onnxruntime

    path, out = trained(variant, tmp_path), tmp_path / "model.onnx"
    result = vdatrain("export", "--checkpoint", path, "--out", out, "--frames", 2, "--size", 28)
    assert (result.code, result.err) == (0, "")
    facts = json.loads((tmp_path / "model.onnx.json").read_text())
    assert facts["error"] < 1e-4
    assert (facts["frames"], facts["size"]) == (2, 28)
    assert facts["inputs"]["frames"] == [1, 2, 3, 28, 28]
    assert facts["versions"].keys() >= {"onnx", "onnxruntime"}
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    assert {item.name: item.shape for item in session.get_inputs()} == facts["inputs"]
    given = window(2, cells_per_patch=variants.cells_per_patch(variant))
    values = dict(zip(("frames", "differences", "diff_valid"), given, strict=True))
    [found] = session.run(["disparity"], {name: values[name].numpy() for name in facts["inputs"]})
    expected = output(load_model(path)[0], num_frames=2).numpy()
    assert np.abs(found - expected).max() < 1e-3 * expected.max()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["basic", "conv"])
def test_a_streaming_graph_computes_what_a_stream_does(variant: str, vdatrain, tmp_path: Path) -> None:
    """From the first frame, whose caches are zeros, to frames after the caches are full."""
    import onnxruntime

    path, out = trained(variant, tmp_path), tmp_path / "model.onnx"
    result = vdatrain("export", "--checkpoint", path, "--out", out, "--stream", "--size", 28)
    assert (result.code, result.err) == (0, "")
    facts = json.loads((tmp_path / "model.onnx.json").read_text())
    assert facts["error"] < 1e-4
    names = [name for name in facts["inputs"] if name not in ("frames", "differences", "diff_valid")]
    assert facts["outputs"] == ["disparity", *(f"next_{name}" for name in names)]
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    kinds = {"seen": np.int64}
    caches = {name: np.zeros(facts["inputs"][name], kinds.get(name, np.float32)) for name in names}
    model = load_model(path).model.eval()
    given = [name for name in facts["inputs"] if name not in names]
    frames, differences, valid = window(36)
    with torch.no_grad(), remember_frames(model):
        for number in range(36):
            shown = frames[:, number : number + 1], differences[:, number : number + 1]
            values = dict(zip(given, (*shown, valid[:, number : number + 1]), strict=False))
            found, *kept = session.run(None, {**{name: value.numpy() for name, value in values.items()}, **caches})
            expected = model(*values.values()).numpy()
            assert np.abs(found - expected).max() < 1e-3 * expected.max(), number
            caches = dict(zip(names, kept, strict=True))
    assert caches["seen"] == 31


@pytest.mark.slow
def test_a_graph_that_disagrees_is_not_written(vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = trained("basic", tmp_path), tmp_path / "model.onnx"
    monkeypatch.setattr(export, "_trace", lambda model, inputs, outputs: b"")
    for error in (0.5, float("nan")):
        monkeypatch.setattr(export, "_disagreement", lambda model, graph, inputs, error=error: error)
        refused(vdatrain("export", "--checkpoint", path, "--out", out), 1, "differs from the model's by")
    assert {item.name for item in tmp_path.iterdir()} == {"best.pt"}


def test_what_cannot_be_exported(vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained("basic", tmp_path)
    arguments = ("export", "--checkpoint", path, "--out")
    refused(
        vdatrain(*arguments, tmp_path / "model.bin"), 2, "ends in '.bin', expected one of .pth, .safetensors, .onnx"
    )
    refused(vdatrain(*arguments, tmp_path / "model.pth", "--size", 28), 2, "for any --frames and --size")
    refused(vdatrain(*arguments, tmp_path / "model.onnx", "--size", 30), 2, "multiple of 14", "--size 30")
    refused(vdatrain(*arguments, tmp_path / "model.onnx", "--frames", 33), 2, "takes at most 32")
    refused(vdatrain(*arguments, tmp_path / "model.onnx", "--stream", "--frames", 2), 2, "one frame at a time")
    refused(vdatrain(*arguments, tmp_path / "model.pth", "--stream"), 2, "for any --frames and --size, streamed or not")
    find = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else find(name, *rest)
    )
    refused(vdatrain(*arguments, tmp_path / "model.onnx"), 2, "needs onnx and onnxscript; pip install 'vdakit[onnx]'")
    assert {item.name for item in tmp_path.iterdir()} == {"best.pt"}
    own = shutil.copy(path, tmp_path / "own.pth")
    refused(vdatrain("export", "--checkpoint", own, "--out", own), 2, "is also the input")
    torch.save({"weight": torch.ones(1)}, tmp_path / "bare.pth")
    bare = ("export", "--checkpoint", tmp_path / "bare.pth", "--out", tmp_path / "model.pth")
    refused(vdatrain(*bare), 1, "holds weights but no configuration")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("colour", "red", 'there is no option "colour"; known: '),
        ("frames", "many", 'frames is "many", expected int'),
        ("frames", 10**6, "--frames 1000000: expected at most 1000"),
        ("encoder", "vitz", "vitz"),
        ("shards", "", "--shards is missing"),
        ("mix", "tartanair=-1", "--mix tartanair=-1: "),
    ],
)
@pytest.mark.parametrize("command", ["eval", "export", "infer"])
def test_options_that_no_run_has_are_the_checkpoints_fault(
    command: str, option: str, value: object, found: str, toy_shards: Path, vdatrain, tmp_path: Path
) -> None:
    """Not the command's, which is right: exit 1 and the name of the file."""
    path, out = trained("basic", tmp_path), tmp_path / "out"
    state = tensor_files.load(path)
    tensor_files.save(path, {**state, "config": {**state["config"], option: value}})
    [shard] = toy_shards.rglob("val/*.tar")
    words = {
        "eval": ("--shards", toy_shards, "--out", out),
        "export": ("--out", out.with_suffix(".pth")),
        "infer": (shard, "--out", out.with_suffix(".npz")),
    }
    result = vdatrain(command, *words[command], "--checkpoint", path)
    refused(result, 1, f"{path}: holds options that no run has (", found, "get the unchanged one")
    assert {item.name for item in tmp_path.iterdir()} == {"best.pt"}


@pytest.mark.slow
def test_a_run_reports_what_it_began_with(toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    trained("basic", tmp_path)
    small = ("--encoder", "tiny", "--frames", 3, "--size", 28, "--steps", 1, "--workers", 0, "--batch", 1)
    arguments = ("run", "--shards", toy_shards, "--variant", "conv", *small, "--init")
    result = vdatrain(*arguments, tmp_path / "best.pt", "--out", tmp_path / "run")
    assert result.code == 0
    assert f"{tmp_path / 'best.pt'}: weights of a video model" in result.err
    assert "missing: " in result.err
    assert "branch (branch.embed." in result.err
    (tmp_path / "best.pt").unlink()  # going on needs it no longer
    stored = stored_config(tmp_path / "run")
    again = state.load_state(stored, tmp_path / "run", precision=Precision(torch.device("cpu")))
    assert (again.step, again.loaded) == (1, None)
    refused(vdatrain(*arguments, "dinov2", "--out", tmp_path / "b"), 2, "choose one of vits, vitb, vitl")


def test_dinov2_without_a_network_is_one_sentence(toy_shards: Path, vdatrain, tmp_path: Path, monkeypatch) -> None:
    from timm.models import _builder

    def unreachable(*_arguments: object, **_options: object) -> None:
        raise FileNotFoundError("the hub cannot be reached")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", unreachable)
    given = ("--encoder", "vits", "--frames", 3, "--size", 28, "--steps", 1, "--workers", 0, "--batch", 1)
    options = (*given, "--warmup", 1, "--ema", 0.5, "--eval-every", 1, "--init", "dinov2", "--out", tmp_path / "run")
    refused(vdatrain("run", "--shards", toy_shards, *options), 1, "model.safetensors of https://", "--init FILE")
    assert not (tmp_path / "run").exists()
