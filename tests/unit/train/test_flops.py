"""The arithmetic of a frame."""

import pytest
import torch

from vdatrain.models import variants
from vdatrain.models.flops import COUNTED_FRAMES, gflop_per_frame
from vdatrain.models.layers.encoder import ENCODERS, encoder_spec


def count(variant: str, *, encoder: str = "vits", size: int = 518, num_frames: int = COUNTED_FRAMES) -> float:
    with torch.device("meta"):
        model = variants.build(variant, encoder=encoder)
    return gflop_per_frame(model, size=size, num_frames=num_frames)


def test_the_encoder_alone_is_what_a_count_by_hand_gives() -> None:
    spec, tokens = encoder_spec("vits"), 37 * 37 + 1
    layers = 2 * tokens * 12 * spec.dim**2 + 4 * tokens**2 * spec.dim
    embedding = 2 * (tokens - 1) * 3 * 14**2 * spec.dim
    with torch.device("meta"):
        model = variants.build("basic", encoder="vits")
    encoder_gflop = (spec.depth * layers + embedding) / 1e9
    assert encoder_gflop < gflop_per_frame(model, size=518) < 2 * encoder_gflop


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_variant_costs_more_than_the_published_model_and_not_much(encoder: str) -> None:
    published = count("basic", encoder=encoder)
    others = [count(name, encoder=encoder) for name in variants.names() if variants.uses_differences(name)]
    assert all(published < cost < published + 3 for cost in others)


def test_a_frame_costs_much_the_same_in_any_clip() -> None:
    one, many = (count("basic", num_frames=num_frames) for num_frames in (1, 32))
    assert 1 < many / one < 1.01


def test_sizes_must_split_into_patches() -> None:
    with pytest.raises(ValueError, match="500x500 pixels, expected multiples of 14"):
        count("basic", size=500)


@pytest.mark.slow
def test_the_command_lists_parameters_and_cost(vdatrain) -> None:
    result = vdatrain("variants", "--encoder", "vits", "--size", 56)
    assert result.code == 0
    for name in variants.names():
        [line] = [line for line in result.out.splitlines() if line.split()[:1] == [name]]
        assert f" {count(name, size=56):.2f} " in line
    result = vdatrain("variants", "--size", 50)
    assert result.code == 2
    assert result.err == "vdatrain: --size 50: expected a multiple of 14.\n"
