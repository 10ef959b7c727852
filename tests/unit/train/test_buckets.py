"""Windows in buckets: which shape a clip's windows have, and the order that they come in."""

import dataclasses
from collections import Counter
from itertools import pairwise

import pytest
import torch

from tests.unit.train.conftest import Toy
from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import open_shards
from vdatrain.config import TrainConfig
from vdatrain.data.batch import Batch
from vdatrain.data.buckets import ASPECTS, count_shapes, frames_of_clips, largest_view, train_sampler, view_sizes
from vdatrain.data.loader import TrainLoader
from vdatrain.distributed.compile import CompiledForward
from vdatrain.distributed.preemption import StopRequest
from vdatrain.models import tensor_files
from vdatrain.training.callbacks import Callback
from vdatrain.training.planning.memory import Inputs
from vdatrain.training.trainer import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, write_dataset):
    """Data sets of three aspects, with short clips among them."""
    folder = tmp_path_factory.mktemp("mixed")
    write_dataset(folder / "tall", lengths=(9, 8, 1), size=(80, 45))
    write_dataset(folder / "wide", lengths=(16, 3, 24, 40, 5), size=(45, 80))
    write_dataset(folder / "plain", lengths=(10, 8, 2), size=(48, 52), diff=None, poses=False)
    return folder


@pytest.fixture
def config(mixed):
    return TrainConfig(
        shards=str(mixed), encoder="tiny", frames=8, size=56, batch=2, seed=3, workers=0, aspect="native",
        short_clips="bucket",
    )  # fmt: skip


def order_of(config, *, block=4):
    return train_sampler(open_shards(config.shards).clips(split="train"), config, block=block)


def dataset_of(config):
    return [clip.dataset for clip in open_shards(config.shards).clips(split="train")]


@pytest.mark.parametrize("size", [112, 252, 518])
def test_views_are_whole_patches_of_about_as_many_pixels(size):
    for aspect, (height, width) in zip(ASPECTS, view_sizes(size), strict=True):
        assert height % 14 == width % 14 == 0
        assert height * width == pytest.approx(size**2, rel=14 / size + 0.01)
        assert width / height == pytest.approx(aspect, rel=28 / size + 0.01)


@pytest.mark.parametrize(
    ("frames", "stride", "lengths", "expected"),
    [
        (8, 1, [8, 7, 4, 3, 2, 1], [8, 4, 4, 2, 2, 2]),
        (9, 1, [9, 8, 4, 3], [9, 4, 4, 2]),
        (8, 3, [22, 21, 10, 9, 4, 3], [8, 4, 4, 2, 2, 2]),
        (2, 1, [2, 1], [2, 2]),
        (1, 1, [1], [1]),
    ],
)
def test_short_clips_have_the_longest_windows_that_fit(frames, stride, lengths, expected):
    config = TrainConfig(shards="s", frames=frames, stride=stride, short_clips="bucket")
    assert frames_of_clips(lengths, config).tolist() == expected
    assert frames_of_clips(lengths, dataclasses.replace(config, short_clips="drop")).tolist() == [frames] * len(lengths)
    assert len(set(expected)) <= count_shapes(config)


def test_a_block_has_one_shape_and_clips_of_it(config):
    order, names = order_of(config), dataset_of(config)
    expected = {"tall": (70, 42), "wide": (42, 70), "plain": (56, 56)}
    windows = [order[position] for position in range(4000)]
    assert [window.position for window in windows] == list(range(4000))
    assert all(window.view == expected[names[window.clip]] for window in windows)
    for start in range(0, 4000, 4):
        assert len({(window.view, window.shape) for window in windows[start : start + 4]}) == 1
    shapes = [(window.view, window.shape.num_frames) for window in windows[::4]]
    assert set(shapes) == {((70, 42), 8), ((42, 70), 8), ((42, 70), 4), ((42, 70), 2), ((56, 56), 8), ((56, 56), 2)}
    assert len(set(shapes)) <= count_shapes(config)
    assert sum(one != other for one, other in pairwise(shapes)) > 300  # shuffled, not one shape after the other
    assert order.clips_left_out == 1


