"""Weights from elsewhere: every naming and wrapping loads, everything that does not fit is named."""

import hashlib
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from timm.models import _builder
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models import stirred
from vdaprep.errors import DataError, UsageError
from vdatrain.config import TrainConfig
from vdatrain.data.terms import check_weights
from vdatrain.inference.loading import load_predictor
from vdatrain.inference.long_video import join_windows
from vdatrain.models import published as names
from vdatrain.models import variants
from vdatrain.models.layers.encoder import encoder_spec
from vdatrain.models.layers.temporal import TemporalModule
from vdatrain.models.loading import build_from_config, initialise
from vdatrain.models.variants.basic import MIN_DEPTH_M
from vdatrain.models.weights import LoadReport, load_weights, make_weights, read_weights

State = dict[str, Tensor]


def tiny(variant: str = "basic", *, seed: int = 0, max_frames: int = 32) -> nn.Module:
    torch.manual_seed(seed)
    return variants.build(variant, encoder="tiny", max_frames=max_frames)


def frames(*, num_frames: int = 3) -> Tensor:
    return torch.randn(1, num_frames, 3, 28, 42, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def published() -> State:
    return stirred(tiny()).state_dict()


def image_weights(published: State) -> State:
    """What an image model of the same sizes holds, under Depth Anything V2's names."""
    kept = {name: value for name, value in published.items() if not name.startswith("head.motion_modules.")}
    return {name.replace("head.", "depth_head.", 1) if name[0] == "h" else name: v for name, v in kept.items()}


def encoder_weights(published: State) -> State:
    return {name.removeprefix("pretrained."): v for name, v in published.items() if name.startswith("pretrained.")}


def load(state: object, *, variant: str = "basic", max_frames: int = 32) -> tuple[nn.Module, LoadReport]:
    model = tiny(variant, seed=5, max_frames=max_frames)
    weights = make_weights(state, where="w.pth")  # pyright: ignore[reportArgumentType]
    return model, load_weights(model, weights)


def holds(model: nn.Module, state: State) -> bool:
    return all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


# ------------------------------------------------------------------------------------------------ names and wrappings


@pytest.mark.parametrize(
    ("wrapper", "prefix", "ending"),
    [
        (None, "", ".pth"),
        (None, "_orig_mod.", ".pt"),
        ("model", "module.", ".pth"),
        ("state_dict", "module._orig_mod.", ".pth"),
        ("model_state_dict", "_orig_mod.module.", ".pt"),
        ("ema", "module.module.", ".pth"),
    ],
)
def test_every_wrapping_loads(wrapper: str | None, prefix: str, ending: str, published: State, tmp_path: Path) -> None:
    named = {prefix + name: value for name, value in published.items()}
    torch.save({"epoch": 3, wrapper: named} if wrapper else named, tmp_path / f"w{ending}")
    model = tiny(seed=5)
    report = load_weights(model, read_weights(tmp_path / f"w{ending}"))
    assert holds(model, published)
    assert len(report.matched) == len(published)
    assert not report.missing + report.unexpected + report.reshaped + report.rebuilt


def test_safetensors_load_and_damaged_ones_are_a_sentence(published: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: value.contiguous() for name, value in published.items()}, path)
    model = tiny(seed=5)
    load_weights(model, read_weights(path))
    assert holds(model, published)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"w.safetensors: is no safetensors file: its header does not fit"):
        read_weights(path)


def test_wrappers_in_wrappers_and_inner_prefixes(published: State) -> None:
    compiled = {name.replace("pretrained.", "pretrained._orig_mod.module."): v for name, v in published.items()}
    assert holds(load({"model": {"state_dict": compiled}, "step": 1})[0], published)


@pytest.mark.parametrize("average", ["average", "ema"])
def test_averaged_weights_win(average: str, published: State) -> None:
    averages = {f"module.{name}": value + 1 for name, value in published.items() if name.startswith("head.projects")}
    model, _ = load({"model": published, average: averages, "optimiser": {"state": {}}})
    assert holds(model, {**published, **{name.removeprefix("module."): value for name, value in averages.items()}})


@pytest.mark.parametrize("variant", variants.names())
def test_weights_of_a_variant_load_into_it_and_the_published_ones_too(variant: str, published: State) -> None:
    own = stirred(tiny(variant)).state_dict()
    assert holds(load(own, variant=variant)[0], own)
    model, report = load(published, variant=variant)
    assert holds(model, published)
    assert all(name.startswith(variants.own_prefixes(variant)) for name in report.missing)
    assert len(report.missing) == len(own) - len(published)


