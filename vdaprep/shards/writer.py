"""Shards: a tar written whole or not at all, then its record; and the reading of both."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vdaprep.shards.codec import encoder_version
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.names import record_name
from vdaprep.shards.records import ClipEntry, Rejection, ShardRecord, codec_of, version_of
from vdaprep.shards.tar import TarWriter
from vdaprep.storage.output import OutputDir, write_file


@dataclass(frozen=True)
class EncodedClip:
    """A clip ready to be written."""

    key: str
    """The clip's key."""
    meta: ClipMeta
    """Its metadata."""
    frames: tuple[tuple[tuple[str, bytes], ...], ...]
    """The members of each frame as (kind, bytes), in the order of the shard."""
    clamped_near: int
    """Pixels nearer than the depth code reaches."""
    clamped_far: int = 0
    """Pixels farther than it reaches."""


def write_clip(tar: TarWriter, clip: EncodedClip) -> tuple[ClipEntry, int]:
    """Append a clip; returns its entry, and how many pixels were nearer than near_m."""
    start = tar.offset
    checksums = [tar.add(clip.key, None, (("json", clip.meta.to_bytes()),))]
    frame_offsets: list[int] = []
    for number, members in enumerate(clip.frames):
        frame_offsets.append(tar.offset)
        checksums.append(tar.add(clip.key, number, members))
    entry = ClipEntry(
        clip.key, start, tar.offset - start, len(clip.frames), tuple(frame_offsets), crc32=tuple(checksums)
    )
    return entry, clip.clamped_near


def write_shard(
    output: OutputDir,
    name: str,
    clips: Iterable[EncodedClip],
    *,
    options: Mapping[str, Any],
    plan: str,
    rejected: list[Rejection],
) -> ShardRecord:
    """Write a tar, complete or not at all, then its record; a shard without record is none.

    `name` is the tar's path below the output. `rejected` is read after the last clip, so that encoding may add to it.
    Raises OutputError if either cannot be stored.
    """
    clamped_far: Counter[str] = Counter()
    with output.new_file(name) as file:
        tar = TarWriter(file)
        entries = [write_clip(tar, clip) for clip in _counted(clips, clamped_far)]
        tar.finish()
    record = ShardRecord(
        tar_name=name.rpartition("/")[2],
        tar_bytes=tar.offset,
        tar_sha256=tar.sha256,
        clips=tuple(entry for entry, _ in entries),
        options=options,
        plan=plan,
        kinds={kind: [tar.members[kind], tar.bytes[kind]] for kind in sorted(tar.members)},
        rejected=tuple(rejected),
        clamped_near=sum(clamped for _, clamped in entries),
        clamped_far=dict(clamped_far),
        encoders=_encoders(options),
        schema_version=version_of(options),
    )
    write_file(output, record_name(name), record.to_bytes())
    return record


def _encoders(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the encoder of video that the options ask for, and its version, by codec."""
    name = codec_of(options)
    return {} if name == "jpeg" else {name: encoder_version(name)}


def _counted(clips: Iterable[EncodedClip], clamped_far: Counter[str]) -> Iterator[EncodedClip]:
    """Yield clips, adding pixels beyond the far end to their trajectory's count."""
    for clip in clips:
        if clip.clamped_far:
            clamped_far[clip.meta.trajectory] += clip.clamped_far
        yield clip
