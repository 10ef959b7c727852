"""Convert raw depth videos to WebDataset shards, check and read them; needs no torch.

    plan = vdaprep.plan("tartanair", raw="raw/tartanair", short_side=540)
    record = vdaprep.convert(plan, out="shards", workers=8, on_progress=print)
    report = vdaprep.verify("shards", deep=True)
    clip = vdaprep.open_shards("shards").clips(split="val")[0]
    frames = clip.read(first=0, count=16, stride=2)

errors, units  the exceptions; sizes and durations as text
storage        local folders, http(s) and object stores behind one path type; atomic writes, locks, shard cache
shards         the format (versions 1 and 2): names, metadata, codecs, writer and reader
raw            raw downloads, read in place
sources        one module per data set
conversion     plan, encode, convert, recode, resume, repair, budget, consume
workers        local processes or Ray; progress
analysis       verify, inspect, statistics, previews, export
synthetic      sample data in the layouts of the raw data sets
cli            the program `vdaprep`

A name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vdaprep.errors import (
    DataError,
    FrameError,
    MissingExtraError,
    OutputError,
    ShardError,
    UsageError,
    VdakitError,
    WorkerError,
)

if TYPE_CHECKING:
    from vdaprep.analysis.export import export
    from vdaprep.analysis.verify import VerifyReport, verify
    from vdaprep.analysis.verify_shard import Finding
    from vdaprep.conversion.api import convert, plan, repair
    from vdaprep.conversion.encode.recode import RecodeOptions, recode
    from vdaprep.conversion.plan import ConversionPlan
    from vdaprep.shards.dataset import ShardCollection, open_shards
    from vdaprep.shards.metadata import ClipMeta, DepthSpec, DiffSpec
    from vdaprep.shards.reader import Clip, Frames, StoredFrame
    from vdaprep.shards.records import ClipEntry, DatasetRecord
    from vdaprep.workers.progress import ProgressEvent

    __version__: str

__all__ = [
    "Clip",
    "ClipEntry",
    "ClipMeta",
    "ConversionPlan",
    "DataError",
    "DatasetRecord",
    "DepthSpec",
    "DiffSpec",
    "Finding",
    "FrameError",
    "Frames",
    "MissingExtraError",
    "OutputError",
    "ProgressEvent",
    "RecodeOptions",
    "ShardCollection",
    "ShardError",
    "StoredFrame",
    "UsageError",
    "VdakitError",
    "VerifyReport",
    "WorkerError",
    "__version__",
    "convert",
    "export",
    "open_shards",
    "plan",
    "recode",
    "repair",
    "verify",
]

_LAZY = {
    "Clip": "vdaprep.shards.reader",
    "ClipEntry": "vdaprep.shards.records",
    "ClipMeta": "vdaprep.shards.metadata",
    "ConversionPlan": "vdaprep.conversion.plan",
    "DatasetRecord": "vdaprep.shards.records",
    "DepthSpec": "vdaprep.shards.metadata",
    "DiffSpec": "vdaprep.shards.metadata",
    "Finding": "vdaprep.analysis.verify_shard",
    "Frames": "vdaprep.shards.reader",
    "ProgressEvent": "vdaprep.workers.progress",
    "RecodeOptions": "vdaprep.conversion.encode.recode",
    "ShardCollection": "vdaprep.shards.dataset",
    "StoredFrame": "vdaprep.shards.reader",
    "VerifyReport": "vdaprep.analysis.verify",
    "convert": "vdaprep.conversion.api",
    "export": "vdaprep.analysis.export",
    "open_shards": "vdaprep.shards.dataset",
    "plan": "vdaprep.conversion.api",
    "recode": "vdaprep.conversion.encode.recode",
    "repair": "vdaprep.conversion.api",
    "verify": "vdaprep.analysis.verify",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("vdakit")  # takes as long as all of the rest
    if name not in _LAZY:
        raise AttributeError(f"module 'vdaprep' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
