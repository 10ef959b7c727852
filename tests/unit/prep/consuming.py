"""What tests of --consume share: conversions of small data that delete it, and ones that keep it to compare with."""

import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.conftest import tree_bytes
from vdaprep.analysis.verify import verify
from vdaprep.conversion import consume
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.saved_plan import Prepared, prepare
from vdaprep.shards.names import PLAN_FILE
from vdaprep.shards.records import DatasetRecord
from vdaprep.storage.output import LocalOutput
from vdaprep.synthetic.sample import SampleSpec, write_sample
from vdaprep.workers.local import LocalExecutor
from vdaprep.workers.progress import OnProgress, ProgressEvent, ignore

SMALL = Settings(short_side=24, clip_frames=3, frames_per_shard=6)
EASY = "abandonedfactory/Easy"
ALL = Selection()


def pack(raw: Path, out: Path, *, more: dict[str, bytes] | None = None) -> Path:
    """Pack a raw tree as TartanAir's zips; `more` goes into the images' one."""
    for kind in ("image", "depth"):
        target = out / EASY / f"{kind}_left.zip"
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w") as file:
            for path in sorted(raw.rglob("*")):
                if path.is_file() and (kind in path.parent.name or path.suffix == ".txt"):
                    file.write(path, path.relative_to(raw).as_posix())
            for name, data in (more or {}).items() if kind == "image" else ():
                file.writestr(name, data)
    return out


def prepared(raw: Path, out: Path, *, selection: Selection = ALL, settings: Settings = SMALL) -> Prepared:
    output = LocalOutput(out / "tartanair")
    return prepare("tartanair", raw=str(raw), settings=settings, selection=selection, output=output)


def surveyed(raw: Path, out: Path, *, selection: Selection = ALL) -> consume.Consumption:
    return consume.survey(prepared(raw, out, selection=selection))


class Said(list[str]):
    """What a run told."""


def run(
    raw: Path,
    out: Path,
    *,
    selection: Selection = ALL,
    workers: int = 1,
    on_progress: OnProgress = ignore,
    unused: bool = False,
) -> tuple[DatasetRecord, Said]:
    said = Said()
    output = LocalOutput(out / "tartanair")
    ready = prepared(raw, out, selection=selection)
    consumer = consume.Consumer(consume.survey(ready, take_unused=unused), said.append)
    record = consume.convert_and_consume(
        ready.plan, consumer, output=output, executor=LocalExecutor(workers), on_progress=on_progress
    )
    said.append(consumer.summary())
    return record, said


def on_shard(do: Callable[[], object]) -> OnProgress:
    """Do something whenever a shard is finished."""

    def report(event: ProgressEvent) -> None:
        if event.kind == "shard":
            do()

    return report


def plain(raw: Path, out: Path, *, selection: Selection = ALL) -> dict[str, bytes]:
    ready = prepared(raw, out, selection=selection)
    convert_plan(ready.plan, output=LocalOutput(out / "tartanair"), executor=LocalExecutor(1))
    return tree_bytes(out)


def same(out: Path, clean: dict[str, bytes]) -> None:
    found = tree_bytes(out)
    assert f"tartanair/{PLAN_FILE}" in found
    assert {name: data for name, data in found.items() if name != f"tartanair/{PLAN_FILE}"} == clean
    assert verify([out], deep=True, on_frames=lambda count: None).findings == ()


def sample(dataset: str, out: Path, *, archives: bool) -> Path:
    spec = SampleSpec(trajectories=2, frames=3, width=64, height=36)
    write_sample(dataset, out=out, spec=spec, archives=archives, on_frame=lambda: None)
    return out


def consumed(dataset: str, raw: Path, out: Path, *, unused: bool = False) -> Said:
    said = Said()
    output = LocalOutput(out / dataset)
    ready = prepare(dataset, raw=str(raw), settings=SMALL, selection=ALL, output=output)
    consumption = consume.survey(ready, take_unused=unused)
    said += [*consumption.deleted(), *consumption.deleted_unused(), *consumption.left()]
    run = {"output": output, "executor": LocalExecutor(1)}
    consume.convert_and_consume(ready.plan, consume.Consumer(consumption, said.append), **run)
    return said
