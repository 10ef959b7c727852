"""The frames of a protocol's scenes in shards, and the ledger of what is not there."""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.reader import Clip
from vdaprep.shards.records import DatasetRecord
from vdatrain.data.prefetch import Pace, Stalled, map_ahead
from vdatrain.data.stream import FaultPolicy, stall_error
from vdatrain.evaluation.benchmark.protocols import BenchmarkSet

_PIECE_FRAMES = 8  # read at a time, from a number that is a multiple of it: a group of video is decoded once
_READERS = 2
_NAMED = 5  # of many frames or reasons
PROFILE_QUALITY = 95  # of JPEGs in the profile `standard`


@dataclass(frozen=True)
class Remark:
    """A line of the ledger: what is missing, was left out or is not as the protocol has it."""

    key: str
    """Key of the set."""
    scene: str
    """The scene; empty for the whole set."""
    kind: str
    """What it is: `missing scene`, `missing frames`, `size` and the like."""
    text: str
    """A sentence."""


def sentences(remarks: Iterable[Remark]) -> list[str]:
    """Return few sentences for many remarks: one for all scenes of which the same is said."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for remark in remarks:
        alike.setdefault((remark.key, remark.kind, remark.text), []).append(remark.scene)
    found: list[str] = []
    for (key, kind, text), scenes in alike.items():
        more = f" and {len(scenes) - _NAMED} more" if len(scenes) > _NAMED else ""
        found.append(f"{', '.join(filter(None, (key, *scenes[:_NAMED])))}{more}: {kind}: {text}")
    return found


@dataclass(frozen=True)
class Place:
    """Where a frame is."""

    number: int
    """Counts frames from 0 on; of successive ones it is successive."""
    clip: Clip
    """The clip that holds it."""
    index: int
    """Its number in the clip."""


@dataclass(frozen=True)
class SceneFrame:
    """A frame with its truth and its camera."""

    number: int
    """As its place has it."""
    rgb: UInt8[np.ndarray, "h w 3"]
    """Grey levels."""
    depth_m: Float32[np.ndarray, "h w"]
    """Metres along z; nan unknown, inf sky."""
    intrinsics: Float64[np.ndarray, "4"]
    """fx, fy, cx, cy in pixels; pixel centres at integers."""
    camera_to_world: Float64[np.ndarray, "4 4"] | None
    """Metres, OpenCV axes; None without a pose."""


@dataclass(frozen=True)
class Scene:
    """A scene of a protocol's set in shards."""

    of: BenchmarkSet
    """The set."""
    name: str
    """Name of the scene in the protocol."""
    places: tuple[Place, ...]
    """Its frames in order."""

    @property
    def identity(self) -> str:
        """SHA-256 of what the shards hold of the scene, images, depth, cameras and all."""
        lines = (f"{place.number} {place.clip.key} {place.index} {place.clip.entry.crc32}" for place in self.places)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def frames(self, *, stall_timeout_s: int | float = 300) -> Generator[SceneFrame]:
        """Yield the frames, read ahead by threads.

        Raises ShardError where one cannot be read, VdakitError where that takes longer than `stall_timeout_s`; 0: no
        limit.
        """
        pace = Pace(_READERS, ahead=_READERS, patience_s=stall_timeout_s)
        with closing(map_ahead(_read, iter(self._pieces()), pace=pace)) as pieces:
            try:
                for piece in pieces:
                    yield from piece
            except Stalled as stalled:
                [place, *_] = stalled.item if isinstance(stalled.item, list) else []
                raise stall_error(place.clip, FaultPolicy(stall_timeout_s=stall_timeout_s)) from None

    def _pieces(self) -> Iterator[list[Place]]:
        piece: list[Place] = []
        for place in self.places:
            if piece and (place.clip, place.index // _PIECE_FRAMES) != (piece[0].clip, piece[0].index // _PIECE_FRAMES):
                yield piece
                piece = []
            piece.append(place)
        if piece:
            yield piece


def _read(places: list[Place]) -> list[SceneFrame]:
    first, last = places[0].index, places[-1].index
    clip, meta = places[0].clip, places[0].clip.meta
    stored = {frame.index: frame for frame in clip.frames(first, last - first + 1)}
    poses = meta.camera_to_world
    return [
        SceneFrame(
            number=place.number,
            rgb=stored[place.index].rgb(),
            depth_m=stored[place.index].depth_m(),
            intrinsics=meta.intrinsics_of([place.index])[0],
            camera_to_world=None if poses is None else np.array(poses[place.index]),
        )
        for place in places
    ]


# ------------------------------------------------------------------------------------------------------------ finding


def find_scenes(
    benchmark_set: BenchmarkSet, trajectories: Mapping[str, Sequence[Clip]], record: DatasetRecord | None
) -> tuple[list[Scene], list[Remark]]:
    """Find a set's scenes among a data set's trajectories.

    Args:
        benchmark_set: The set of a protocol.
        trajectories: Clips by trajectory, in the order of frames.
        record: What `dataset.json` says; None if there is no such data set.

    Returns:
        The scenes that have frames, in the protocol's order; and the ledger: a `missing scene` for each other one.
    """
    scenes: list[Scene] = []
    remarks = _of_conversion(benchmark_set, record)
    taken: set[str] = set()
    for name in benchmark_set.scenes:
        matching = [item for item in trajectories if _is_scene(item, name) and _has_pass(item, benchmark_set)]
        taken.update(matching)
        if len(matching) != 1:
            found = f"is in several trajectories: {', '.join(matching)}" if matching else "no trajectory is it"
            found = found if trajectories else f"the shards have no data set {benchmark_set.dataset}"
            remarks.append(Remark(benchmark_set.key, name, "missing scene", f"{found}; expected one."))
            continue
        clips = trajectories[matching[0]]
        places, missing = _places(benchmark_set, clips)
        if not benchmark_set.evaluated_of(len(places)):
            numbers = f"{clips[0].meta.frame_ids[0]} to {clips[-1].meta.frame_ids[-1]}"
            remarks.append(
                Remark(benchmark_set.key, name, "missing scene", f"has frames {numbers}, none of the protocol's.")
            )
            continue
        scenes.append(Scene(benchmark_set, name, places))
        remarks += _of_scene(scenes[-1], missing, record)
    remarks += [
        Remark(benchmark_set.key, item, "not measured", "the protocol does not name this trajectory.")
        for item in trajectories
        if item not in taken
    ]
    return scenes, remarks


def _is_scene(trajectory: str, scene: str) -> bool:
    """Return whether a part of a trajectory's name is a scene's, or that behind `rgbd_bonn_`."""
    return any(part == scene or part.endswith(f"_{scene}") for part in trajectory.split("/"))


def _has_pass(trajectory: str, benchmark_set: BenchmarkSet) -> bool:
    """Return whether a trajectory may be of the set's pass: its name may say another one."""
    passes = {"clean", "final", "albedo"} & set(trajectory.split("/"))
    return benchmark_set.rgb_pass is None or not passes or benchmark_set.rgb_pass in passes


def _places(benchmark_set: BenchmarkSet, clips: Iterable[Clip]) -> tuple[tuple[Place, ...], list[int]]:
    """Return where the protocol's frames are, and the numbers missing before the last of them."""
    stored = [(number, clip, index) for clip in clips for index, number in enumerate(clip.meta.frame_ids)]
    frames = benchmark_set.frames
    if benchmark_set.counted == "places":
        chosen = stored[frames.start : frames.stop : frames.step]
        return tuple(Place(number - chosen[0][0], clip, index) for number, clip, index in chosen), []
    places = [Place(frames.index(number), clip, index) for number, clip, index in stored if number in frames]
    there = {place.number for place in places}
    return tuple(places), [frames[number] for number in range(max(there, default=0)) if number not in there]


# ------------------------------------------------------------------------------------------------------------- ledger


def _of_conversion(benchmark_set: BenchmarkSet, record: DatasetRecord | None) -> list[Remark]:
    """Say where a conversion's options are known not to be those that the protocol needs."""
    if record is None:
        return []
    options = record.options
    found: list[Remark] = []
    expected = {
        "pairing": "legacy-index" if benchmark_set.faults.paired_by_index else "time",
        "pass": benchmark_set.rgb_pass,
    }
    for name, wanted in expected.items():
        if wanted is not None and options.get(name) not in (None, wanted):
            text = f"the shards were converted with --{name} {options[name]}, the protocol takes {wanted}."
            found.append(Remark(benchmark_set.key, "", name, text))
    return found


def _of_scene(scene: Scene, missing: Sequence[int], record: DatasetRecord | None) -> list[Remark]:
    of, meta = scene.of, scene.places[0].clip.meta
    found: list[Remark] = []

    def note(kind: str, text: str) -> None:
        found.append(Remark(of.key, scene.name, kind, text))

    if missing:
        numbers = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
        why = "; ".join(_reasons(scene, record)) or "the shards do not say why"
        note("missing frames", f"{len(missing)} frames are not there ({numbers}): {why}.")
    expected = len(range(of.frames.start, min(of.frames.stop, of.lengths.get(scene.name, 0)), of.frames.step))
    if len(scene.places) < expected:
        why = "".join(f"; {reason}" for reason in _reasons(scene, record))
        note("missing frames", f"has {len(scene.places)} of {expected} frames{why}.")
    breaks = sum(later.number - earlier.number > 1 for earlier, later in pairwise(scene.places))
    if breaks and not missing:
        note("gap", f"there are {breaks} gaps in it, behind which frames are counted on.")
    if (meta.height, meta.width) not in of.native:
        sizes = " or ".join(f"{width}x{height}" for height, width in of.native)
        note(
            "size", f"frames are {meta.width}x{meta.height}, the data set's {sizes}; convert with --short-side native."
        )
    packed = packed_as(meta, "" if record is None else str(record.options.get("rgb", "")))
    if packed:
        note("packing", f"{' and '.join(packed)}, which changes them; convert with --profile standard.")
    if meta.depth is not None and meta.depth.packing == "bytes" and meta.depth.kind == "log":
        note("rounding", f"the true depth is stored within {meta.depth.relative_error:.2%} of the data set's.")
    return found


def packed_as(meta: ClipMeta, rgb: str) -> list[str]:
    """Say how frames and depth are stored smaller than the profile of benchmarks does it.

    rgb: How the shards' record says frames are stored, such as `jpeg:85`; empty if it does not.
    """
    codec, _, quality = rgb.partition(":")
    found: list[str] = []
    if meta.rgb.codec != "jpeg":
        found.append(f"frames are stored as {meta.rgb.codec.upper()}")
    elif codec == "jpeg" and quality.isdecimal() and int(quality) < PROFILE_QUALITY:
        found.append(f"frames are stored as JPEG of quality {quality}")
    if meta.depth is not None and meta.depth.packing == "interpolation":
        found.append(f"the true depth is stored within {meta.depth.relative_error:.2%}")
    return found


def _reasons(scene: Scene, record: DatasetRecord | None) -> list[str]:
    rejected = () if record is None else record.rejected
    found = [f"{item.file} {item.reason}" for item in rejected if scene.name in item.file]
    return [*found[:_NAMED], *([f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else [])]
