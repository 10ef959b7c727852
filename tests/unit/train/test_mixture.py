"""A run tells how many frames of each data set it has shown, and who gave much less than the mix asks for."""

import pytest

from vdatrain.training.mixture import MixtureMeter


def test_frames_of_windows_and_of_single_images_are_counted() -> None:
    meter = MixtureMeter({"a": 0.5, "b": 0.5})
    meter.add(["a", "b", "a"], 4)
    meter.add(["c"], 1)
    assert meter.shown == {}  # until all ranks settle
    meter.settle()
    assert meter.shown == {"a": 8, "b": 4, "c": 1}
    meter.settle()
    assert meter.shown == {"a": 8, "b": 4, "c": 1}
    assert meter.shares()["a"] == {"expected": 0.5, "shown": pytest.approx(8 / 13, abs=1e-4)}


@pytest.mark.parametrize(
    ("shown", "named"),
    [
        pytest.param({"a": 90, "b": 10}, ["b: gave 10.0% of the frames where the mix asks for 50.0%"], id="a fifth"),
        pytest.param({"a": 70, "b": 30}, [], id="three fifths"),
        pytest.param({"a": 100}, ["b: gave 0.0% of the frames"], id="nothing"),
    ],
)
def test_who_gave_much_less_is_named(shown: dict[str, int], named: list[str]) -> None:
    meter = MixtureMeter({"a": 0.5, "b": 0.5})
    meter.shown.update(shown)
    assert len(meter.sentences()) == len(named)
    assert all(sentence.startswith(start) for sentence, start in zip(meter.sentences(), named, strict=True))
