"""The order of windows, and who reads which."""

import itertools
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.names import DATASET_FILE
from vdatrain.config import Mix, parse_mix
from vdatrain.data.sampler import (
    MAX_STRIDE,
    ClipWeight,
    DistributedPositions,
    EvalSampler,
    WindowSampler,
    WindowShape,
    dataset_weights,
    expected_shares,
)

shapes = st.builds(WindowShape, num_frames=st.integers(1, 6), stride=st.integers(1, 4))
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(tuple)


def _epoch(order, epoch):
    count = order.windows_per_epoch
    return [order[epoch * count + row] for row in range(count)]


def _starts(windows):
    return [(window.clip, window.first) for window in windows]


# ------------------------------------------------------------------------------------------------------------ training


@given(lengths, shapes, st.integers(0, 5), st.integers(0, 2**40))
def test_an_epoch_has_every_clips_windows_once_each_in_its_stretch(lengths, shape, epoch, seed):
    if max(lengths) < shape.span:
        with pytest.raises(UsageError, match="the longest clip has"):
            WindowSampler(lengths, shape, seed)
        return
    order = WindowSampler(lengths, shape, seed)
    windows = _epoch(order, epoch)
    assert [window.position for window in windows] == [epoch * len(windows) + i for i in range(len(windows))]
    for clip, length in enumerate(lengths):
        firsts = sorted(window.first for window in windows if window.clip == clip)
        assert len(firsts) == length // shape.span
        stretch = (length - shape.span + 1) / max(1, len(firsts))
        assert all(int(n * stretch) <= first < (n + 1) * stretch for n, first in enumerate(firsts))
        assert all(first + shape.span <= length for first in firsts)
    assert order.clips_left_out == sum(length < shape.span for length in lengths)
    assert all(len(window.frame_numbers) == shape.num_frames for window in windows)


def test_the_order_is_the_same_on_every_machine():
    order = WindowSampler((9, 3, 12, 8, 17), WindowShape(4), seed=7)
    assert [_starts(_epoch(order, epoch)) for epoch in (0, 1)] == [
        [(4, 11), (4, 8), (0, 5), (0, 1), (2, 2), (2, 3), (2, 6), (4, 2), (3, 2), (4, 6), (3, 2)],
        [(0, 2), (4, 1), (2, 7), (3, 1), (4, 8), (4, 11), (3, 4), (4, 4), (0, 3), (2, 3), (2, 0)],
    ]


def test_epochs_and_seeds_differ_in_order_and_in_cuts():
    order = WindowSampler((30,) * 20, WindowShape(8), seed=0)
    first, second = _starts(_epoch(order, 0)), _starts(_epoch(order, 1))
    assert first != second
    assert set(first) != set(second)
    assert [clip for clip, _ in first] != sorted(clip for clip, _ in first)
    assert first != _starts(_epoch(WindowSampler((30,) * 20, WindowShape(8), seed=1), 0))


def test_every_first_frame_comes_up():
    order = WindowSampler((10,), WindowShape(8), seed=0)
    assert {order[position].first for position in range(40)} == {0, 1, 2}
    twice_the_span = WindowSampler((16,), WindowShape(8), seed=0)
    assert {twice_the_span[position].first for position in range(200)} == set(range(9))


def test_a_window_without_an_answer_is_refused():
    for num_frames, stride in [(0, 1), (4, 0), (4, MAX_STRIDE + 1)]:
        with pytest.raises(UsageError, match="a window needs"):
            WindowShape(num_frames, stride)


# ----------------------------------------------------------------------------------------------------------------- mix


def _counts(order, epoch):
    windows = _epoch(order, epoch)
    return [sum(window.clip == clip for window in windows) for clip in range(len(order.lengths))]


def test_repeats_show_windows_more_often_each_time_cut_anew():
    once = WindowSampler((40, 23, 17), WindowShape(4), seed=5)
    order = WindowSampler((40, 23, 17), WindowShape(4), seed=5, weights=(ClipWeight(2), ClipWeight(1, 3)))
    assert _counts(once, 0) == [10, 5, 4]
    for epoch in (0, 1, 7):
        assert _counts(order, epoch) == [10, 5, 12]
    assert len({window.first for window in _epoch(order, 0) if window.clip == 2}) > 4
    clips = [window.clip for window in _epoch(order, 0)]
    assert clips != sorted(clips)