@pytest.mark.parametrize(("theirs", "ours"), [(32, 48), (48, 32)])
def test_position_tables_over_time_are_rebuilt(theirs: int, ours: int) -> None:
    state = stirred(tiny(max_frames=theirs)).state_dict()
    model, report = load(state, max_frames=ours)
    assert len(report.rebuilt) == 8
    assert f"[1, {theirs}, 64] for [1, {ours}, 64]" in report.rebuilt[0]
    assert "8 temporal (head.motion_modules.0" in str(report).splitlines()[-1]
    tables = {name: value for name, value in tiny(max_frames=ours).state_dict().items() if name.endswith(".pe")}
    assert len(tables) == 8
    assert holds(model, tables)
    source = tiny(max_frames=theirs)
    source.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model.eval()(frames()), source.eval()(frames()))
        assert model(frames(num_frames=ours)[..., :14, :14]).isfinite().all()


# ----------------------------------------------------------------------------------------------- images and encoders


def test_image_weights_make_the_image_model_frame_by_frame(published: State, monkeypatch: pytest.MonkeyPatch) -> None:
    model, report = load(image_weights(published))
    assert report.kind == "weights of an image model"
    assert report.missing
    assert all(name.startswith("head.motion_modules.") for name in report.missing)
    with torch.no_grad():
        clip = model(frames())
        alone = torch.cat([model(frame[None, None]) for frame in frames()[0]], dim=1)
        monkeypatch.setattr(TemporalModule, "forward", lambda self, maps, num_frames, guidance: maps)
        without = model(frames())
    # Not to the last bit: other shapes and strides take other kernels.
    assert_close(clip, without, rtol=1e-5, atol=1e-6)
    assert_close(clip, alone, rtol=1e-5, atol=1e-6)
    assert (clip[0, 0] - clip[0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(("variant", "with_mask_token"), [(variants.names()[0], True), (variants.names()[-1], False)])
def test_encoder_weights(variant: str, with_mask_token: bool, published: State) -> None:
    state = encoder_weights(published)
    if not with_mask_token:
        del state["mask_token"]
    model, report = load(state, variant=variant)
    fresh = tiny(variant, seed=5).state_dict()
    assert holds(model, {f"pretrained.{name}": value for name, value in state.items()})
    assert holds(model, {name: value for name, value in fresh.items() if not name.startswith("pretrained.")})
    assert report.kind == "weights of an encoder"
    assert len(report.matched) == len(state)


@pytest.mark.slow
def test_the_encoder_file_of_timm_fits(tmp_path: Path) -> None:
    import timm

    spec = encoder_spec("vits")
    assert spec.timm_name is not None
    theirs = timm.create_model(spec.timm_name, pretrained=False, num_classes=0)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    config = TrainConfig(shards="s", init=str(tmp_path / "model.safetensors"), encoder="vits")
    model = build_from_config(config)
    report = initialise(model, config)
    assert report is not None
    assert len(report.matched) == len(theirs.state_dict())
    pictures = torch.randn(1, 3, 518, 518)
    with torch.no_grad():
        features = model.get_submodule("pretrained")(pictures)[-1]
        assert torch.allclose(features, theirs.eval().forward_features(pictures)[:, 1:], atol=1e-4)


# ----------------------------------------------------------------------------------------------------------- the hub


@pytest.mark.slow
def test_dinov2_comes_through_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    spec = encoder_spec("vits")
    assert spec.timm_name is not None
    state = timm.create_model(spec.timm_name, pretrained=False, num_classes=0).state_dict()
    state = {name: value + 0.5 for name, value in state.items()}
    asked: list[str] = []

    def from_hub(model_id: str, *_arguments: object, **_options: object) -> State:
        asked.append(model_id)
        return state

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", from_hub)
    config = TrainConfig(shards="s", init="dinov2", encoder="vits")
    model = build_from_config(config)
    assert initialise(model, config) is not None
    assert asked == ["timm/vit_small_patch14_dinov2.lvd142m"]
    assert holds(model, {f"pretrained.{name}": value for name, value in state.items()})


def test_without_a_network_the_sentence_says_which_file_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_arguments: object, **_options: object) -> State:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", unreachable)
    config = TrainConfig(shards="s", init="dinov2", encoder="vitb")
    page = r"huggingface.co/timm/vit_base_patch14_dinov2.lvd142m"
    with pytest.raises(
        DataError, match=rf"cannot be fetched from the hub .*model.safetensors of .*{page} .*--init FILE"
    ):
        initialise(tiny(), config)


def test_an_encoder_of_which_there_is_no_dinov2() -> None:
    with pytest.raises(UsageError, match="none for encoder 'tiny'; choose one of vits, vitb, vitl"):
        initialise(tiny(), TrainConfig(shards="s", init="dinov2", encoder="tiny"))


# ----------------------------------------------------------------------------------------------- published, by name


def vda_file(folder: Path, state: State) -> Path:
    torch.save(state, folder / "video_depth_anything_vits.pth")
    return folder / "video_depth_anything_vits.pth"


def test_published_weights_are_taken_by_name_with_their_licence(
    published: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vda_file(tmp_path, published)
    asked: list[tuple[str, str]] = []

    def from_hub(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", from_hub)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    small = {"vda-small": replace(names.PUBLISHED["vda-small"], sha256=digest, encoder="tiny")}
    monkeypatch.setattr(names, "PUBLISHED", small)
    config = TrainConfig(shards="s", init="vda-small", encoder="tiny")
    model = build_from_config(config)
    report = initialise(model, config)
    assert asked == [("depth-anything/Video-Depth-Anything-Small", "video_depth_anything_vits.pth")]
    assert holds(model, published)
    assert report is not None
    assert f"SHA-256 {digest}" in str(report)
    assert "licences: weights vda-small (Apache-2.0)" in str(report)
    predictor = load_predictor("vda-small")  # its encoder is known
    assert predictor.origin["weights"]["sha256"] == digest


def test_published_metric_weights_are_taken_by_name_for_metric_runs(
    published: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(published, "metric_video_depth_anything_vits.pth")
    digest = hashlib.sha256(Path("metric_video_depth_anything_vits.pth").read_bytes()).hexdigest()
    known = replace(names.PUBLISHED["vda-metric-small"], sha256=digest, encoder="tiny")
    monkeypatch.setattr(names, "PUBLISHED", {"vda-metric-small": known})
    config = TrainConfig(shards="s", init="vda-metric-small", encoder="tiny", task="metric", size=28)
    model = build_from_config(config)
    assert "licences: weights vda-metric-small (Apache-2.0)" in str(initialise(model, config))
    assert holds(model, published)
    with pytest.raises(DataError, match="give --task metric"):
        initialise(tiny(), replace(config, task="relative"))
    predictor = load_predictor("vda-metric-small")
    assert (predictor.metric, predictor.model.canonical_focal_px) == (True, None)  # metres, whatever the camera


def test_a_file_in_the_current_folder_needs_no_hub_and_is_compared_with_what_is_known(
    published: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    path = vda_file(tmp_path, published)
    config = TrainConfig(shards="s", init="vda-small", encoder="vits")
    with pytest.raises(DataError, match=rf"{path.name}: has SHA-256 \w+, but vda-small is known to have 13379300b73"):
        initialise(tiny(), config)
    vda_file(tmp_path, published).rename(tmp_path / "video_depth_anything_vitb.pth")
    fetched = names.fetch("vda-base")  # of which none is known
    assert str(fetched.path) == "video_depth_anything_vitb.pth"
    with pytest.raises(UsageError, match="vda-base is not known to allow it, for weights vda-base .CC BY-NC 4.0."):
        check_weights(TrainConfig(shards="s", init="vda-base", licence="commercial"), [fetched.published.terms])


def test_without_a_network_the_sentence_says_which_published_file_to_put_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_arguments: object, **_options: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(DataError, match=r"vda-large: cannot be fetched .* bring video_depth_anything_vitl.pth"):
        initialise(tiny(), TrainConfig(shards="s", init="vda-large", encoder="vitl"))
    with pytest.raises(UsageError, match="are weights of encoder vitl; give --encoder vitl"):
        initialise(tiny(), TrainConfig(shards="s", init="vda-large", encoder="vits"))


# -------------------------------------------------------------------------------------------------- what does not fit


def test_a_report_names_groups_counts_and_a_few(published: State) -> None:
    _, report = load(image_weights(published))
    lines = str(report).splitlines()
    assert lines[0] == "w.pth: weights of an image model"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["matched", "missing", "unexpected", "reshaped"]
    encoder = sum(name.startswith("pretrained.") for name in published)
    assert f"{encoder} encoder, " in lines[1]
    assert lines[2].count("head.motion_modules.") == 3
    assert lines[2].endswith(", ...)")
    assert lines[3].endswith(": none")


def test_what_is_missing_unexpected_or_of_another_shape_is_refused(published: State) -> None:
    less = {name: value for name, value in published.items() if not name.startswith("head.projects")}
    with pytest.raises(DataError, match=r"w.pth: does not fit .*missing: 8 head \(head.projects.0.weight, .*, ...\)"):
        load(less)
    with pytest.raises(DataError, match=r"unexpected: 1 branch \(branch.x\), 1 other \(tail\)"):
        load({**published, "branch.x": torch.ones(1), "tail": torch.ones(1)})
    with pytest.raises(DataError, match=r"of another shape: 1 encoder \(pretrained.norm.bias \[4\] for \[192\]\)"):
        load({**published, "pretrained.norm.bias": torch.ones(4)})
    table = "head.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
    with pytest.raises(DataError, match=r"of another shape: 1 temporal"):
        load({**published, table: torch.ones(1, 32, 8)})


def test_a_refusal_changes_nothing(published: State) -> None:
    model = tiny(seed=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DataError, match="does not fit"):
        load_weights(model, make_weights({**published, "tail": torch.ones(1)}, where="w.pth"))
    assert holds(model, before)


def test_image_weights_of_a_part_are_refused(published: State) -> None:
    image = image_weights(published)
    del image["depth_head.projects.0.weight"]
    with pytest.raises(DataError, match=r"missing: 1 head \(head.projects.0.weight\)"):
        load(image)
    video = {name: value for name, value in published.items() if "motion_modules.0" not in name}
    with pytest.raises(DataError, match=r"video model, missing: \d+ temporal"):
        load(video)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "holds no tensors"),
        ({"model": {}}, "holds no tensors"),
        ({"model": {"weight": torch.ones(1), "step": 3}}, "holds 'step' that is no tensor"),
        ({"weight": torch.ones(1)}, "unexpected: 1 other"),
    ],
)
def test_what_are_no_weights(state: object, sentence: str) -> None:
    with pytest.raises(DataError, match=f"w.pth: .*{sentence}"):
        load(state)


def test_half_precision_is_widened(published: State) -> None:
    model, _ = load({name: value.half() for name, value in published.items()})
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_nothing_is_read_where_nothing_is_asked() -> None:
    assert initialise(tiny(), TrainConfig(shards="s", encoder="tiny")) is None


# ------------------------------------------------------------------------------------------------------ metric weights

NAMES = {
    "metric_video_depth_anything_vits.pth": True,
    "Metric-Video-Depth-Anything-Small/model.pth": True,
    "metric-vda.small.pth": True,
    "VDA_METRIC_S.pth": True,
    "vda.Metric.pth": True,
    "a link to a metric one": True,
    "video_depth_anything_vits.pth": False,
    "metrics/video_depth_anything_vits.pth": False,
    "metric/video_depth_anything_vits.pth": False,
    "geometric_vits.pth": False,
    "symmetrical.pth": False,
    "vda-non-metric.pth": False,
    "vda_not_metric.pth": False,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "metric"), NAMES.items())
def test_metric_weights_are_known_by_name_and_near_stays_near(
    name: str, metric: bool, published: State, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if " " in name:
        torch.save(published, tmp_path / "metric_video_depth_anything_tiny.pth")
        path.symlink_to("metric_video_depth_anything_tiny.pth")
    else:
        torch.save(published, path)
    model = tiny(seed=5)
    load_weights(model, path)
    output, found = stirred(tiny()).eval()(frames()), load_predictor(path, encoder="tiny", device="cpu")
    assert found.metric is metric
    expected = 1 / output.clamp(min=MIN_DEPTH_M) if metric else output
    for made in (model.eval(), found.model):
        assert_close(made(frames()), expected)
    assert load_predictor(path, encoder="tiny", device="cpu", metric=not metric).metric is not metric
    config = TrainConfig(shards="s", encoder="tiny", init=str(path))
    if metric:
        with pytest.raises(DataError, match="are metric weights, which predict depth in metres"):
            initialise(tiny(), config)
    else:
        assert initialise(tiny(), config)


def test_metric_weights_that_no_video_model_can_hold_are_refused(published: State, tmp_path: Path) -> None:
    path = tmp_path / "depth_anything_v2_metric_hypersim_tiny.pth"
    torch.save(image_weights(published), path)
    with pytest.raises(DataError, match="are metric weights of an image model"):
        load_predictor(path, encoder="tiny", device="cpu")
    with pytest.raises(DataError, match="holds weights but no configuration"):
        load_predictor(path, metric=True, device="cpu")


def test_windows_of_metric_weights_are_blended_and_not_aligned() -> None:
    windows = [torch.full((32, 1, 1), value) for value in (1.0, 3.0)]
    assert [float(depth) for depth in join_windows(windows, aligned=False)][-1] == 3.0
    assert [float(depth) for depth in join_windows(windows)][-1] == 1.0
