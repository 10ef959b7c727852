"""Shards to smaller shards, without the raw data.

What is stored as the new options have it is taken over byte by byte: JPEGs, groups of video, depth, differences. Depth
that is coded without loss stays so in profile `standard`, packed again. All else is decoded and encoded with a loss
beside the one that it had, which `recoded_from` in the options says. Nothing can be made better than it is: a finer
error, a higher quality, or differences that are not there are refused.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vdaprep.conversion.convert import report_shard, reread
from vdaprep.conversion.encode.members import ClipMembers, encode_jpeg
from vdaprep.conversion.encode.profiles import PROFILES, Diffs, Encoding, Rgb, interpolated
from vdaprep.conversion.options import RGB
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.shards import codec, reader, writer
from vdaprep.shards.canonical import SCHEMA_VERSION
from vdaprep.shards.dataset import as_paths, find_in
from vdaprep.shards.depth_codes import within_range
from vdaprep.shards.metadata import ClipMeta, DepthSpec, DiffSpec
from vdaprep.shards.names import DATASET_FILE, record_name
from vdaprep.shards.reader import Clip, StoredFrame
from vdaprep.shards.records import DatasetRecord, ShardRecord, summary_of, totals
from vdaprep.shards.writer import EncodedClip
from vdaprep.storage.atomic import check_output_folder
from vdaprep.storage.output import OutputDir, open_output, write_file
from vdaprep.storage.paths import StoragePath, document_bytes
from vdaprep.storage.urls import is_url
from vdaprep.workers.local import LocalExecutor
from vdaprep.workers.progress import Amount, OnProgress, ProgressEvent, ignore
from vdaprep.workers.tasks import Tick

_DIFFS = ("none", "decoded", "stored")  # from least to most
_LOST_DIFFS = {
    ("stored", "decoded"): "stored differences are left out, and taken from decoded frames",
    ("stored", "none"): "stored differences are left out",
    ("decoded", "none"): "differences of decoded frames are left out",
}


@dataclass(frozen=True)
class RecodeOptions:
    """How shards are stored again."""

    profile: Literal["standard", "small", "tiny"] = "tiny"
    """How small: standard (no loss but what there is), small, tiny."""
    rgb: Rgb | None = field(default=None, metadata=RGB)
    """Frames: jpeg:QUALITY, h264:CRF or av1:CRF."""
    depth_error: float | None = field(default=None, metadata={"show_default": "the profile's"})
    """Relative error of depth at most, beside that which it has."""
    diffs: Diffs | None = field(default=None, metadata={"show_default": "the profile's"})
    """Frame differences: stored, taken from decoded frames, or none."""


def recoded(found: Encoding, options: RecodeOptions) -> Encoding:
    """Return how frames are to be stored; raises UsageError if that would be better."""
    profile = PROFILES[options.profile]
    return replace(
        found,
        rgb=_coarser_rgb(found.rgb, options.rgb or profile.rgb),
        depth=_coarser_depth(found.depth, profile.interpolate, options.depth_error, profile.depth_error),
        diff=_fewer_diffs(found, options.diffs, profile.diffs),
        schema=SCHEMA_VERSION,
    )


def _coarser_rgb(found: Rgb, wanted: Rgb) -> Rgb:
    if found.codec == "jpeg":
        if wanted.codec == "jpeg" and wanted.quality > found.quality:
            raise UsageError(f"--rgb {wanted}: the frames are {found}; recoding cannot make them better.")
        return wanted
    if wanted.codec != found.codec or wanted.quality < found.quality:
        raise UsageError(f"--rgb {wanted}: the frames are {found}; take {found.codec} with {found.quality} or more.")
    return wanted


def _coarser_depth(found: DepthSpec, interpolate: bool, asked: float | None, usual: float) -> DepthSpec:
    lossy = found.packing == "interpolation"
    if not interpolate:
        if lossy or asked is not None:
            raise UsageError(
                "--profile standard: stores depth as it is, code by code"
                + (", and this depth is interpolated; take small or tiny." if lossy else "; leave --depth-error out.")
            )
        return replace(found, packing="nibbles")
    error = max(usual, found.relative_error) if asked is None else asked
    if error < found.relative_error:
        raise UsageError(
            f"--depth-error {error:g}: the depth is within {found.relative_error:g}; it cannot get better."
        )
    return found if lossy and error == found.relative_error else interpolated(found, error)


def _fewer_diffs(found: Encoding, asked: Diffs | None, usual: Diffs) -> DiffSpec | None:
    has = found.diffs
    wanted = asked or min(usual, has, key=_DIFFS.index)
    if _DIFFS.index(wanted) > _DIFFS.index(has):
        raise UsageError(f"--diffs {wanted}: these shards have {has}; they cannot be got back.")
    return None if found.diff is None or wanted == "none" else replace(found.diff, origin=wanted)


# ---------------------------------------------------------------------------------------------------------------- clips


def recode_clip(clip: Clip, *, found: Encoding, wanted: Encoding, tick: Tick) -> EncodedClip:
    """Encode a clip as `wanted`; raises ShardError as `Clip.frames` does.

    What depth was clamped, the source's record counts; nothing that is stored is beyond the code's ends.
    """
    meta = clip.meta
    members = ClipMembers(wanted.rgb, wanted.depth)
    spec: DepthSpec | None = None
    for frame in clip.frames():
        if meta.depth is not None:
            spec = spec or (codec.suited(frame.depth_m(), wanted.depth) if wanted.interpolate else wanted.depth)
        depth = None if spec is None else _depth(frame, spec)
        diff = frame.members["diff.zst"] if wanted.diff is not None and wanted.diff.origin == "stored" else None
        members.add(_image(frame, found.rgb, wanted.rgb), depth, None if diff is None else bytes(diff))
        tick(Amount(frames=1, bytes_in=sum(map(len, frame.members.values()))))
    said, content = members.finish()
    new = replace(
        meta,
        depth=said.spec,
        disparity_min=said.disparity_min,
        disparity_max=said.disparity_max,
        diff=wanted.diff,
        diff_valid=meta.diff_valid if wanted.diff is not None else (False,) * meta.num_frames,
        rgb=wanted.rgb.spec,
        schema_version=ClipMeta.schema_version,
    )
    return EncodedClip(clip.key, new, content, clamped_near=0)


def _image(frame: StoredFrame, found: Rgb, wanted: Rgb) -> Any:
    own = frame.members.get(found.spec.kind)
    if found == wanted:
        return None if own is None else bytes(own)
    if wanted.codec == "jpeg":
        return encode_jpeg(frame.rgb(), wanted, own=None if own is None else bytes(own))
    return frame.rgb()


def _depth(frame: StoredFrame, wanted: DepthSpec) -> codec.PackedDepth:
    found = frame.depth_spec
    if wanted.packing == "nibbles":
        return codec.pack_again(frame.depth_codes(), replace(found, packing="nibbles"))
    if found == wanted:
        return codec.keep_packed(bytes(frame.members["depth.zst"]), frame.depth_codes(), found)
    if not wanted.is_metric:
        return codec.pack_again(frame.depth_codes(), wanted)
    return codec.pack_depth(within_range(frame.depth_m(), found), wanted)


# --------------------------------------------------------------------------------------------------------------- shards


@dataclass(frozen=True)
class _Task:
    """A shard to make."""

    tar: StoragePath
    dataset: str
    split: str
    output: OutputDir
    found: Encoding
    wanted: Encoding
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.split}/{self.tar.name}"

    def __str__(self) -> str:
        return self.output.place(self.name)


def _recode_shard(task: _Task, tick: Tick) -> tuple[str, ShardRecord]:
    source = reader.read_record(task.tar)
    reader.check_tar(task.tar, source)
    clips = (
        recode_clip(Clip(task.dataset, task.tar, entry), found=task.found, wanted=task.wanted, tick=tick)
        for entry in source.clips
    )
    rejected = list(source.rejected)
    record = writer.write_shard(
        task.output,
        task.name,
        _with_counts(clips, source),
        options=task.options,
        plan=source.tar_sha256,
        rejected=rejected,
    )
    tick(Amount(bytes_out=record.tar_bytes))
    reread(task.output, task.name, record)
    return task.name, record


def _with_counts(clips: Iterable[EncodedClip], source: ShardRecord) -> Iterator[EncodedClip]:
    """Yield clips, the first of a shard or trajectory with its count of clamped pixels."""
    near, far = source.clamped_near, dict(source.clamped_far)
    for clip in clips:
        yield replace(clip, clamped_near=near, clamped_far=far.pop(clip.meta.trajectory, 0))
        near = 0


# ------------------------------------------------------------------------------------------------------------ data sets


def recode(
    shards: str | Path,
    *,
    out: str | Path,
    options: RecodeOptions | None = None,
    workers: int | None = None,
    on_progress: OnProgress = ignore,
) -> list[DatasetRecord]:
    """Store converted data sets again, smaller, in OUT/DATASET; whole shards are kept.

    Args:
        shards: Folder or URL of a converted data set, or of several.
        out: Folder of the new shards, or s3:// URL.
        options: How small; None: profile `tiny`.
        workers: Processes that encode; None: one per core.
        on_progress: Called with every ProgressEvent.

    Returns:
        What each `dataset.json` holds.

    Raises:
        UsageError: something would have to become better than it is, or nothing would change, or what is in OUT was
            made with other options or from other shards.
        DataError: there is no finished data set.
        ShardError: a shard is damaged, or does not read back as it was written.
        OutputError: a shard cannot be written.
    """
    options = options or RecodeOptions()
    folders = [folder for place in as_paths(str(shards)) for folder in find_in(place)[1]]
    if not folders:
        raise DataError(f"{shards}: has no {DATASET_FILE}, so no conversion there was finished; run convert again.")
    sources = [_Source.at(folder, options) for folder in folders]
    for source in sources:
        if not is_url(str(out)):
            check_output_folder(Path(out, source.record.dataset), inputs=[str(source.folder)])
    return [source.recode(str(out), workers or os.cpu_count() or 1, on_progress) for source in sources]


@dataclass(frozen=True)
class _Source:
    """A converted data set, and how it is to be stored."""

    folder: StoragePath
    record: DatasetRecord
    found: Encoding
    wanted: Encoding

    @classmethod
    def at(cls, folder: StoragePath, options: RecodeOptions) -> "_Source":
        where = str(folder / DATASET_FILE)
        record = DatasetRecord.from_bytes(document_bytes(folder / DATASET_FILE), where=where)
        found = Encoding.of(record.options, where=where)
        wanted = recoded(found, options)
        if found == wanted:
            raise UsageError(f"{where}: these shards are stored so already; choose a smaller --profile.")
        return cls(folder, record, found, wanted)

    def options(self) -> dict[str, Any]:
        """Return the options of the new records."""
        old = {name: value for name, value in self.record.options.items() if name != "jpeg_quality"}
        before = {name: self.record.options.get(name) for name in ("recoded_from",) if name in self.record.options}
        return {**old, **self.wanted.to_json(), "recoded_from": {**self.found.to_json(), **before}}

    def recode(self, out: str, workers: int, on_progress: OnProgress) -> DatasetRecord:
        """Make the shards that are missing, then `dataset.json`."""
        record, options = self.record, self.options()
        executor = LocalExecutor(workers)
        output = open_output(f"{out.rstrip('/')}/{record.dataset}", writers=executor.workers)
        facts = {
            "dataset": record.dataset, "raw": str(self.folder), "out": output.place(),
            "frames": sum(item.frames for item in record.shards), "clips": sum(item.clips for item in record.shards),
            "shards": len(record.shards),
        }  # fmt: skip
        on_progress(ProgressEvent("plan", facts=facts))
        on_progress(ProgressEvent("notice", self._loss()))
        with output.lock():
            made: dict[str, ShardRecord] = {}
            for name, found in self._finished(output, options, on_progress):
                made[name] = found
                report_shard(name, found, on_progress, earlier=True)
            tasks = [
                _Task(
                    self.folder / item.split / item.name, record.dataset, item.split, output, self.found, self.wanted,
                    options,
                )
                for item in record.shards if f"{item.split}/{item.name}" not in made
            ]  # fmt: skip
            with contextlib.closing(executor.run(_recode_shard, tasks, on_progress)) as results:
                for name, found in results:
                    made[name] = found
                    report_shard(name, found, on_progress)
            records = [made[f"{item.split}/{item.name}"] for item in record.shards]
            new = replace(
                record,
                options=options,
                totals=totals(records),
                shards=tuple(summary_of(item.split, made[f"{item.split}/{item.name}"]) for item in record.shards),
                schema_version=DatasetRecord.schema_version,
            )
            write_file(output, DATASET_FILE, new.to_bytes())
        return new

    def _loss(self) -> str:
        """Say what is lost beside what was."""
        lost: list[str] = []
        if self.wanted.rgb != self.found.rgb:
            lost.append(f"frames are {self.wanted.rgb} of {self.found.rgb}")
        if self.wanted.depth.packing == "interpolation" and self.wanted.depth != self.found.depth:
            error, before = self.wanted.depth.relative_error, self.found.depth.relative_error
            lost.append(f"depth is within {error:.2%} of the shards', which is within {before:.2%} of the source")
        if self.wanted.diffs != self.found.diffs:
            lost.append(_LOST_DIFFS[self.found.diffs, self.wanted.diffs])
        return f"{self.record.dataset}: {'; '.join(lost) or 'nothing is lost'}."

    def _finished(
        self, output: OutputDir, options: Mapping[str, Any], on_progress: OnProgress
    ) -> Iterator[tuple[str, ShardRecord]]:
        """Yield the whole shards of an earlier run; raises UsageError for those of another."""
        for item in self.record.shards:
            name = f"{item.split}/{item.name}"
            if output.size(record_name(name)) is None:
                continue
            where = output.place(record_name(name))
            try:
                found = ShardRecord.from_bytes(output.read(record_name(name)), where=where)
            except ShardError as error:
                on_progress(ProgressEvent("notice", f"{error} It is made again."))
                continue
            if dict(found.options) != options or found.plan != item.sha256:
                raise UsageError(f"{where}: was made from other shards or with other options; choose another --out.")
            try:
                reader.check_tar(output.path(name), found)
            except ShardError as error:
                on_progress(ProgressEvent("notice", f"{error} It is made again."))
                output.delete(record_name(name))  # should this run die, the next finds what is to do
            else:
                yield name, found
