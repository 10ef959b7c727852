"""Long videos: the published scheme, frame by frame reading, and one frame at a time."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.models import lively
from vdaprep.errors import UsageError
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import DiffSpec
from vdatrain.data.batch import make_batch
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import read_window
from vdatrain.data.transforms import fit_view
from vdatrain.device import Precision
from vdatrain.inference.long_video import cut_windows, infer_windows, join_windows
from vdatrain.inference.predictor import Predictor
from vdatrain.inference.video_reader import DEFAULT_DIFF, VideoFrame
from vdatrain.models import variants
from vdatrain.models.layers.temporal import remember_frames, set_attention

GOLDEN = Path(__file__).parents[2] / "golden"
CPU = Precision(torch.device("cpu"))


def predictor(model: nn.Module, *, size: int = 28, diff: DiffSpec = DEFAULT_DIFF) -> Predictor:
    return Predictor(model, CPU, size, diff)


def video(toy_frame, count: int, *, size: tuple[int, int] = (30, 40)) -> list[VideoFrame]:
    return [VideoFrame(number, toy_frame(0, number, size)[0]) for number in range(count)]


# ------------------------------------------------------------------------------------------------ the published scheme


def test_the_published_inference(golden_model: nn.Module) -> None:
    with np.load(GOLDEN / "vda_vits_long_video.npz") as golden:
        frames, expected = golden["frames"], torch.from_numpy(golden["disparity"])
        size = int(golden["input_size"])
    numbered = itertools.starmap(VideoFrame, enumerate(frames))
    found = torch.stack(list(predictor(golden_model, size=size).predict_frames(numbered)))
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("count", "starts"), [(1, [0]), (22, [0]), (23, [0, 22]), (32, [0, 22]), (44, [0, 22]), (45, [0, 22, 44])]
)
def test_windows(count: int, starts: list[int]) -> None:
    windows, shown = zip(*cut_windows(range(count)), strict=True)
    assert list(shown) == [max(2, min(32, count - start)) for start in starts]
    assert [len(window) for window in windows] == [32] * len(starts)
    before: tuple[int, ...] = ()
    for window, start in zip(windows, starts, strict=True):
        nominal = [min(start + number, count - 1) for number in range(32)]
        assert list(window[10:]) == nominal[10:]
        assert list(window[2:10]) == nominal[2:10]
        assert window[:2] == ((0, before[12]) if before else (nominal[0], nominal[1]))
        before = window


def test_no_frame_makes_no_window() -> None:
    assert list(cut_windows([])) == []
    assert list(infer_windows([], lambda *_: torch.zeros(32, 1, 1))) == []


@pytest.mark.parametrize("count", [1, 5, 22, 23, 32, 33, 60, 100])
def test_a_model_that_forgets_its_scale_is_brought_back(count: int) -> None:
    """Each window comes in another scale and shift of the truth; joined, all are in the first one's."""
    truth = torch.rand(count, 3, 4, generator=torch.Generator().manual_seed(0)) + 5
    calls = itertools.count()

    def predict(window: tuple[int, ...], shown: int) -> Tensor:
        n = next(calls)
        return (1 + n % 3) * truth[list(window[:shown])] + 0.5 * n

    found = torch.stack(list(infer_windows(range(count), predict)))
    assert_close(found, truth, rtol=1e-4, atol=1e-4)


def test_one_window_fades_into_the_next_and_nothing_falls_below_zero() -> None:
    first, second = torch.zeros(32, 1, 2), torch.zeros(32, 1, 2)
    first[:, 0, 1] = second[:, 0, 1] = 1
    second[9:, 0, 0] = -1  # after the frames that align, which are perfect
    first[24:, 0, 0] = 7
    maps = torch.stack(list(join_windows([first, second])))
    assert len(maps) == 54
    weights = torch.linspace(0, 1, 8)
    assert_close(maps[24:32, 0, 0], 7 * (1 - weights))
    assert (maps[32:, 0, 0] == 0).all()
    assert_close(maps[:, 0, 1], torch.ones(54))


def test_frames_are_read_as_they_are_needed() -> None:
    read = 0

    def frames() -> Iterator[int]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield number

    maps = infer_windows(frames(), lambda window, _: torch.tensor(window).float()[:, None, None].expand(32, 1, 2))
    for number, _ in zip(range(500), maps, strict=False):
        assert number < read <= number + 33
    assert read < 550


@pytest.mark.parametrize("variant", variants.names())
@pytest.mark.parametrize("count", [1, 22, 23, 50])
def test_each_frame_is_encoded_once_and_nothing_is_computed_for_padding(variant: str, count: int, toy_frame) -> None:
    model, frames = lively(variant).eval(), video(toy_frame, count)
    eye = predictor(model)
    whole = [*infer_windows(map(eye.prepare, frames), lambda window, _: eye.predict_window(window))]
    encoded: list[int] = []
    decoded: list[int] = []
    model.pretrained.register_forward_hook(lambda module, given, found: encoded.append(len(given[0])))
    model.head.scratch["output_conv2"].register_forward_hook(lambda module, given, found: decoded.append(len(found)))
    found = torch.stack(list(eye.predict_frames(frames)))
    assert_close(found, torch.stack(whole), rtol=1e-5, atol=1e-6)
    assert sum(encoded) == count
    assert max(encoded) <= 8
    assert sum(decoded) == sum(max(2, min(32, count - start)) for start in range(0, count, 22))