def test_the_order_is_a_function_of_the_position(config):
    order = order_of(config)
    expected = [order[position] for position in range(2100)]  # beyond a round of blocks
    again = order_of(config)
    assert [again[position] for position in (2099, 5, 1024, 0)] == [expected[p] for p in (2099, 5, 1024, 0)]
    other = order_of(dataclasses.replace(config, seed=4))
    assert [other[position].clip for position in range(64)] != [window.clip for window in expected[:64]]


def test_each_bucket_shows_all_of_its_windows_before_any_again(config):
    order = order_of(config)
    by_shape: dict[object, list[object]] = {}
    for position in range(8000):
        window = order[position]
        by_shape.setdefault((window.view, window.shape), []).append(window)
    for bucket in order.buckets:
        own = by_shape[bucket.view, bucket.sampler.shape]
        count = bucket.sampler.windows_per_epoch
        epochs = [own[start : start + count] for start in range(0, len(own) - count + 1, count)]
        expected = Counter(bucket.clips.repeat(order.every.lengths[bucket.clips] // bucket.sampler.shape.span).tolist())
        assert epochs
        assert all(Counter(window.clip for window in epoch) == expected for epoch in epochs)


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ("", {"tall": 16, "plain": 16 + 2, "wide": 16 + 24 + 40 + 2 + 4}),
        ("wide=0.5", {"tall": 16, "plain": 16 + 2, "wide": 43}),
        ("plain=3,tall=0", {"plain": 54, "wide": 86}),
        ("tall=20%,wide=50%,plain=30%", {"tall": 0.2, "wide": 0.5, "plain": 0.3}),
    ],
)
def test_shares_of_frames_are_those_of_the_mix(config, mix, expected):
    order, names = order_of(dataclasses.replace(config, mix=mix)), dataset_of(config)
    frames = Counter()
    for position in range(12_000):
        window = order[position]
        frames[names[window.clip]] += window.shape.num_frames
    shown = {name: frames[name] / frames.total() for name in frames}
    assert shown == pytest.approx({name: part / sum(expected.values()) for name, part in expected.items()}, abs=0.01)


def test_what_takes_a_windows_place_has_its_shape(config):
    order = order_of(config)
    for position in (0, 7, 333):
        window, others = order[position], [order.instead_of(position, attempt=n) for n in (1, 2, 3)]
        assert {(other.view, other.shape, other.position) for other in others} == {
            (window.view, window.shape, position)
        }
    assert len({(other.clip, other.first) for other in others}) > 1


# ------------------------------------------------------------------------------------------------------------- batches


def keys_and_shapes(batches):
    return [(batch.keys, tuple(batch.frames.shape), batch.frames.sum().item()) for batch in batches]


