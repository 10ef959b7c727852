"""Everything that decides a training run, in one frozen value that the run folder keeps."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vdaprep.errors import UsageError
from vdaprep.storage.urls import redact
from vdaprep.units import parse_bytes

MAX_REPEATS = 1000


def parse_mix(text: str) -> dict[str, float]:
    """Read `tartanair=1,vkitti=3`; raises UsageError for anything else. An empty text is an empty mix."""
    mix: dict[str, float] = {}
    for item in text.split(",") if text else ():
        name, _, number = (word.strip() for word in item.partition("="))
        repeats = _number(number)
        if not name or name in mix or not 0 <= repeats <= MAX_REPEATS:
            raise UsageError(
                f"--mix {text}: {item.strip()!r} is not understood; expected each data set once, with how often its "
                f"windows come in an epoch (0 to {MAX_REPEATS}), like tartanair=1,vkitti=3."
            )
        mix[name] = repeats
    return mix


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


PRECISIONS = ("fp32", "bf16", "fp16")
RECOMPUTED = ("none", "head", "encoder", "all")
TENSORBOARD, WANDB, NO_TRACKER = "tensorboard", "wandb", "none"

# What a run may go on with otherwise than it began: where and how it is computed and kept, and how many windows a step
# shows, since the position in the stream is stored. `shards` may have moved; their contents may not have changed.
CHANGEABLE = frozenset(
    {"shards", "batch", "accumulate", "recompute", "compile", "workers", "log_every", "save_every", "keep", "track"}
    | {"cache", "cache_size", "cache_free", "skip_bad", "stall_timeout", "shard_model"}
)

_OPTIONAL: Mapping[Any, type] = MappingProxyType({float | None: float, str | None: str})

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
class TrainConfig:
    """The options of `vdatrain run`; the defaults are for a GPU, `WITHOUT_GPU` has the others.

    A step shows, on each rank, `batch` x `accumulate` windows of `frames` frames of `size` x `size` pixels. `lr` None
    takes the preset's. `recompute` names the parts that are computed twice to save their memory: the fine half of the
    head, the encoder's blocks, or both. `shard_model` spreads weights, gradients and moments over the ranks. `ema` is
    the decay of the averaged weights, 0 for none. `eval_windows` bounds an evaluation during training, 0 for all
    windows. Checkpoints are written every `save_every` steps, 0 for those that are evaluated only, and after every
    evaluation; `keep` of them stay beside the last. `cache` is a folder for at most `cache_size` of whole shards, which
    leaves `cache_free` of its disk free.

    `mix` says how often each data set's windows come in an epoch, as `parse_mix` reads it. Beside each window a step
    shows `images_per_clip` single frames. `skip_bad` windows that cannot be read are replaced by others; one that takes
    longer than `stall_timeout` seconds, 0 for no limit, ends the run.
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
    recompute: str = "none"
    compile: bool = False
    shard_model: bool = False
    mix: str = ""
    images_per_clip: int = 0
    skip_bad: int = 0
    stall_timeout: float = 300.0
    workers: int = 2
    log_every: int = 10
    eval_every: int = 500
    eval_windows: int = 32
    save_every: int = 0
    keep: int = 1
    train_split: str = "train"
    eval_split: str = "val"
    track: str = TENSORBOARD
    cache: str | None = None
    cache_size: str = "20GB"
    cache_free: str = "1GB"

    def __post_init__(self) -> None:
        from vdatrain.models.layers.encoder import (
            PATCH_SIZE,  # here: --help, which says the defaults, does without torch
        )

        positive = ("frames", "stride", "batch", "accumulate", "steps", "log_every", "eval_every")
        for name in positive:
            _expect(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in (
            "warmup",
            "weight_decay",
            "clip",
            "workers",
            "eval_windows",
            "seed",
            "save_every",
            "keep",
            "images_per_clip",
            "skip_bad",
            "stall_timeout",
        ):
            _expect(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _expect(
            self.size >= PATCH_SIZE and self.size % PATCH_SIZE == 0, "size", self.size, f"a multiple of {PATCH_SIZE}"
        )
        _expect(self.lr is None or self.lr > 0, "lr", self.lr, "more than 0")
        _expect(0 <= self.ema < 1, "ema", self.ema, "0 to just under 1")
        _expect(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        _expect(self.recompute in RECOMPUTED, "recompute", self.recompute, f"one of {', '.join(RECOMPUTED)}")
        if self.shard_model and self.compile:
            raise UsageError(
                "--shard-model does not go together with --compile; give --no-compile or --no-shard-model."
            )
        parse_mix(self.mix)
        parse_bytes(self.cache_size, "--cache-size")
        parse_bytes(self.cache_free, "--cache-free")
        known = self.track == NO_TRACKER or set(self.track.split(",")) <= {TENSORBOARD, WANDB}
        _expect(known, "track", self.track, "tensorboard, wandb, both with a comma between, or none")

    @property
    def frames_per_step(self) -> int:
        """Frames that go through the model in a step of one rank: those of the windows and the single ones beside."""
        return self.batch * self.accumulate * (self.frames + self.images_per_clip)

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers that `track` names, each once."""
        return tuple(sorted({*self.track.split(",")} - {NO_TRACKER}))

    def options(self) -> dict[str, Any]:
        """Return the options by name, for this run alone: `shards` may hold a password."""
        return dataclasses.asdict(self)

    def to_json(self) -> dict[str, Any]:
        """Return the options by name, as they may be kept and shown: `shards` without a URL's user or query."""
        return {**self.options(), "shards": redact(self.shards)}


def from_mapping(values: dict[str, Any], *, where: str) -> TrainConfig:
    """Build a Config; raises UsageError, naming `where`, for an unknown name or a value of the wrong type."""
    kinds = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            raise UsageError(f"{where}: there is no option {name!r}; known: {', '.join(kinds)}.")
        expected = _OPTIONAL.get(kinds[name], kinds[name])
        if value is not None and expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected and not (value is None and kinds[name] in _OPTIONAL):
            found = repr(value) if name != "shards" else type(value).__name__  # which may hold a password
            raise UsageError(f"{where}: {name} is {found}, expected {getattr(expected, '__name__', expected)}.")
        checked[name] = value
    if not checked.get("shards"):
        raise UsageError(f"{where}: --shards is missing: the folder, or its URL, that `vdaprep convert` wrote.")
    return TrainConfig(**checked)


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


@dataclass(frozen=True)
class Preset:
    """Learning rates at the peak, by the start of a parameter's name; 0 freezes the part.

    `rates` is looked up from the first to the last entry; the last has the empty start and so takes what is left.
    """

    summary: str
    rates: tuple[tuple[str, float], ...]

    def rate_of(self, name: str, *, lr: float | None) -> float:
        """Return the rate of a parameter; `lr` replaces the greatest one and scales the others along."""
        rate = next(rate for start, rate in self.rates if name.startswith(start))
        greatest = max(rate for _, rate in self.rates)
        return rate if lr is None else rate * lr / greatest


RECIPES: Mapping[str, Preset] = MappingProxyType(
    {
        "paper": Preset("encoder frozen, head and branch at 1e-4", (("pretrained.", 0.0), ("", 1e-4))),
        "finetune": Preset(
            "encoder at 1e-6, head at 1e-5, branch at 1e-4", (("pretrained.", 1e-6), ("head.", 1e-5), ("", 1e-4))
        ),
        "adapter": Preset("only the variant's own branch, at 1e-4", (("pretrained.", 0.0), ("head.", 0.0), ("", 1e-4))),
        "scratch": Preset("everything at 3e-4", (("", 3e-4),)),
    }
)


def preset(name: str) -> Preset:
    """Look a preset up; raises UsageError for an unknown name."""
    if name not in RECIPES:
        raise UsageError(f"--preset {name}: is not known; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
