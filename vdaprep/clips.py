"""Which frames form which clip, and which clip goes into which shard: decided before any frame is read."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vdaprep.frames import Trajectory
from vdaprep.schema import canonical_json


@dataclass(frozen=True)
class PlannedClip:
    """Frames `start` to `stop - 1` of a trajectory; `after_gap`: no frame of the trajectory comes right before it."""

    trajectory: Trajectory
    start: int
    stop: int
    after_gap: bool

    @property
    def num_frames(self) -> int:
        """Frames that the clip has if none is rejected."""
        return self.stop - self.start


@dataclass(frozen=True)
class PlannedShard:
    """The clips of one shard, in order; `number` counts from 1 within the split."""

    split: str
    number: int
    clips: tuple[PlannedClip, ...]

    @property
    def num_frames(self) -> int:
        """Frames that the shard has if none is rejected."""
        return sum(clip.num_frames for clip in self.clips)

    def fingerprint(self) -> str:
        """Return the SHA-256 of what is to go into the shard: trajectories and frame numbers."""
        content = [
            (clip.trajectory.layout, clip.trajectory.name, clip.trajectory.frame_ids[clip.start : clip.stop])
            for clip in self.clips
        ]
        return hashlib.sha256(canonical_json(content)).hexdigest()


def cut(length: int, *, at_most: int) -> list[tuple[int, int]]:
    """Cut `length` frames into the fewest pieces [start, stop) of at most `at_most`, near-equal in length."""
    pieces = -(-length // at_most)
    bounds = [length * i // pieces for i in range(pieces + 1)] if pieces else []
    return list(zip(bounds, bounds[1:], strict=False))


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Split positions into ranges [start, stop) in which the numbers follow one another without a gap."""
    starts = [i for i in range(len(numbers)) if i == 0 or numbers[i] != numbers[i - 1] + 1]
    return list(zip(starts, [*starts[1:], len(numbers)][: len(starts)], strict=True))


def cut_trajectory(trajectory: Trajectory, *, clip_frames: int) -> list[PlannedClip]:
    """Cut a trajectory into clips; a hole in the frame numbers always separates two clips."""
    return [
        PlannedClip(trajectory, first + start, first + stop, after_gap=start == 0)
        for first, last in runs(trajectory.frame_ids)
        for start, stop in cut(last - first, at_most=clip_frames)
    ]


def plan_shards(
    trajectories: Iterable[Trajectory], *, split: str, clip_frames: int, frames_per_shard: int
) -> list[PlannedShard]:
    """Fill shards with clips, in order of the trajectories' names; a shard takes clips up to `frames_per_shard` frames.

    A single clip that is longer gets a shard of its own.
    """
    shards: list[list[PlannedClip]] = []
    room = 0
    for trajectory in sorted(trajectories, key=lambda item: item.name):
        for clip in cut_trajectory(trajectory, clip_frames=clip_frames):
            if clip.num_frames > room:
                shards.append([])
                room = frames_per_shard
            shards[-1].append(clip)
            room -= clip.num_frames
    return [PlannedShard(split, number, tuple(clips)) for number, clips in enumerate(shards, start=1)]
