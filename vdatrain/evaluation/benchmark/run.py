"""A benchmark from shards to results: scenes are found, then each measured by one process."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.dataset import ShardCollection
from vdatrain.device import peak_memory_bytes
from vdatrain.distributed.ranks import Ranks
from vdatrain.evaluation.benchmark.clip import SceneFigures, alignment_of, measure_scene
from vdatrain.evaluation.benchmark.protocols import PROTOCOLS, BenchmarkSet, Protocol, describe
from vdatrain.evaluation.benchmark.results import SceneResult, append_result, begin, digest_of, read_results
from vdatrain.evaluation.benchmark.scenes import Remark, Scene, find_scenes, sentences
from vdatrain.inference.predictor import Predictor
from vdatrain.inference.video_reader import by_trajectory

MISSING = ("missing scene", "missing frames", "pairing", "pass", "size")
"""Kinds of remarks that are errors unless they are allowed."""
_NAMED = 8  # of many sentences


@dataclass(frozen=True)
class Benchmark:
    """What is measured, and where it lies."""

    protocol: Protocol
    """The protocol, with the sets that were asked for."""
    scenes: tuple[Scene, ...]
    """The scenes that shards hold."""
    remarks: tuple[Remark, ...]
    """The ledger before anything is measured."""
    stall_timeout_s: int | float = 300
    """Seconds that a read may take; 0: no limit."""

    @property
    def num_frames(self) -> int:
        """Frames of all scenes."""
        return sum(len(scene.places) for scene in self.scenes)


def choose_protocol(name: str, sets: Sequence[str] = ()) -> Protocol:
    """Return a protocol with the sets that are named by key or data set; with all if none is.

    Raises UsageError for an unknown name.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"--protocol {name}: expected one of {', '.join(PROTOCOLS)}.")
    protocol = PROTOCOLS[name]
    for given in sets:
        if not any(item.has(given) for item in protocol.sets):
            keys = ", ".join(item.key for item in protocol.sets)
            raise UsageError(f"--sets {given}: protocol {name} has {keys}.")
    chosen = [item for item in protocol.sets if not sets or any(item.has(given) for given in sets)]
    return replace(protocol, sets=tuple(chosen))


def find_benchmark(
    protocol: Protocol, shards: ShardCollection, *, allow_missing: bool = False, stall_timeout_s: int | float = 300
) -> Benchmark:
    """Find a protocol's scenes in shards.

    Raises DataError, naming what there is not, if a scene, or a frame before a scene's end, is missing or was converted
    otherwise than the protocol asks for, unless `allow_missing`; and if there is no scene at all.
    """
    needed = list(dict.fromkeys(item.dataset for item in protocol.sets))
    if not set(needed) & set(shards.datasets):
        raise DataError(
            f"protocol {protocol.name}: the shards are of {', '.join(sorted(shards.datasets))}, expected "
            f"{', '.join(needed)}; convert those with `vdaprep convert SET --for benchmark`."
        )
    scenes: list[Scene] = []
    remarks: list[Remark] = []
    for item in protocol.sets:
        here = item.dataset in shards.datasets
        clips = shards.clips(dataset=item.dataset) if here else ()
        trajectories = {name: of for (_, name), of in by_trajectory(clips, stall_timeout_s=stall_timeout_s).items()}
        found, noted = find_scenes(item, trajectories, shards.records.get(item.dataset) if here else None)
        scenes += found
        remarks += noted
    missing = [remark for remark in remarks if remark.kind in MISSING]
    if missing and not allow_missing:
        found = [sentence.rstrip(".") for sentence in sentences(missing)]
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise DataError(
            f"protocol {protocol.name}: the shards lack {len(missing)} of what it needs: {'; '.join(found[:_NAMED])}"
            f"{more}; convert it, choose --sets, or give --allow-missing for figures that are not the protocol's."
        )
    if not scenes:
        raise DataError(f"protocol {protocol.name}: the shards hold none of its scenes.")
    return Benchmark(protocol, tuple(scenes), tuple(remarks), stall_timeout_s)


def facts_of(protocol: Protocol, predictor: Predictor, *, stream: bool) -> dict[str, Any]:
    """Return what is measured: what two runs must share for their results to go together."""
    return {
        "protocol": protocol.name,
        "sets": {item.key: describe(item) for item in protocol.sets},
        "weighting": protocol.weighting,
        "weights": dict(predictor.origin),
        "size": predictor.size,
        "precision": predictor.precision.name,
        "stream": stream,
    }


