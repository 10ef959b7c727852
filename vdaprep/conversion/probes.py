"""Probe frames, read and encoded as the conversion does it, spread evenly over the data.

A probe is two frames that follow one another, of video a group. Frames stand in the order of the shards, so probes at
equal distances lie in every long trajectory, in proportion to its length, and within it.
"""

import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import cv2
import numpy as np
from jaxtyping import Float64

from vdaprep import sources
from vdaprep.conversion.clips import PlannedClip, PlannedShard
from vdaprep.conversion.encode.encoder import ClipEncoder
from vdaprep.conversion.plan import ConversionPlan
from vdaprep.errors import DataError
from vdaprep.raw.tree import Location, Reader
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.records import Rejection
from vdaprep.shards.tar import TarWriter
from vdaprep.shards.writer import EncodedClip, write_clip
from vdaprep.sources import _manifest
from vdaprep.storage.urls import redact
from vdaprep.units import spread_evenly

PROBES = 64
DIFF = "diff.zst"
_KEPT_BYTES = 1 << 28  # raw files that a Prober keeps for the next plan

Cost = Float64[np.ndarray, "2"]  # bytes of a member's content, bytes of its header and padding


@dataclass(frozen=True, eq=False)
class Probe:
    """Bytes of the frames of a probe; if all were rejected, only `asked` and the time are known."""

    sizes: dict[str, Cost]
    """Per frame that was asked for, by kind; differences only between two frames."""
    first_diff: Cost | None
    """Of a difference without a frame before."""
    meta: tuple[float, float] | None
    """Of a clip's metadata: constant, and per frame."""
    size: tuple[int, int] | None
    """Width and height in pixels."""
    asked: int
    """Frames of the probe."""
    seconds_per_frame: float
    """Time to read and encode."""

    @property
    def frame_bytes(self) -> float:
        """Bytes that a frame adds to a tar."""
        return float(sum(cost.sum() for cost in self.sizes.values())) + (self.meta[1] if self.meta else 0.0)


@dataclass(frozen=True)
class Probes:
    """The probes of a plan."""

    found: tuple[Probe, ...]
    """In the plan's order."""
    rejected: tuple[Rejection, ...]
    """Frames that cannot be used."""


