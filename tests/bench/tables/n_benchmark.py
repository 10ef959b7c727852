"""A published benchmark from raw data to figures; and whether memory grows with a clip."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from tests.bench.rendered import Rendered
from tests.bench.timing import new_table
from tests.memory import forget_peak, peak_kib
from tests.raw_sets import NATIVE, write_set
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.options import ConversionOptions
from vdaprep.conversion.plan import make_plan
from vdaprep.shards.dataset import open_shards
from vdaprep.storage.output import LocalOutput
from vdaprep.workers.local import LocalExecutor
from vdatrain.evaluation.benchmark.protocols import VDA
from vdatrain.evaluation.benchmark.run import choose_protocol, find_benchmark, run_benchmark
from vdatrain.inference.loading import load_predictor
from vdatrain.inference.predictor import Predictor
from vdatrain.models import variants

COLUMNS = ("frames", "CPU s", "CPU s / 500 frames", "peak MiB")


@dataclass(frozen=True)
class _Scene:
    """A scene of a set."""

    dataset: str
    frames: int
    size: tuple[int, int]


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    scale = rendered.scale
    table = new_table("(n) the paper's benchmark", "set", COLUMNS, caption=_CAPTION)
    size = (scale.width, scale.height)
    small = _untrained(scratch, encoder="tiny", size=28)
    for frames in scale.benchmark_lengths:
        row = _measure(scratch / f"long-{frames}", _Scene("bonn", frames, size), small)
        table.add_row(f"bonn of {frames} frames, tiny at 28", *row)
    table.add_section()
    model = _untrained(scratch, encoder=scale.gpu_encoder, size=scale.gpu_size)
    for item in VDA.sets:
        if item.measures == "depth":
            native = scale.width >= 640 or item.dataset == "nyuv2"  # whose crop no smaller frame holds
            scene = _Scene(item.dataset, scale.benchmark_frames, NATIVE[item.dataset] if native else size)
            row = _measure(scratch / item.key, scene, model)
            table.add_row(f"{item.dataset}, {scale.gpu_encoder} at {scale.gpu_size}", *row)
    yield table


_CAPTION = (
    "A scene of each set in native size, rendered, converted for it and measured by the protocol `vda` with untrained "
    "weights. A few frames cost as much as a window of 32. Peak: of this process, which has rendered the frames, too."
)


def _untrained(folder: Path, *, encoder: str, size: int) -> Predictor:
    torch.manual_seed(0)
    file = folder / f"untrained_{encoder}.pth"
    torch.save(variants.build("basic", encoder=encoder).state_dict(), file)
    return load_predictor(file, encoder=encoder, size=size, device="cpu")


def _measure(folder: Path, scene: _Scene, predictor: Predictor) -> tuple[str, ...]:
    of = next(item for item in VDA.sets if item.dataset == scene.dataset)
    raw = write_set(scene.dataset, folder / "raw", {of.scenes[0]: scene.frames}, size=scene.size)
    options = ConversionOptions(purpose="benchmark").for_dataset(scene.dataset)
    plan = make_plan(scene.dataset, raw=raw, settings=options.settings(), selection=options.selection())
    convert_plan(plan, output=LocalOutput(folder / "shards" / scene.dataset), executor=LocalExecutor(1))
    (folder / "out").mkdir()
    forget_peak()
    began = time.process_time()
    protocol = choose_protocol("vda", [of.key])
    found = find_benchmark(protocol, open_shards(folder / "shards"), allow_missing=True)
    [result] = run_benchmark(found, predictor, out=folder / "out")
    cpu_s, frames = time.process_time() - began, result.figures.frames
    return f"{frames}", f"{cpu_s:.1f}", f"{500 * cpu_s / frames:.0f}", f"{peak_kib() / 1024:.0f}"