@given(lengths, st.integers(0, 30), st.integers(0, 99))
def test_a_fraction_is_that_share_of_the_windows_another_one_each_epoch(lengths, tenths, seed):
    shape = WindowShape(2)
    total = sum(length // 2 for length in lengths)
    count = int(tenths / 10 * total + 0.5)
    if not count:
        return
    order = WindowSampler(lengths, shape, seed, weights=(ClipWeight(len(lengths), tenths / 10),))
    assert order.windows_per_epoch == count
    for epoch in (0, 3):
        found = _counts(order, epoch)
        assert sum(found) == count
        whole = count // total
        assert all(whole * (n // 2) <= k <= (whole + 1) * (n // 2) for n, k in zip(lengths, found, strict=True))


def test_halves_differ_between_epochs_and_are_the_same_on_every_machine():
    order = WindowSampler((12, 12, 12), WindowShape(4), seed=1, weights=(ClipWeight(1), ClipWeight(2, 0.5)))
    assert [_starts(_epoch(order, epoch)) for epoch in (0, 1)] == [
        [(2, 5), (0, 7), (0, 2), (2, 7), (1, 6), (0, 4)],
        [(2, 8), (0, 8), (0, 0), (0, 4), (2, 0), (1, 1)],
    ]


def test_a_data_set_may_be_left_out():
    order = WindowSampler((12, 12), WindowShape(4), weights=(ClipWeight(1, 0), ClipWeight(1)))
    assert _counts(order, 0) == [0, 3]
    with pytest.raises(UsageError, match="no window is left to train on"):
        WindowSampler((12, 3), WindowShape(4), weights=(ClipWeight(1, 0), ClipWeight(1)))


@pytest.mark.parametrize(("text", "mix"), [("", {}), ("a=1", {"a": 1.0}), ("a=1.5, b-c = 0", {"a": 1.5, "b-c": 0.0})])
def test_a_mix_is_read(text, mix):
    assert parse_mix(text) == Mix(mix)


def test_a_mix_of_frames_is_read():
    assert parse_mix("a=40%, b-c = 60 %") == Mix({"a": 0.4, "b-c": 0.6}, of_frames=True)
    assert parse_mix("a=33%,b=33%,c=33%").of_frames
    with pytest.raises(UsageError, match=r"--mix a=40%,b=50%: the shares add up to 90 %; expected 100\.$"):
        parse_mix("a=40%,b=50%")


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a=",
        "=2",
        "a=x",
        "a=1,a=2",
        "a=-1",
        "a=nan",
        "a=inf",
        "a=1,,b=2",
        "a=1001",
        ",",
        "a=50%,b=1",
        "a=101%",
        "a=%",
    ],
)
def test_a_mix_that_is_none_is_one_sentence(text):
    with pytest.raises(UsageError, match="is not understood; expected each data set once") as caught:
        parse_mix(text)
    assert str(caught.value).startswith(f"--mix {text}: ")


def test_a_mix_names_data_sets_that_are_there(toy_shards):
    clips = open_shards(toy_shards).clips(split="train")
    assert dataset_weights(clips, Mix({"beta": 2.5}), WindowShape(1)) == (ClipWeight(5), ClipWeight(2, 2.5))
    with pytest.raises(UsageError, match=r"--mix gamma=2: the shards have alpha, beta only\.$"):
        dataset_weights(clips, Mix({"beta": 1.0, "gamma": 2.0}), WindowShape(1))
    with pytest.raises(UsageError, match=r"--mix gamma=50%: the shards have alpha, beta only\.$"):
        dataset_weights(clips, parse_mix("beta=50%,gamma=50%"), WindowShape(1))


@pytest.mark.parametrize("text", ["alpha=50%,beta=50%", "alpha=10%,beta=90%", "beta=100%"])
def test_shares_of_frames_are_what_an_epoch_shows(toy_shards, text):
    clips, shape = open_shards(toy_shards).clips(split="train"), WindowShape(2)
    mix = parse_mix(text)
    order = WindowSampler(clips.lengths, shape, weights=dataset_weights(clips, mix, shape))
    shown = Counter(clips[window.clip].dataset for window in order.epoch(0))
    assert expected_shares(clips, mix) == {name: share for name, share in mix.numbers.items() if share}
    for name, share in mix.numbers.items():
        assert abs(shown[name] - share * order.windows_per_epoch) <= 1


def test_a_share_that_no_window_can_fill_is_one_sentence(toy_shards):
    clips = open_shards(toy_shards).clips(split="train")
    longest = max(clip.num_frames for clip in clips if clip.dataset == "alpha")
    with pytest.raises(UsageError, match=r"--mix alpha=50%: it has 0 windows of .* give it a smaller share"):
        dataset_weights(clips, parse_mix("alpha=50%,beta=50%"), WindowShape(longest + 1))


def test_without_shares_the_frames_decide_what_is_expected(toy_shards):
    clips = open_shards(toy_shards).clips(split="train")
    frames = Counter({clip.dataset: 0 for clip in clips})
    for clip in clips:
        frames[clip.dataset] += clip.num_frames
    shares = expected_shares(clips, Mix({"beta": 3.0}))
    assert shares["beta"] == pytest.approx(3 * frames["beta"] / (frames["alpha"] + 3 * frames["beta"]))
    assert expected_shares(clips, Mix({"alpha": 0.0})) == {"beta": 1}


# -------------------------------------------------------------------------------------------------------------- images


def test_images_are_all_frames_once_an_epoch():
    order = WindowSampler((9, 3, 12), WindowShape(4, stride=2), seed=2).of_images()
    assert order.windows_per_epoch == 24
    assert {(w.clip, *w.frame_numbers) for w in _epoch(order, 1)} == {
        (clip, frame) for clip, length in enumerate((9, 3, 12)) for frame in range(length)
    }


# ---------------------------------------------------------------------------------------------------------- evaluation


@given(lengths, shapes)
def test_evaluation_sees_every_frame_once_but_for_repeats(lengths, shape):
    if max(lengths) < shape.span:
        return
    order = EvalSampler(lengths, shape)
    windows = [order[position] for position in range(len(order))]
    assert _starts(windows) == sorted(_starts(windows))
    for clip, length in enumerate(lengths):
        own = [window for window in windows if window.clip == clip]
        fresh = [frame for w in own for frame in range(w.first + w.repeats, w.first + shape.span)]
        assert fresh == (list(range(length)) if length >= shape.span else [])
        assert all(window.repeats == 0 for window in own[:-1])
    assert order.clips_left_out == sum(length < shape.span for length in lengths)


# --------------------------------------------------------------------------------------------------------------- ranks


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 60)))
def test_ranks_interleave_to_one_sequence(batch, world, start, total):
    def batches(share):
        positions = share.positions(total=total)
        return [list(itertools.islice(positions, share.batch)) for _ in range(5)]

    whole = batches(DistributedPositions(batch * world, start=start))
    expected = range(start, start + 5 * batch * world)
    assert [p for group in whole for p in group] == [p for p in expected if total is None or p < total]
    ranks = [batches(DistributedPositions(batch, rank, world, start)) for rank in range(world)]
    for number, group in enumerate(whole):
        parts = [rank[number] for rank in ranks]
        assert [parts[i % world][i // world] for i in range(len(group))] == group
    assert DistributedPositions(batch, 0, world, start).start_after(2) == start + 2 * batch * world


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 9), st.integers(1, 5))
def test_so_many_images_belong_to_each_window(batch, world, start, per_clip):
    """Those beside the global batch of positions a to b - 1 are images a * per_clip to b * per_clip - 1."""
    shares = [DistributedPositions(batch, rank, world, start).of_images(per_clip) for rank in range(world)]
    found = sorted(p for share in shares for p in itertools.islice(share.positions(total=None), share.batch))
    assert found == list(range(start * per_clip, (start + batch * world) * per_clip))


