"""Label frames, into shards of depth kind `relative`.

Which items go into which shard follows from their list; a shard is written whole or not at all, with its record behind
it, and `dataset.json` comes last. So a labelling that was killed goes on with the first shard that has no record, and
ends with the bytes that it would have had.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float32

from vdaprep.errors import UsageError
from vdaprep.shards import codec, writer
from vdaprep.shards.canonical import canonical_json
from vdaprep.shards.metadata import ClipMeta, DepthSpec
from vdaprep.shards.names import DATASET_FILE, record_name, shard_name
from vdaprep.shards.records import DatasetRecord, Rejection, ShardRecord, summary_of, totals
from vdaprep.shards.writer import EncodedClip
from vdaprep.storage.output import LocalOutput, OutputDir, write_file
from vdatrain.inference.labelling.inputs import Item, Piece
from vdatrain.inference.labelling.teacher import Teacher
from vdatrain.inference.video import DEFAULT_DIFF, VideoFrame

FRAMES_PER_SHARD = 1024
"""Frames of a shard, unless a single video has more."""
RELATIVE = DepthSpec("relative", 0.0, packing="nibbles")
"""How labels are stored; each clip takes the packing that takes least."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """What `label_items` wrote."""

    folders: tuple[str, ...]
    """A folder for each data set."""
    clips: int
    """Clips, those of earlier runs included."""
    frames: int
    """Frames of these."""
    rejected: tuple[Rejection, ...]
    """What could not be labelled."""


def label_items(
    items: Sequence[Item],
    teacher: Teacher,
    output: LocalOutput,
    *,
    on_frames: Callable[[int], None] = lambda count: None,
) -> Labelled:
    """Label items, a folder for each of their data sets; whole shards that are there are kept.

    Args:
        items: What waits for labels.
        teacher: What labels it.
        output: Where the folders are written.
        on_frames: Called with numbers of frames that are done.

    Raises:
        UsageError: There are shards of other items, or of another teacher; another process writes there; or an image
            model is to label a video.
        DataError, ShardError: A frame cannot be read.
        OutputError: A shard cannot be written.
    """
    moving = next((item for item in items if item.num_frames != 1), None)
    if moving is not None and not teacher.sees_time:
        raise UsageError(
            f"--teacher {teacher.facts['teacher']}: is an image model, whose scale changes from frame to frame of "
            f"{moving.trajectory}; take a video model, such as vda-small, or give images alone."
        )
    records: list[DatasetRecord] = []
    ordered = sorted(items, key=lambda item: (item.dataset, item.split, item.trajectory))
    for dataset, mine in groupby(ordered, key=lambda item: item.dataset):
        folder = LocalOutput(output.path(dataset), output.min_free)
        with folder.lock():
            records.append(_label_dataset(list(mine), teacher, folder, on_frames))
    return Labelled(
        tuple(output.place(record.dataset) for record in records),
        sum(record.totals["clips"] for record in records),
        sum(record.totals["frames"] for record in records),
        tuple(item for record in records for item in record.rejected),
    )


def _label_dataset(
    items: list[Item], teacher: Teacher, output: OutputDir, on_frames: Callable[[int], None]
) -> DatasetRecord:
    options = _options(items, teacher)
    shards = plan_shards(items)
    _refuse_others(output, shards)
    records = {
        name: _finished(output, name, several, options, on_frames)
        or _write(output, name, several, options, teacher, on_frames)
        for name, several in shards.items()
    }
    splits: dict[str, list[str]] = {}
    for item in items:
        splits.setdefault(item.split, []).append(item.trajectory)
    result = DatasetRecord(
        dataset=items[0].dataset,
        source={**items[0].source, **teacher.facts, "teacher_terms": [asdict(terms) for terms in teacher.terms]},
        options=options,
        splits=splits,
        totals=totals(list(records.values())),
        shards=tuple(summary_of(name.partition("/")[0], record) for name, record in records.items()),
        rejected=tuple(item for record in records.values() for item in record.rejected),
    )
    write_file(output, DATASET_FILE, result.to_bytes())
    return result


def _options(items: Sequence[Item], teacher: Teacher) -> dict[str, Any]:
    """Return what decides the bytes of a data set's shards besides its frames."""
    kinds = list(dict.fromkeys((item.rgb, item.diff) for item in items))
    if len(kinds) > 1:
        raise UsageError(
            f"{items[0].dataset}: its frames are stored in {len(kinds)} ways, expected one; label one input at a time, "
            "each with an --out of its own."
        )
    [(rgb, diff)] = kinds
    return {
        "depth": RELATIVE.to_json(),
        "rgb": rgb,
        "diff": None if diff is None else diff.to_json(),
        **teacher.facts,
    }


