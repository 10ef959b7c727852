"""Cut trajectories into clips and fill shards with them."""

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vdaprep.raw.frames import Trajectory
from vdaprep.shards.canonical import canonical_json
from vdaprep.shards.names import shard_name


@dataclass(frozen=True)
class PlannedClip:
    """Every `stride`-th frame of a range of a trajectory, by the frames' numbers."""

    trajectory: Trajectory
    """The trajectory."""
    start: int
    """Index of its first frame in `trajectory.frames`."""
    stop: int
    """Index after its last frame."""
    after_gap: bool
    """Whether no frame that is taken precedes it, so that its first frame has no difference."""
    stride: int = 1
    """Difference of the numbers of neighbouring frames."""
    alike: bool = False
    """Whether another trajectory's name comes out the same in keys, which hold a hash then."""

    @property
    def indices(self) -> Sequence[int]:
        """Indices of the clip's frames in `trajectory.frames`."""
        return _every(self.trajectory, range(self.start, self.stop), self.stride)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Give another process the files of this clip's frames, not of its whole trajectory."""
        needed = {*self.indices} if self.before is None else {self.before, *self.indices}
        trajectory = self.trajectory.with_files_of(needed)
        return type(self), (trajectory, self.start, self.stop, self.after_gap, self.stride, self.alike)

    @property
    def num_frames(self) -> int:
        """Frames that the clip has if none is rejected."""
        return len(self.indices)

    @property
    def before(self) -> int | None:
        """Index of the frame that the first one's difference is taken to; None after a gap."""
        if self.after_gap:
            return None
        ids = self.trajectory.frame_ids
        number = ids[self.start] - self.stride
        return next(index for index in range(self.start - 1, -1, -1) if ids[index] == number)


@dataclass(frozen=True)
class PlannedShard:
    """The clips of one shard."""

    split: str
    """`train`, `val`, ..."""
    number: int
    """From 1 within the split."""
    clips: tuple[PlannedClip, ...]
    """In the order of the tar."""

    @property
    def name(self) -> str:
        """The path of the shard's tar below the data set's folder."""
        return f"{self.split}/{shard_name(self.number)}"

    @property
    def num_frames(self) -> int:
        """Frames that the shard has if none is rejected."""
        return sum(clip.num_frames for clip in self.clips)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the shard's content: trajectories and frame numbers."""
        content = [
            (
                clip.trajectory.layout,
                clip.trajectory.name,
                [ids[index] for index in clip.indices],
            )
            for clip in self.clips
            for ids in (clip.trajectory.frame_ids,)
        ]
        return hashlib.sha256(canonical_json(content)).hexdigest()


def cut(length: int, *, at_most: int) -> list[tuple[int, int]]:
    """Cut `length` frames into the fewest near-equal pieces [start, stop) of `at_most`."""
    pieces = -(-length // at_most)
    bounds = [length * i // pieces for i in range(pieces + 1)] if pieces else []
    return list(zip(bounds, bounds[1:], strict=False))


def runs(numbers: Sequence[int], *, stride: int = 1) -> list[tuple[int, int]]:
    """Split positions into ranges [start, stop) whose numbers go up by `stride`."""
    starts = [i for i in range(len(numbers)) if i == 0 or numbers[i] != numbers[i - 1] + stride]
    return list(zip(starts, [*starts[1:], len(numbers)][: len(starts)], strict=True))


def taken(trajectory: Trajectory, *, stride: int, first_frames: int | None = None) -> Sequence[int]:
    """Return the indices of frames whose numbers are the first plus multiples of `stride`.

    With `first_frames` up to the frame with which there are so many that have an image and a depth map.
    """
    return _every(trajectory, range(_end(trajectory, first_frames)), stride)


def _end(trajectory: Trajectory, first_frames: int | None) -> int:
    """Return the index behind the frame that makes `first_frames` whole ones, or the last."""
    count = len(trajectory.frames)
    whole = 0
    for index in range(count if first_frames is not None else 0):
        frame = trajectory.frames[index]
        whole += frame.rgb is not None and frame.depth is not None
        if whole == first_frames:
            return index + 1
    return count


def _every(trajectory: Trajectory, within: range, stride: int) -> Sequence[int]:
    if stride == 1:
        return within
    ids = trajectory.frame_ids
    first = ids[within.start]
    return [index for index in within if (ids[index] - first) % stride == 0]


def cut_trajectory(
    trajectory: Trajectory, *, clip_frames: int, stride: int = 1, first_frames: int | None = None, alike: bool = False
) -> list[PlannedClip]:
    """Cut a trajectory's taken frames into clips; a hole in their numbers separates two."""
    indices = taken(trajectory, stride=stride, first_frames=first_frames)
    ids = trajectory.frame_ids
    numbers = [ids[index] for index in indices]
    return [
        PlannedClip(trajectory, indices[first + start], indices[first + stop - 1] + 1, start == 0, stride, alike)
        for first, last in runs(numbers, stride=stride)
        for start, stop in cut(last - first, at_most=clip_frames)
    ]


def plan_shards(  # noqa: PLR0913 - what cutting takes
    trajectories: Iterable[Trajectory],
    *,
    split: str,
    clip_frames: int,
    frames_per_shard: int,
    stride: int = 1,
    first_frames: int | None = None,
    alike: Container[str] = (),
) -> list[PlannedShard]:
    """Fill shards, up to `frames_per_shard` frames each, with clips in order of names.

    A single clip that is longer gets a shard of its own. Of each trajectory every `stride`-th frame is taken, of the
    `first_frames` if these are given; `alike` are those whose keys would be another's.
    """
    shards: list[list[PlannedClip]] = []
    room = 0
    for trajectory in sorted(trajectories, key=lambda item: item.name):
        hashed = trajectory.name in alike
        for clip in cut_trajectory(
            trajectory, clip_frames=clip_frames, stride=stride, first_frames=first_frames, alike=hashed
        ):
            if clip.num_frames > room:
                shards.append([])
                room = frames_per_shard
            shards[-1].append(clip)
            room -= clip.num_frames
    return [PlannedShard(split, number, tuple(clips)) for number, clips in enumerate(shards, start=1)]
