"""Read the frames of a video file, a folder of images or a shard, one after the other."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.names import record_name
from vdaprep.shards.reader import Clip
from vdaprep.shards.records import ShardRecord
from vdaprep.storage.paths import StoragePath, open_path, read_bytes
from vdatrain.data.decode import decode_images
from vdatrain.data.prefetch import Pace, Stalled, map_ahead
from vdatrain.data.sampler import DistributedPositions, Window, WindowShape
from vdatrain.data.samples import Sample
from vdatrain.data.stream import FaultPolicy, stall_error, stream_batches
from vdatrain.inference.image_folder import IMAGE_SUFFIXES, open_folder, open_image
from vdatrain.inference.video import DEFAULT_DIFF, DEFAULT_FPS, Video, VideoFrame, checked
from vdatrain.inference.video_file import open_video_file

_META_THREADS = 8  # each metadata of a shard behind a URL takes a round trip


def open_video(path: Path | str, *, trajectory: str | None = None, stall_timeout_s: int | float = 300) -> Video:
    """Open a video.

    Args:
        path: Anything that PyAV reads, a folder of images, or a shard (`.tar`), which may be behind a URL.
        trajectory: Which one, of a shard that has several.
        stall_timeout_s: Seconds that reading a frame of a shard may take; 0: no limit.

    Returns:
        The video; its frames are read when they are asked for.

    Raises:
        DataError: There is nothing at `path`, or it is no video.
        ShardError: The shard is damaged or cannot be read.
        UsageError: The shard has several trajectories and `trajectory` is none of them, or a URL names no shard.
    """
    found = open_path(path)
    if found.suffix == ".tar":
        return _open_shard(found, trajectory, stall_timeout_s)
    if trajectory is not None:
        raise UsageError(f"{found}: --trajectory chooses from a shard, which is a .tar file; leave it out here.")
    if not isinstance(found, Path):
        raise UsageError(f"{found}: of URLs only shards (.tar) are read; download it and give the file.")
    if found.is_dir():
        return open_folder(found)
    if not found.is_file():
        what = "is no file" if found.exists() else "there is no such video"
        raise DataError(f"{found}: {what}; give a video file, a folder of images or a shard.")
    image = open_image(found) if found.suffix.lower() in IMAGE_SUFFIXES else None
    return image or open_video_file(found)


# ------------------------------------------------------------------------------------------------------------- shards


def _open_shard(tar: StoragePath, trajectory: str | None, stall_timeout_s: int | float) -> Video:
    record_path = tar.with_name(record_name(tar.name))
    try:
        data = read_bytes(record_path)
    except FileNotFoundError as error:
        raise DataError(
            f"{record_path}: is missing; a shard is read with the record that vdaprep wrote beside it."
        ) from error
    record = ShardRecord.from_bytes(data, where=str(record_path))
    found = by_trajectory([Clip("", tar, entry) for entry in record.clips], stall_timeout_s=stall_timeout_s)
    names = [name for _, name in found]
    if trajectory is None and len(names) == 1:
        trajectory = names[0]
    if trajectory not in names:
        asked = "choose one with --trajectory" if trajectory is None else f"--trajectory {trajectory} is not one"
        raise UsageError(f"{tar}: holds the trajectories {', '.join(names)}; {asked}.")
    clips = found["", trajectory]

    def frames() -> Iterator[tuple[str, VideoFrame]]:
        for number, sample, row in read_trajectory(clips, stall_timeout_s=stall_timeout_s):
            [rgb] = decode_images(sample.images[row : row + 1], sample.size)
            yield (
                f"{tar}, clip {sample.key}",
                VideoFrame(number, rgb.numpy(), number / DEFAULT_FPS, sample.intrinsics[row]),
            )

    diff = clips[0].meta.diff or DEFAULT_DIFF
    return Video(
        lambda: checked(frames(), where=str(tar)), num_frames=sum(clip.num_frames for clip in clips), diff=diff
    )


def by_trajectory(clips: Sequence[Clip], *, stall_timeout_s: int | float = 300) -> dict[tuple[str, str], list[Clip]]:
    """Group clips by data set and trajectory, both sorted, in the order of frames."""
    found: defaultdict[tuple[str, str], list[tuple[int, Clip]]] = defaultdict(list)
    for clip, meta in zip(clips, _read_metas(clips, FaultPolicy(stall_timeout_s=stall_timeout_s)), strict=True):
        found[clip.dataset, meta.trajectory].append((meta.frame_ids[0], clip))
    return {key: [clip for _, clip in sorted(items, key=lambda item: item[0])] for key, items in sorted(found.items())}


def _read_metas(clips: Sequence[Clip], faults: FaultPolicy) -> Iterator[ClipMeta]:
    pace = Pace(_META_THREADS, ahead=2 * _META_THREADS, patience_s=faults.stall_timeout_s)
    with closing(map_ahead(lambda clip: clip.meta, iter(clips), pace=pace)) as metas:
        try:
            yield from metas
        except Stalled as stalled:
            assert isinstance(stalled.item, Clip)
            raise stall_error(stalled.item, faults) from None


def read_trajectory(clips: Sequence[Clip], *, stall_timeout_s: int | float = 300) -> Iterator[tuple[int, Sample, int]]:
    """Yield the number of each frame, a window that has it, and its row there.

    Numbers of missing frames are left out. A window is a frame, or a group of video, which is decoded once; a thread
    reads them ahead. Raises ShardError where one cannot be read, VdakitError where that takes longer than
    `stall_timeout_s` seconds; 0: no limit.
    """
    share, faults = DistributedPositions(batch=1), FaultPolicy(stall_timeout_s=stall_timeout_s)
    number = -1
    with closing(stream_batches(clips, _groups(clips), positions=share, workers=1, faults=faults)) as batches:
        for [sample] in batches:
            meta = clips[sample.window.clip].meta
            for row, frame in enumerate(sample.window.frame_numbers):
                number += 2 if meta.diff is not None and not meta.diff_valid[frame] else 1
                yield number, sample, row


def _groups(clips: Sequence[Clip]) -> list[Window]:
    """Return a window of each group of video, or of each frame where these are stored alone."""
    found: list[Window] = []
    for number, clip in enumerate(clips):
        group = clip.meta.rgb.group
        for first in range(0, clip.num_frames, group):
            shape = WindowShape(min(group, clip.num_frames - first))
            found.append(Window(len(found), number, first, shape))
    return found