@pytest.mark.parametrize("images", [0, 1])
def test_batches_have_one_shape_and_go_on_from_a_state(config, images):
    config = dataclasses.replace(config, images_per_clip=images)
    with TrainLoader(config, device=CPU) as loader:
        batches = [next(loader) for _ in range(4)]
        state = loader.state_dict()
        batches += [next(loader) for _ in range(8)]
        assert loader.shown_frames == sum(2 * (batch.frames.shape[1] + images) for batch in batches)
    assert len({batch.frames.shape for batch in batches}) > 2
    for batch in batches:
        assert batch.disparity.shape == batch.frames[:, :, 0].shape
        assert images == 0 or batch.images.frames.shape == (2, 1, 3, 56, 56)
    with TrainLoader(dataclasses.replace(config, batch=1), device=CPU) as one:  # half as many at a time
        one.load_state_dict(state)
        halves = [next(one) for _ in range(16)]
    assert [half.keys[0] for half in halves] == [key for batch in batches[4:] for key in batch.keys]
    assert all(half.frames.shape[1:] == batches[4 + n // 2].frames.shape[1:] for n, half in enumerate(halves))


def test_ranks_have_the_same_shape_at_a_step(config):
    with TrainLoader(config, device=CPU) as loader:
        expected = keys_and_shapes([next(loader) for _ in range(6)])
    parts = []
    for rank in (0, 1):
        with TrainLoader(dataclasses.replace(config, batch=1), rank=rank, world_size=2, device=CPU) as loader:
            parts.append(keys_and_shapes([next(loader) for _ in range(6)]))
    for (keys, shape, _), *ranks in zip(expected, *parts, strict=True):
        assert keys == tuple(key for (key,), _, _ in ranks)
        assert all(own == (1, *shape[1:]) for _, own, _ in ranks)


def test_a_batch_that_would_cut_a_block_is_refused(config):
    with TrainLoader(config, device=CPU) as loader:
        next(loader)
        state = loader.state_dict()
    with (
        TrainLoader(dataclasses.replace(config, batch=3), device=CPU) as other,
        pytest.raises(UsageError, match=r"--batch 3 on 1 ranks: .* 2 windows of one shape follow .* this is window 2"),
    ):
        other.load_state_dict(state)
    with TrainLoader(dataclasses.replace(config, seed=9), device=CPU) as other, pytest.raises(DataError, match="seed"):
        other.load_state_dict(state)


def test_what_buckets_do_not_go_together_with(config):
    with pytest.raises(UsageError, match="--order sequential does not go together with --aspect native"):
        dataclasses.replace(config, order="sequential")
    with pytest.raises(UsageError, match="no window is left to train on"):
        order_of(dataclasses.replace(config, mix="wide=0,tall=0,plain=0"))


def test_memory_is_planned_for_the_largest_views(config):
    planned = Inputs.of(config).frames
    assert planned.shape[-2:] == largest_view(config)
    for bucket in order_of(config).buckets:
        assert planned.shape[-1] * planned.shape[-2] >= bucket.view[0] * bucket.view[1]
    assert Inputs.of(dataclasses.replace(config, aspect="square")).frames.shape[-2:] == (56, 56)


def batch_of(num_frames, height, width):
    per_pixel, per_frame = torch.zeros(1, num_frames, height, width), torch.zeros(1, num_frames)
    return Batch(
        frames=torch.zeros(1, num_frames, 3, height, width),
        differences=torch.zeros(1, num_frames, 3, height * 4 // 14, width * 4 // 14),
        diff_valid=per_frame.bool(),
        disparity=per_pixel,
        mask=per_pixel.bool(),
        intrinsics=torch.ones(1, num_frames, 4),
        camera_to_world=None,
        disparity_range=torch.tensor([[0.0, 1.0]]),
        datasets=("d",),
        keys=("k",),
        taught=torch.tensor([False]),
    )


def test_each_shape_is_compiled_once(config, monkeypatch):
    really, made = torch.compile, []

    def count(graph, _):
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **how: really(model, backend=count, **how))
    torch.compiler.reset()
    forward = CompiledForward(Toy(), compiled=True, shapes=count_shapes(config), warn=pytest.fail)
    shapes = sorted({(frames, *view) for frames in (2, 4) for view in view_sizes(112)})
    assert len(shapes) > 8  # torch's own limit
    for frames, height, width in 2 * shapes:
        assert forward(batch_of(frames, height, width)).shape == (1, frames, height, width)
    assert len(made) == len(shapes)


class _StopAt(Callback):
    """Moves a clock beyond its limit after some steps."""

    def __init__(self, step):
        self.step, self.now = step, 0

    def on_advance(self, step):
        self.now = int(step >= self.step)


def test_a_run_that_was_stopped_ends_with_the_same_weights(config, tmp_path):
    config = dataclasses.replace(config, steps=6, warmup=2, log_every=1, eval_split="none", track="none")
    train(config, out=tmp_path / "whole")
    clock = _StopAt(3)
    first = train(config, out=tmp_path / "cut", callbacks=[clock], stop=StopRequest(1, now=lambda: clock.now))
    assert first.step == 3
    assert train(config, out=tmp_path / "cut", resume=True).step == 6
    whole, cut = (tensor_files.load(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert (whole["position"], whole["block"]) == (cut["position"], cut["block"]) == (12, 2)
    assert all(torch.equal(value, cut["model"][name]) for name, value in whole["model"].items())
