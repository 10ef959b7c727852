"""Cutting and planning lose no frame and depend on nothing but the frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdaprep.conversion.clips import cut, cut_trajectory, plan_shards, runs
from vdaprep.raw.frames import FrameFiles, Trajectory
from vdaprep.raw.tree import Location

IMAGE = Location("", "image.png")


def trajectory(name: str, ids: list[int]) -> Trajectory:
    return Trajectory(name, "v1", tuple(FrameFiles(i, Location("", f"{i}.png"), None) for i in ids))


@given(st.integers(0, 5000), st.integers(1, 300))
def test_pieces_are_near_equal_and_lose_nothing(length: int, at_most: int) -> None:
    pieces = cut(length, at_most=at_most)
    sizes = [stop - start for start, stop in pieces]
    assert [i for start, stop in pieces for i in range(start, stop)] == list(range(length))
    assert all(1 <= size <= at_most for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert len(pieces) == -(-length // at_most)


@given(st.sets(st.integers(0, 60)))
def test_runs_have_no_holes(numbers: set[int]) -> None:
    ids = sorted(numbers)
    ranges = runs(ids)
    assert [ids[i] for start, stop in ranges for i in range(start, stop)] == ids
    assert all(ids[stop - 1] - ids[start] == stop - start - 1 for start, stop in ranges)
    assert all(ids[b] > ids[a - 1] + 1 for (_, a), (b, _) in zip(ranges, ranges[1:], strict=False))


def test_a_hole_separates_clips_and_is_remembered() -> None:
    clips = cut_trajectory(trajectory("a", [0, 1, 2, 5, 6, 7, 8]), clip_frames=3)
    assert [(clip.start, clip.stop, clip.after_gap) for clip in clips] == [(0, 3, True), (3, 5, True), (5, 7, False)]


@given(st.lists(st.integers(1, 40), max_size=8), st.integers(1, 20), st.integers(1, 50))
def test_shards_take_every_clip_once(lengths: list[int], clip_frames: int, frames_per_shard: int) -> None:
    items = [trajectory(f"t{i}", list(range(length))) for i, length in enumerate(lengths)]
    shards = plan_shards(items, split="train", clip_frames=clip_frames, frames_per_shard=frames_per_shard)
    seen = [(clip.trajectory.name, i) for shard in shards for clip in shard.clips for i in range(clip.start, clip.stop)]
    assert seen == [(f"t{i}", n) for i, length in enumerate(lengths) for n in range(length)]
    assert [shard.number for shard in shards] == list(range(1, len(shards) + 1))
    assert all(shard.num_frames <= max(frames_per_shard, clip_frames) for shard in shards)
    assert all(shard.num_frames <= frames_per_shard or len(shard.clips) == 1 for shard in shards)


def test_the_plan_does_not_depend_on_the_order_of_finding() -> None:
    items = [trajectory(name, list(range(5))) for name in "cab"]
    plans = [
        plan_shards(order, split="train", clip_frames=3, frames_per_shard=6) for order in (items, list(reversed(items)))
    ]
    assert plans[0] == plans[1]
    assert [shard.fingerprint() for shard in plans[0]] == [shard.fingerprint() for shard in plans[1]]
    assert len({shard.fingerprint() for shard in plans[0]}) == len(plans[0])


@pytest.mark.parametrize(
    ("stride", "first_frames", "expected"),
    [(1, 3, [0, 1, 2, 3]), (1, 6, [0, 1, 2, 3, 8, 9]), (3, 5, [0, 3, 9]), (1, None, [0, 1, 2, 3, 8, 9])],
)
def test_the_first_frames_are_whole_ones(stride: int, first_frames: int | None, expected: list[int]) -> None:
    """Frame 1 has no depth map and counts as none."""
    frames = [FrameFiles(i, IMAGE, None if i == 1 else IMAGE) for i in (0, 1, 2, 3, 8, 9)]
    clips = cut_trajectory(
        Trajectory("a", "v1", tuple(frames)), clip_frames=3, stride=stride, first_frames=first_frames
    )
    assert [clip.trajectory.frame_ids[index] for clip in clips for index in clip.indices] == expected