def test_a_share_without_sense_is_refused():
    for share in [{"batch": 0}, {"batch": 1, "rank": 1}, {"batch": 1, "rank": -1, "world": 2}]:
        with pytest.raises(UsageError, match="cannot be"):
            DistributedPositions(**share)


# --------------------------------------------------------------------------------------------------------------- index


def test_the_index_lists_every_clip_of_a_split_in_a_fixed_order(toy_shards):
    clips = open_shards(toy_shards).clips(split="train")
    assert [(clip.dataset, clip.num_frames) for clip in clips] == [
        *[("alpha", length) for length in (9, 3, 12, 8, 17)],
        *[("beta", length) for length in (10, 8)],
    ]
    assert open_shards(toy_shards / "beta").clips(split="train") == clips[5:]


def test_a_split_may_be_in_one_data_set_only(tmp_path, write_dataset):
    write_dataset(tmp_path / "a", lengths=(4,))
    write_dataset(tmp_path / "b", lengths=(5,), split="val")
    assert [clip.dataset for clip in open_shards(tmp_path).clips(split="val")] == ["b"]
    with pytest.raises(DataError, match=r"no data set here has clips in split 'test', found train, val\.$"):
        open_shards(tmp_path).clips(split="test")


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_no_shards_at_all(tmp_path, place):
    with pytest.raises(DataError, match="`vdaprep convert` makes") as caught:
        open_shards(tmp_path / place).clips(split="train")
    assert str(tmp_path / place) in str(caught.value)


def _break(folder: Path, what: str) -> None:
    tar, record = folder / "train" / "shard-0002.tar", folder / "train" / "shard-0002.json"
    match what:
        case "unfinished":
            (folder / DATASET_FILE).unlink()
        case "cut tar":
            tar.write_bytes(tar.read_bytes()[:-700])
        case "missing tar":
            tar.unlink()
        case "missing record":
            record.unlink()
        case "other record":
            record.write_bytes((folder / "train" / "shard-0001.json").read_bytes())


@pytest.mark.parametrize(
    ("what", "error", "names", "says"),
    [
        ("unfinished", DataError, "alpha", "has shards but no dataset.json"),
        ("cut tar", ShardError, "shard-0002.tar", "cut or damaged"),
        ("missing tar", ShardError, "shard-0002.tar", "is missing"),
        ("missing record", ShardError, "shard-0002.json", "is missing"),
        ("other record", ShardError, "shard-0002.json", "is not the record that dataset.json lists"),
    ],
)
def test_what_is_broken_is_named(tmp_path, toy_shards, what, error, names, says):
    shutil.copytree(toy_shards, tmp_path / "shards")
    _break(tmp_path / "shards" / "alpha", what)
    for place in (tmp_path / "shards", tmp_path / "shards" / "alpha"):
        with pytest.raises(error, match=says) as caught:
            open_shards(place).clips(split="train")
        assert names in str(caught.value)
        assert "\n" not in str(caught.value)
