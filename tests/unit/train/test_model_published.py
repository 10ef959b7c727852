"""`basic` is the published Video Depth Anything: names, shapes, numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from vdatrain.models import variants
from vdatrain.models.layers.encoder import Encoder, encoder_spec

GOLDEN = Path(__file__).parents[2] / "golden"
SHAPES = json.loads((GOLDEN / "vda_state_dict_shapes.json").read_bytes())
PARAMETERS = {"vits": 29_035_137, "vitb": 114_441_409, "vitl": 384_390_337}


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("encoder", SHAPES)
def test_names_shapes_and_parameter_counts(encoder: str) -> None:
    with torch.device("meta"):
        model = variants.build("basic", encoder=encoder)
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == SHAPES[encoder]
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[encoder]


@pytest.mark.parametrize("encoder", SHAPES)
def test_timms_weights_fit_the_encoder(encoder: str) -> None:
    import timm

    spec = encoder_spec(encoder)
    assert spec.timm_name is not None
    with torch.device("meta"):
        ours = Encoder(spec).state_dict()
        theirs = timm.create_model(spec.timm_name, pretrained=False, num_classes=0).state_dict()
    del ours["mask_token"]
    assert {name: v.shape for name, v in ours.items()} == {name: v.shape for name, v in theirs.items()}


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("grad", [False, True], ids=["chunks", "whole"])
def test_outputs(golden_model: nn.Module, case: int, grad: bool) -> None:
    with np.load(GOLDEN / "vda_vits_forward.npz") as golden, torch.set_grad_enabled(grad):
        frames, disparity, taps = (
            torch.from_numpy(golden[f"{name}_{case}"]) for name in ("input", "disparity", "taps")
        )
        levels = torch.stack(golden_model.get_submodule("pretrained")(frames.flatten(0, 1))).detach()
        found = golden_model(frames).detach()
    assert relative_error(levels[:, :, :8, :16], taps) < 1e-5
    assert relative_error(found, disparity) < 1e-5
    # Single values too; an output near zero is a difference of larger numbers.
    assert_close(levels[:, :, :8, :16], taps, rtol=1e-4, atol=1e-4)
    assert_close(found, disparity, rtol=1e-4, atol=1e-4)
