"""Everything that decides a training run, in one frozen value that the run folder keeps."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vdaprep.schema import UsageError
from vdatrain.layers.encoder import PATCH_SIZE

PRECISIONS = ("fp32", "bf16", "fp16")

# What a machine without a GPU trains in minutes, where nothing else is asked for: a smoke run, not a model to keep.
WITHOUT_GPU: Mapping[str, Any] = MappingProxyType(
    {
        "encoder": "tiny",
        "frames": 8,
        "size": 112,
        "batch": 2,
        "steps": 200,
        "warmup": 20,
        "ema": 0.98,
        "eval_every": 100,
        "workers": 1,
    }
)


@dataclass(frozen=True)
class Config:
    """The options of `vdatrain run`; the defaults are for a GPU, `WITHOUT_GPU` has the others.

    A step shows `batch` x `accumulate` windows of `frames` frames of `size` x `size` pixels. `lr` None takes the
    preset's. `recompute_head` computes the fine half of the head twice to save its memory. `ema` is the decay of the
    averaged weights, 0 for none. `eval_windows` bounds an evaluation during training, 0 for all windows.
    """

    shards: str
    variant: str = "basic"
    encoder: str = "vits"
    init: str = "none"
    preset: str = "scratch"
    frames: int = 32
    stride: int = 1
    size: int = 518
    batch: int = 1
    accumulate: int = 1
    steps: int = 10_000
    lr: float | None = None
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    precision: str = "fp32"
    recompute_head: bool = False
    workers: int = 2
    log_every: int = 10
    eval_every: int = 500
    eval_windows: int = 32
    train_split: str = "train"
    eval_split: str = "val"

    def __post_init__(self) -> None:
        positive = ("frames", "stride", "batch", "accumulate", "steps", "log_every", "eval_every")
        for name in positive:
            _expect(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("warmup", "weight_decay", "clip", "workers", "eval_windows", "seed"):
            _expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _expect(
            self.size >= PATCH_SIZE and self.size % PATCH_SIZE == 0, "size", self.size, f"a multiple of {PATCH_SIZE}"
        )
        _expect(self.lr is None or self.lr > 0, "lr", self.lr, "more than 0")
        _expect(0 <= self.ema < 1, "ema", self.ema, "0 to just under 1")
        _expect(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")

    def to_json(self) -> dict[str, Any]:
        """Return the options by name."""
        return dataclasses.asdict(self)


def from_mapping(values: dict[str, Any], *, where: str) -> Config:
    """Build a Config; raises UsageError, naming `where`, for an unknown name or a value of the wrong type."""
    kinds = {field.name: field.type for field in dataclasses.fields(Config)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            raise UsageError(f"{where}: there is no option {name!r}; known: {', '.join(kinds)}.")
        expected = float if kinds[name] == float | None else kinds[name]
        if value is not None and expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected and not (value is None and name == "lr"):
            raise UsageError(f"{where}: {name} is {value!r}, expected {getattr(expected, '__name__', expected)}.")
        checked[name] = value
    if not checked.get("shards"):
        raise UsageError(f"{where}: --shards is missing: the folder that `vdaprep convert` wrote.")
    return Config(**checked)


def from_file(path: Path) -> dict[str, Any]:
    """Read options from TOML, by the names of Config; raises UsageError if the file is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {path}: there is no such file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: is not TOML ({error}).") from error


def _expect(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"--{name.replace('_', '-')} {found}: expected {expected}.")