def run_benchmark(
    benchmark: Benchmark,
    predictor: Predictor,
    *,
    out: Path,
    stream: bool = False,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    on_frame: Callable[[int], None] = lambda frames: None,
) -> list[SceneResult]:
    """Measure the scenes that have no result in `out` yet; every scene by one rank.

    Args:
        benchmark: From `find_benchmark`, the same on all ranks.
        predictor: The model.
        out: Where results are kept, of this benchmark alone.
        stream: Frame by frame; none sees a later one.
        ranks: The processes that divide the scenes among themselves; each calls this.
        on_frame: Called with a number of frames that are done.

    Returns:
        The results in the protocol's order, on every rank.

    Raises:
        UsageError: `out` holds results of something else.
        ShardError: A frame cannot be read.
        VdakitError: The prediction is not finite.
    """
    facts = facts_of(benchmark.protocol, predictor, stream=stream)
    run = digest_of(facts)
    kept: list[str] = []
    if ranks.is_first:
        begin(out, facts)
        wanted = {(scene.of.key, scene.name): scene.identity for scene in benchmark.scenes}
        results = read_results(out, run=run)
        kept = [item.to_line() for key, item in results.items() if wanted.get(key) == item.identity]
    kept = ranks.broadcast_from_rank0(kept)
    done = {(item.key, item.scene): item for item in (SceneResult.from_line(line, where=str(out)) for line in kept)}
    pending = [scene for scene in benchmark.scenes if (scene.of.key, scene.name) not in done]
    on_frame(benchmark.num_frames - sum(len(scene.places) for scene in pending))
    mine: list[SceneResult] = []
    for scene in share_of(pending, ranks):
        began = time.monotonic()
        figures = measure_scene(
            scene,
            predictor,
            scratch=out,
            stream=stream,
            stall_timeout_s=benchmark.stall_timeout_s,
            on_frame=lambda: on_frame(1),
        )
        mine.append(_result(scene, figures, run=run, seconds=time.monotonic() - began, predictor=predictor))
        append_result(out, mine[-1], rank=ranks.rank)
    gathered = [line for lines in ranks.gather([item.to_line() for item in mine]) for line in lines]
    done |= {(item.key, item.scene): item for item in (SceneResult.from_line(line, where="") for line in gathered)}
    return [done[scene.of.key, scene.name] for scene in benchmark.scenes]


def share_of(scenes: Sequence[Scene], ranks: Ranks) -> list[Scene]:
    """Return a rank's scenes: dealt the longest first, each to whom has the fewest frames."""
    frames = [0] * ranks.world
    mine: list[Scene] = []
    for scene in sorted(scenes, key=lambda item: -len(item.places)):
        least = frames.index(min(frames))
        frames[least] += len(scene.places)
        if least == ranks.rank:
            mine.append(scene)
    return mine


def _result(scene: Scene, figures: SceneFigures, *, run: str, seconds: float, predictor: Predictor) -> SceneResult:
    return SceneResult(
        key=scene.of.key,
        scene=scene.name,
        identity=scene.identity,
        run=run,
        seconds=round(seconds, 3),
        peak_memory_bytes=peak_memory_bytes(predictor.precision.device),
        figures=figures,
    )


# ------------------------------------------------------------------------------------------------------------- ledger


def ledger_of(benchmark: Benchmark, results: Sequence[SceneResult], predictor: Predictor) -> list[Remark]:
    """Return all that the ledger says, also what measuring has shown."""
    sets: Mapping[str, BenchmarkSet] = {item.key: item for item in benchmark.protocol.sets}
    remarks = list(benchmark.remarks)
    for result in results:
        remarks += _of_result(result, sets[result.key])
    for item in benchmark.protocol.sets:
        if alignment_of(item, predictor) != item.alignment:
            remarks.append(Remark(item.key, "", "alignment", "metric weights are measured as they are, not fitted."))
        if item.alignment == "scale" and not predictor.metric:
            text = "these weights predict up to scale and shift; fitted by a scale alone, the shift counts as an error."
            remarks.append(Remark(item.key, "", "alignment", text))
        if item.faults.scenes_unknown:
            text = "which 20 scenes were published is unknown (fault 5); this is the mean over all there are."
            remarks.append(Remark(item.key, "", "scenes", text))
    return remarks


def _of_result(result: SceneResult, of: BenchmarkSet) -> list[Remark]:
    figures = result.figures
    found: list[Remark] = []

    def note(kind: str, text: str) -> None:
        found.append(Remark(result.key, result.scene, kind, text))

    measured = len(of.evaluated_of(figures.frames))
    if figures.evaluated_frames < measured:
        empty = measured - figures.evaluated_frames
        note("no truth", f"{empty} of {measured} frames have no pixel of known depth in range and are left out.")
    if figures.pairs and figures.pairs_without_pose:
        note("no pose", f"{figures.pairs_without_pose} pairs of neighbours lack a pose or a frame and have no TAE.")
    if of.measures == "tae" and figures.tae is None:
        note("no TAE", "no pair of neighbours has poses and a pixel in common.")
    if figures.apart:
        how = "count as an error of 0, as published" if of.faults.gaps_are_silent else "are left out of TAE"
        note("apart", f"{figures.apart} frames warped into a neighbour share no pixel with it and {how}.")
    return found
