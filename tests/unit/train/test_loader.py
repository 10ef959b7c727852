"""The loaders: batches of training and of evaluation, and the state that they go on from."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader

from vdaprep.errors import DataError
from vdatrain.data.dataset import ShardDataset
from vdatrain.data.loader import eval_loader, train_loader

SMALL = {"frames": 2, "size": 28, "seed": 3, "workers": 1}


def take(loader, count):
    return [next(loader) for _ in range(count)]


def assert_same(ours, theirs):
    assert [batch.keys for batch in ours] == [batch.keys for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.disparity, other.disparity)


@pytest.mark.parametrize("order", ["shuffle", "sequential"])
def test_a_loader_goes_on_from_its_state(toy_shards, order):
    with train_loader(toy_shards, order=order, **SMALL) as loader:
        assert iter(loader) is loader
        take(loader, 3)
        loader.prepare()  # which is not taken
        state = loader.state_dict()
        assert state["position"] == 6
        expected = take(loader, 3)
    assert expected[0].frames.shape == (2, 2, 3, 28, 28)
    with train_loader(toy_shards, order=order, **SMALL) as again:
        take(again, 1)
        again.load_state_dict(state)
        assert_same(take(again, 3), expected)


def test_ranks_take_turns(toy_shards):
    with train_loader(toy_shards, batch=2, **SMALL) as loader:
        whole = [key for batch in take(loader, 2) for key in batch.keys]
    parts = []
    for rank in range(2):
        with train_loader(toy_shards, batch=1, rank=rank, world_size=2, **SMALL) as loader:
            parts.append([key for batch in take(loader, 2) for key in batch.keys])
            assert loader.state_dict()["position"] == 4
    assert [key for keys in zip(*parts, strict=True) for key in keys] == whole


def test_a_state_of_another_order_is_refused(toy_shards):
    with train_loader(toy_shards, **SMALL) as loader:
        state = loader.state_dict()
    other = train_loader(toy_shards, **{**SMALL, "seed": 4})
    with pytest.raises(DataError, match=r"is of another order: its seed is 3, here it is 4"):
        other.load_state_dict(state)


def test_an_evaluation_shows_whole_frames_in_order(toy_shards):
    loader = eval_loader(toy_shards, split="train", frames=4, size=28)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert batches[0].frames.shape == (1, 4, 3, 28, 42)
    assert [batch.keys for batch in batches] == sorted(batch.keys for batch in batches)
    assert len(eval_loader(toy_shards, split="train", frames=4, size=28, windows=3)) == 3
    parts = [eval_loader(toy_shards, split="train", frames=4, size=28, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(batch.keys for part in parts for batch in part) == sorted(batch.keys for batch in batches)


# ------------------------------------------------------------------------------------------------------------- dataset


def positions(samples, count):
    return [sample.window.position for sample in itertools.islice(samples, count)]


def test_a_dataset_has_the_order_of_training(toy_shards):
    dataset = ShardDataset(toy_shards, frames=2, seed=3)
    found = list(itertools.islice(dataset, 6))
    with train_loader(toy_shards, **SMALL) as loader:
        assert [sample.key for sample in found] == [key for batch in take(loader, 3) for key in batch.keys]
    assert dataset.state_dict()["position"] == 6
    again = ShardDataset(toy_shards, frames=2, seed=3)
    again.load_state_dict(dataset.state_dict())
    assert positions(again, 3) == [6, 7, 8]
    with pytest.raises(DataError, match="is of another order: its seed"):
        ShardDataset(toy_shards, frames=2, seed=4).load_state_dict(dataset.state_dict())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_data_loader_reads_each_position_once(toy_shards, workers):
    dataset = ShardDataset(toy_shards, frames=2, seed=3, rank=1, world_size=2)
    assert positions(DataLoader(dataset, batch_size=None, num_workers=workers), 7) == list(range(1, 15, 2))