def plan_shards(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Fill shards with items in order; returns these by name."""
    found: dict[str, list[Item]] = {}
    for split, several in groupby(items, key=lambda item: item.split):
        number, room = 0, 0
        for item in several:
            if not number or item.num_frames > room:
                number, room = number + 1, FRAMES_PER_SHARD
            found.setdefault(f"{split}/{shard_name(number)}", []).append(item)
            room -= item.num_frames
    return found


def _plan_of(items: Sequence[Item]) -> str:
    return hashlib.sha256(canonical_json([(item.trajectory, item.digest) for item in items])).hexdigest()


def _refuse_others(output: OutputDir, planned: Mapping[str, object]) -> None:
    for name in output.names("*/shard-*.tar"):
        if name not in planned:
            raise UsageError(f"{output.place(name)}: is not of these inputs; choose another --out, or delete it.")


def _finished(
    output: OutputDir,
    name: str,
    items: Sequence[Item],
    options: Mapping[str, Any],
    on_frames: Callable[[int], None],
) -> ShardRecord | None:
    """Return the record of a whole shard; raises UsageError for one of others."""
    if output.size(record_name(name)) is None:
        return None
    record = ShardRecord.from_bytes(output.read(record_name(name)), where=output.place(record_name(name)))
    if record.options != options or record.plan != _plan_of(items):
        what = "by another teacher" if record.options != options else "from other frames"
        raise UsageError(f"{output.place(name)}: was labelled {what}; choose another --out, or delete it.")
    if output.size(name) != record.tar_bytes:
        return None
    on_frames(record.num_frames)
    return record


def _write(
    output: OutputDir,
    name: str,
    items: Sequence[Item],
    options: Mapping[str, Any],
    teacher: Teacher,
    on_frames: Callable[[int], None],
) -> ShardRecord:
    rejected: list[Rejection] = []
    clips = (clip for item in items for clip in label_item(item, teacher, rejected, on_frames))
    return writer.write_shard(output, name, clips, options=options, plan=_plan_of(items), rejected=rejected)


def label_item(
    item: Item,
    teacher: Teacher,
    rejected: list[Rejection],
    on_frames: Callable[[int], None] = lambda count: None,
) -> Iterator[EncodedClip]:
    """Yield an item's clips with labels; what has no usable disparity is added to `rejected`.

    A window of frames and a clip's disparity are in memory at a time.
    """
    waiting: deque[Piece] = deque()

    def frames() -> Iterator[VideoFrame]:
        for piece in item.pieces():
            waiting.append(piece)
            yield piece.frame

    clip: list[tuple[Piece, Float32[np.ndarray, "h w"]]] = []
    for disparity in teacher.disparities(frames(), diff=item.diff or DEFAULT_DIFF, single=item.num_frames == 1):
        piece = waiting.popleft()
        if clip and clip[-1][0].clip[0] != piece.clip[0]:
            yield from _encoded(clip, teacher, rejected)
            clip = []
        clip.append((piece, disparity))
        on_frames(1)
    yield from _encoded(clip, teacher, rejected)


def _encoded(
    clip: list[tuple[Piece, Float32[np.ndarray, "h w"]]], teacher: Teacher, rejected: list[Rejection]
) -> Iterator[EncodedClip]:
    key, meta = _whole_meta([piece for piece, _ in clip])
    try:
        packed = codec.settle(codec.pack_disparity([disparity for _, disparity in clip], RELATIVE), RELATIVE)
    except ValueError as error:
        _log.warning("%s: cannot be labelled: %s.", meta.trajectory, error)
        rejected.append(Rejection(f"{meta.trajectory}, frames {meta.frame_ids[0]} to {meta.frame_ids[-1]}", str(error)))
        return
    ranges = [one.disparity_range for one in packed if one.disparity_range is not None]
    meta = replace(
        meta,
        depth=packed[0].spec,
        disparity_min=min(low for low, _ in ranges),
        disparity_max=max(high for _, high in ranges),
        teacher_disparity=packed[0].teacher_disparity,
        source={**meta.source, **teacher.facts},
    )
    frames = tuple(_with_label(piece, one.data) for (piece, _), one in zip(clip, packed, strict=True))
    yield EncodedClip(key, meta, frames, clamped_near=0)


def _whole_meta(pieces: Sequence[Piece]) -> tuple[str, ClipMeta]:
    """Return key and metadata of a clip, joined from those of its frames where it is new."""
    key, meta = pieces[0].clip
    if meta.num_frames == len(pieces):
        return key, meta
    metas = [piece.clip[1] for piece in pieces]
    ids, valid = (
        tuple(value for each in metas for value in getattr(each, name)) for name in ("frame_ids", "diff_valid")
    )
    return key, replace(meta, frame_ids=ids, diff_valid=valid)


def _with_label(piece: Piece, label: bytes) -> tuple[tuple[str, bytes], ...]:
    """Put the depth member where shards have it: behind the image, before the difference."""
    images = [(kind, data) for kind, data in piece.members if kind.startswith("rgb")]
    return (*images, ("depth.zst", label), *((kind, data) for kind, data in piece.members if kind == "diff.zst"))