# -------------------------------------------------------------------------------------------------------- differences


class Spy(nn.Module):
    """A model that keeps what it is shown."""

    def forward(self, frames: Tensor, differences: Tensor, diff_valid: Tensor) -> Tensor:
        self.frames, self.differences, self.valid = frames[0], differences[0], diff_valid[0]
        return frames[:, :, 0]


def test_differences_are_those_of_the_shards(toy_shards: Path, toy_frame) -> None:
    clip = open_shards(toy_shards).clips(split="train")[0]
    sample = read_window(clip, Window(0, 0, 0, WindowShape(4)))
    assert sample.diff is not None
    batch = make_batch([sample], [fit_view(sample.size, size=28)], device=CPU.device)
    spy = Spy()
    eye = predictor(spy, diff=sample.diff)
    eye.predict_window([eye.prepare(frame) for frame in video(toy_frame, 4, size=sample.size)])
    assert torch.equal(spy.differences, batch.differences[0])
    assert torch.equal(spy.valid, batch.diff_valid[0])
    assert spy.differences[1].abs().max() > 0.01
    # The shard keeps frames as JPEG and training resizes them bilinearly.
    assert (spy.frames - batch.frames[0]).abs().mean() < 0.05


def test_only_frames_that_follow_one_another_have_a_difference(toy_frame) -> None:
    spy = Spy()
    eye = predictor(spy)
    looks = [eye.prepare(frame) for frame in video(toy_frame, 4)]
    eye.predict_window([looks[0], looks[2], looks[3], looks[3]])
    assert spy.valid.tolist() == [False, False, True, False]
    assert not spy.differences[[0, 1, 3]].any()
    eye.predict_window([looks[3]], looks[2])
    assert spy.valid.tolist() == [True]


def test_a_size_without_a_patch() -> None:
    with pytest.raises(UsageError, match="--size 13: expected the pixels of the short side, 14 to 8400"):
        predictor(Spy(), size=13)


# ------------------------------------------------------------------------------------------------- one frame at a time


def stream(model: nn.Module, frames: list[VideoFrame]) -> Tensor:
    return torch.stack(list(predictor(model).predict_frames(frames, stream=True)))


@pytest.mark.parametrize("variant", variants.names())
def test_a_single_frame_is_the_same_either_way(variant: str, toy_frame) -> None:
    model, frames = lively(variant).eval(), video(toy_frame, 1)
    eye = predictor(model)
    assert_close(stream(model, frames)[0], eye.predict_window([eye.prepare(frames[0])])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", variants.names())
@pytest.mark.parametrize("chunk", [1, 3])
def test_streaming_is_a_window_under_the_mask_of_its_chunks(variant: str, chunk: int, toy_frame) -> None:
    model, frames = lively(variant).eval(), video(toy_frame, 8)
    del frames[4]  # whose neighbours do not follow one another
    eye = replace(predictor(model), chunk=chunk)
    looks = [eye.prepare(frame) for frame in frames]
    window = eye.predict_window(looks)
    set_attention(model, chunk)
    found = torch.stack(list(eye.predict_frames(frames, stream=True)))
    assert_close(found, eye.predict_window(looks), rtol=1e-4, atol=1e-4)
    assert (found - window).abs().max() > 1e-3
    if chunk == 1:
        set_attention(model, None)
        assert_close(found, stream(model, frames), rtol=0, atol=0)  # which needs no such mask


@pytest.mark.parametrize("variant", variants.names())
def test_streaming_sees_no_later_frame_but_the_earlier_ones(variant: str, toy_frame) -> None:
    model, frames = lively(variant).eval(), video(toy_frame, 6)
    changed = [*frames[:3], VideoFrame(3, 255 - frames[3].rgb), *frames[4:]]
    before, after = stream(model, frames), stream(model, changed)
    assert torch.equal(before[:3], after[:3])
    assert all((before[number] - after[number]).abs().max() > 1e-3 for number in (3, 4, 5))


def test_streaming_forgets_what_is_too_old_and_holds_no_more(toy_frame) -> None:
    model = lively("basic").eval()
    eye = predictor(model)
    looks = [eye.prepare(frame) for frame in video(toy_frame, 9)]
    layers = [layer for layer in model.modules() if hasattr(layer, "memory")]
    assert len(layers) == 8
    held: list[int] = []
    with remember_frames(model, num_frames=3):
        for look in looks:
            eye.predict_window([look])
            kept = [tensor for layer in layers for tensor in layer.memory._kept]
            held.append(sum(tensor.untyped_storage().nbytes() for tensor in kept))
            assert max(tensor.shape[1] for tensor in kept) <= 3
    assert len(set(held[3:])) == 1
    assert all(layer.memory is None for layer in layers)


def test_a_model_is_as_before_once_a_stream_has_ended(toy_frame) -> None:
    model, frames = lively("basic").eval(), video(toy_frame, 3)
    eye = predictor(model)
    looks = [eye.prepare(frame) for frame in frames]
    window = eye.predict_window(looks)
    maps = eye.predict_frames(frames, stream=True)
    next(maps)
    maps.close()
    assert torch.equal(eye.predict_window(looks), window)
    with pytest.raises(ValueError, match="33 frames to remember, the temporal modules were built for 1 to 32"):
        remember_frames(model, num_frames=33).__enter__()
