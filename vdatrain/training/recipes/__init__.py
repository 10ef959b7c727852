"""Recipes: trainings by name, with their data, options, and the numbers to expect.

A recipe is a TOML file beside this module:

    summary, source, licence, remark    what it is; where its options come from; of all data; how it differs
    [options]                           fields of `TrainConfig`
    [[data]]                            name, frames, raw_gb, disk_gb by storage profile
    [[expected]]                        metric and data set ("average": over all held out), low, high, kind ("measured"
                                        here, or "published") and source; one that is published may have `value` alone

What the command line gives comes before what a recipe has. Measured numbers are of `vdatrain run` itself, on the
held-out windows that it evaluates at the end; published ones are of whoever is named.
"""

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from vdaprep.errors import DataError, UsageError
from vdaprep.storage.documents import Fields, parse_toml
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES
from vdatrain.config import parse_mix
from vdatrain.evaluation.evaluate import Evaluation

_MOST = 100  # data sets, or rows, of a recipe
AVERAGE = "average"


@dataclass(frozen=True)
class RecipeData:
    """A data set that a recipe trains on."""

    name: str
    """Its name for `vdaprep convert`."""
    frames: int | None
    """Frames that it has; None where nobody says it."""
    raw_gb: float | None
    """GB to download."""
    disk_gb: Mapping[str, float]
    """GB of its shards by storage profile, estimated; empty where unknown."""

    def how_to_get(self) -> str:
        """Return its sizes, where they are known, and the command that makes its shards."""
        raw = [] if self.raw_gb is None else [f"{self.raw_gb:g} GB to download"]
        disk = [f"{self.disk_gb['tiny']:g} GB as tiny shards"] if "tiny" in self.disk_gb else []
        return ", ".join([*raw, *disk, f"vdaprep convert {self.name} --profile tiny"])


@dataclass(frozen=True)
class Expected:
    """A number that a recipe should reach."""

    metric: str
    """absrel, delta1 or tae."""
    dataset: str
    """The data set, or "average"."""
    low: float
    """Least value."""
    high: float
    """Greatest value; equal to `low` where only one number was published."""
    kind: Literal["measured", "published"]
    """Whether we measured it or somebody else did."""
    source: str
    """Who, and how."""

    def sentence(self, evaluation: Evaluation) -> str | None:
        """Say how an evaluation compares; None for a number that it cannot be compared with."""
        if self.kind == "published":
            return None
        figures = evaluation.to_json()
        row = figures["average"] if self.dataset == AVERAGE else figures["datasets"].get(self.dataset, {})
        value = row.get(self.metric)
        if value is None:
            return None
        verdict = "as expected" if self.low <= value <= self.high else "NOT as expected"
        return f"{self.dataset} {self.metric} {value:.4f}, {verdict}: {self.low:g} to {self.high:g} ({self.source})"


@dataclass(frozen=True)
class Recipe:
    """A training by name."""

    name: str
    """What `--recipe` calls it."""
    summary: str
    """What it is, in a line."""
    source: str
    """Where its options come from."""
    licence: str
    """What all of its data together allow."""
    remark: str
    """What differs from the source; empty: nothing."""
    options: Mapping[str, Any]
    """Fields of `TrainConfig`."""
    data: tuple[RecipeData, ...]
    """The data sets."""
    expected: tuple[Expected, ...]
    """The numbers to reach."""

    def compare(self, evaluation: Evaluation) -> list[str]:
        """Return a sentence for each number to reach that an evaluation has."""
        found = (row.sentence(evaluation) for row in self.expected)
        return [f"recipe {self.name}: {text}" for text in found if text is not None]

    def check_data(self, found: Sequence[str], *, mix: str | None) -> None:
        """Raise DataError unless all data sets are there, or the user gave a `mix`."""
        taken = None if mix is None else parse_mix(mix)
        wanted = [item for item in self.data if taken is None or taken.takes(item.name)]
        missing = [item for item in wanted if item.name not in found]
        if not missing or taken is not None:
            return
        listed = "; ".join(f"{item.name} ({item.how_to_get()})" for item in missing)
        raise DataError(
            f"--recipe {self.name}: the shards are of {', '.join(sorted(found)) or 'nothing'}, and it trains on "
            f"{listed}, too; convert them beside the others, or give --mix with the data sets to take."
        )


@dataclass(frozen=True)
class Gpu:
    """A GPU that hours are estimated for."""

    name: str
    """Its name."""
    tflops: float
    """10^12 operations a second that its maker states for dense bf16 products with fp32 sums."""


GPUS = (Gpu("RTX 4090", 165.0), Gpu("A100", 312.0), Gpu("H100 SXM", 989.0))
UTILISATION = 0.35
"""Share of those operations that a training step is taken to reach: a guess until one is measured."""


def hours_on(gpu: Gpu, *, flops_per_step: int, steps: int) -> float:
    """Return the hours that a run takes on a GPU, evaluations aside; an estimate by arithmetic."""
    return flops_per_step * steps / (gpu.tflops * 1e12 * UTILISATION) / 3600


def names() -> list[str]:
    """Return the names of all recipes."""
    files = importlib.resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load(name: str) -> Recipe:
    """Read a recipe; raises UsageError for a name that none has."""
    if name not in names():
        raise UsageError(f"--recipe {name[:60]}: there is none of that name; known: {', '.join(names())}.")
    where = f"recipe {name}"
    data = (importlib.resources.files(__name__) / f"{name}.toml").read_bytes()
    fields = parse_toml(data, where=where, limit=MAX_SMALL_DOCUMENT_BYTES)
    texts = {key: fields.optional_text(key) or "" for key in ("summary", "source", "licence", "remark")}
    sets = tuple(map(_data, fields.mappings("data", at_most=_MOST)))
    rows = tuple(map(_expected, fields.mappings("expected", at_most=_MOST))) if "expected" in fields else ()
    return Recipe(name, options=dict(fields.mapping("options").values), data=sets, expected=rows, **texts)


def _data(fields: Fields) -> RecipeData:
    values = fields.values
    disk = fields.mapping("disk_gb").values if "disk_gb" in fields else {}
    return RecipeData(
        fields.text("name"),
        frames=cast("int | None", values.get("frames")),
        raw_gb=None if "raw_gb" not in fields else float(values["raw_gb"]),
        disk_gb={str(profile): float(cast("float", size)) for profile, size in disk.items()},
    )


def _expected(fields: Fields) -> Expected:
    values = cast("Mapping[str, float]", fields.values)
    value = values.get("value", 0.0)
    kind: Literal["measured", "published"] = "measured" if fields.text("kind") == "measured" else "published"
    return Expected(
        fields.text("metric"),
        fields.text("dataset"),
        low=float(values.get("low", value)),
        high=float(values.get("high", value)),
        kind=kind,
        source=fields.text("source"),
    )