class Prober:
    """Probes plans of the same raw data, at `count` places at most, keeping what it read.

    `on_frames` is called with the number of frames that were encoded.
    """

    def __init__(
        self, raw: str, *, count: int = PROBES, on_frames: Callable[[int], None] = lambda frames: None
    ) -> None:
        self._reader = _RememberingReader(raw)
        self._count = count
        self._on_frames = on_frames

    def __enter__(self) -> "Prober":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def probe(self, plan: ConversionPlan) -> Probes:
        """Encode the probes of a plan; raises DataError if none of their frames can be used."""
        rejected: list[Rejection] = []
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # as in a worker
        try:
            found = tuple(self._encode(plan, rejected))
        finally:
            cv2.setNumThreads(threads)
        if not any(probe.sizes for probe in found):
            first = f"{rejected[0].file} {rejected[0].reason}"
            raise DataError(
                f"{redact(plan.raw)}: none of {len(rejected)} probe frames can be used; the first: {first}."
            )
        return Probes(found, tuple(dict.fromkeys(rejected)))

    def _encode(self, plan: ConversionPlan, rejected: list[Rejection]) -> Iterator[Probe]:
        encoder = ClipEncoder(
            dataset=plan.dataset,
            source=sources.load(plan.dataset),
            reader=self._reader,
            options=plan.settings.source,
            encoding=plan.settings.encoding(_manifest.load(plan.dataset)),
        )
        frames = max(2, plan.settings.rgb.spec.group)
        count = self._count if frames == 2 else max(4, 2 * self._count // frames)
        for split, clip in choose_probes(plan.shards, count, frames=frames):
            start = time.perf_counter() + self._reader.spared_s
            encoded = list(encoder.encode(clip, split=split, rejected=rejected, on_frame=lambda: None))
            tar = TarWriter(_Nowhere())
            for item in encoded:
                write_clip(tar, item)
            seconds = time.perf_counter() + self._reader.spared_s - start
            self._on_frames(clip.num_frames)
            yield _measure(encoded, asked=clip.num_frames, seconds=seconds)


class _RememberingReader(Reader):
    """Keeps what it read, some 256 MiB; `spared_s`: what reading it again would have taken."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._kept: dict[tuple[str, str], tuple[bytes, float]] = {}
        self._room = _KEPT_BYTES
        self.spared_s = 0.0

    def read(self, location: Location) -> bytes:
        """See Reader."""
        name = location.container, location.member
        if name in self._kept:
            data, seconds = self._kept[name]
            self.spared_s += seconds
            return data
        start = time.perf_counter()
        data = super().read(location)
        if len(data) <= self._room:
            self._kept[name] = data, time.perf_counter() - start
            self._room -= len(data)
        return data


class _Nowhere:
    """A file that discards what is written."""

    def write(self, data: bytes, /) -> None:
        """Discard bytes."""


def choose_probes(shards: Sequence[PlannedShard], count: int, *, frames: int = 2) -> Iterator[tuple[str, PlannedClip]]:
    """Yield the split and the frames of every probe, at equal distances over all frames."""
    total = sum(shard.num_frames for shard in shards)
    wanted = spread_evenly(total, count)
    passed = 0
    for shard in shards:
        for clip in shard.clips:
            length = clip.num_frames
            while wanted and wanted[0] < passed + length:
                yield shard.split, _with_neighbours(clip, wanted.pop(0) - passed, frames)
            passed += length


def _with_neighbours(clip: PlannedClip, position: int, frames: int) -> PlannedClip:
    """Return a clip's frame and the one before, or else after it; alone if need be.

    Of more than two frames they are those of its group of video.
    """
    indices = list(clip.indices)
    if frames > 2:
        start = position - position % frames
        pair = indices[start : start + frames]
    elif position == 0:
        pair = [clip.before, indices[0]] if clip.before is not None else indices[:2]
    else:
        pair = indices[position - 1 : position + 1]
    first, last = pair[0], pair[-1]
    assert first is not None and last is not None  # indices, but for a `before` that was just looked at
    return replace(clip, start=first, stop=last + 1, after_gap=True)


def cost_of(size: int) -> Cost:
    """Return what a member of `size` bytes costs in a tar."""
    return np.array([size, tarfile.BLOCKSIZE + -size % tarfile.BLOCKSIZE], np.float64)


def _measure(encoded: Sequence[EncodedClip], *, asked: int, seconds: float) -> Probe:
    costs: defaultdict[str, list[Cost]] = defaultdict(list)
    firsts: list[Cost] = []
    for clip in encoded:
        for members, valid in zip(clip.frames, clip.meta.diff_valid, strict=True):
            for kind, data in members:
                (firsts if kind == DIFF and not valid else costs[kind]).append(cost_of(len(data)))
    sizes = {kind: np.sum(found, axis=0) / (len(found) if kind == DIFF else asked) for kind, found in costs.items()}
    return Probe(
        sizes=sizes,
        first_diff=firsts[0] if firsts else None,
        meta=_meta_cost(encoded[0].meta) if encoded else None,
        size=(encoded[0].meta.width, encoded[0].meta.height) if encoded else None,
        asked=asked,
        seconds_per_frame=seconds / asked,
    )


def _meta_cost(meta: ClipMeta) -> tuple[float, float]:
    one = replace(
        meta,
        frame_ids=meta.frame_ids[:1],
        intrinsics=None if meta.intrinsics is None else meta.intrinsics[:1],
        camera_to_world=None if meta.camera_to_world is None else meta.camera_to_world[:1],
        diff_valid=meta.diff_valid[:1],
    )
    alone = len(one.to_bytes())
    more = (len(meta.to_bytes()) - alone) / (meta.num_frames - 1) if meta.num_frames > 1 else 0.0
    return alone - more, more
