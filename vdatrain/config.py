"""What decides a training run: `TrainConfig`, its defaults without a GPU, the presets."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

from vdaprep.errors import DataError, UsageError
from vdaprep.storage.documents import DocumentError, parse_json, parse_toml, shown
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES, LimitError
from vdaprep.storage.urls import redact
from vdaprep.units import parse_bytes

EncoderName = Literal["tiny", "vits", "vitb", "vitl"]
TaskName = Literal["relative", "metric"]
PresetName = Literal["paper", "finetune", "adapter", "scratch"]
PrecisionName = Literal["fp32", "bf16", "fp16"]
RecomputedPart = Literal["none", "head", "encoder", "all"]
AspectName = Literal["square", "native"]
ShortClips = Literal["drop", "bucket"]
WindowOrder = Literal["shuffle", "sequential"]
AttentionName = Literal["full", "chunk", "causal"]
LicenceName = Literal["any", "commercial"]
FinalWeights = Literal["best", "last"]
DifferencesName = Literal["both", "past", "decoded", "zeros", "shuffled"]

PRECISIONS: tuple[str, ...] = get_args(PrecisionName)
MAX_CHUNK = 32
"""Frames of a chunk, at most: rows of the published position table."""
PATCH_PX = 14
"""Pixels of an encoder's patch, each way; `size` is a multiple of it."""
MAX_REPEATS = 1000
"""How often `mix` may show a data set's windows in an epoch."""
MAX_STEPS = 10**9
"""Steps of a run; of other numbers, too, a greater one is a slip, or a stranger's file that asks for all memory."""
_SHARES_WITHIN = 1.0
"""Per cent by which the shares of a mix may miss 100: thirds are written as 33 %."""
NO_SPLIT = "none"
"""What `eval_split` is for a run that evaluates nothing."""
TENSORBOARD, WANDB, NO_TRACKER = "tensorboard", "wandb", "none"


def _option(default: Any, *, changeable: bool = False, cpu: Any = None, **shown: Any) -> Any:
    """Return a field of `TrainConfig`, which is an option of the command line, too.

    Args:
        default: its value where none is given.
        changeable: whether a run may be resumed with another value.
        cpu: what `vdatrain run` takes without a GPU, where no value is given.
        shown: how --help shows it, see `vdaprep.cli.options`.
    """
    return field(default=default, metadata={"changeable": changeable, "cpu": cpu, **shown})


@dataclass(frozen=True)
class TrainConfig:
    """The options of a training run; the defaults are for a GPU.

    Each rank shows the model `batch` x `accumulate` windows of `frames` frames of `size` x `size` pixels in a step.

    Raises:
        UsageError: an option has a value that cannot be.
    """

    shards: str = field(metadata={"changeable": True, "cpu": None, "metavar": "DIR"})
    """Folder that vdaprep convert wrote, or its URL; several with commas between."""
    variant: str = "basic"
    """Model variant, see vdatrain variants."""
    differences: DifferencesName = "both"
    """What the variant is shown of differences: both, to the frames before and after; past ones alone; decoded, of the
    decoded frames even where shards store them; as controls zeros, or shuffled, those of another clip."""
    task: TaskName = "relative"
    """What is learned: disparity up to scale and shift, or, with metric, depth in metres."""
    encoder: EncoderName = _option("vits", cpu="tiny")
    """Encoder, by size."""
    init: str = _option("none", metavar="FILE")
    """Weights to begin with: a file, published ones by name (vda-small, dav2-large), dinov2 or none."""
    preset: PresetName = "scratch"
    """Which parts learn, and how fast."""
    attention: AttentionName = "full"
    """Frames that a frame sees in time: all of its window, or, with causal, none after it; chunk: both and between."""
    frames: int = _option(32, cpu=8)
    """Frames of a window."""
    stride: int = 1
    """Take every n-th frame of a clip."""
    size: int = _option(518, cpu=112)
    """Pixels of a side, a multiple of 14."""
    aspect: AspectName = "square"
    """Crop windows to squares, or, native, to the nearest of 9:16, 3:4, 1:1, 4:3, 16:9 and 21:9, of as many pixels;
    each batch has one shape, and with --compile each shape is compiled once."""
    short_clips: ShortClips = "drop"
    """Leave out clips shorter than a window, or, bucket, take windows of a half, a quarter, ... of the frames of them;
    each batch has one length."""
    batch: int = _option(1, changeable=True, cpu=2)
    """Windows at a time, on each rank."""
    accumulate: int = _option(1, changeable=True)
    """Batches of a step."""
    steps: int = _option(10_000, changeable=True, cpu=200)
    """Steps of the optimiser."""
    lr: float | None = _option(None, show_default="the preset's")
    """Peak learning rate; the preset's other rates are scaled along."""
    warmup: int = _option(100, cpu=20)
    """Steps until the peak learning rate."""
    weight_decay: float = 0.01
    """Weight decay of AdamW; norms, biases and embeddings have none."""
    clip: float = 1.0
    """Norm to which gradients are clipped; 0: they are not."""
    ema: float = _option(0.999, cpu=0.98)
    """Decay of the averaged weights; 0: none."""
    stride_weight: float = 0.0
    """Weight in the loss of changes over 1, 2, 4 and 8 frames; 0: they are left out."""
    stability: float = 0.0
    """Brightness s, of 0 to 1, by which changes of depth count exp(-|dI| / s) in the loss; 0: all count alike."""
    warp_weight: float = 0.0
    """Weight in the loss of the temporal alignment error by true poses; 0: it is left out."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    precision: PrecisionName = "fp32"
    """Numbers that matrix products and convolutions are computed in."""
    recompute: RecomputedPart = _option("none", changeable=True)
    """Parts computed again in the backward pass, which saves memory."""
    compile: bool = _option(False, changeable=True)
    """Use torch.compile."""
    shard_model: bool = _option(False, changeable=True)
    """Spread weights, gradients and moments over the ranks (FSDP2)."""
    mix: str = _option("", show_default="all once")
    """How often each data set's windows come in an epoch: tartanair=1,vkitti=3; or shares of frames: a=40%,b=60%."""
    licence: LicenceName = _option("any", changeable=True)
    """Data to take: any, or with commercial only sets whose licence allows commercial use."""
    order: WindowOrder = "shuffle"
    """All windows shuffled, or whole shards one after the other: sequential, for object stores and slow disks."""
    shuffle_buffer: int = 64
    """Windows from which the sequential order draws at random."""
    images_per_clip: int = 0
    """Single frames shown beside each window."""
    images: str = _option("", changeable=True, metavar="DIR", show_default="the windows' own frames")
    """Shards whose frames these are, as vdatrain label or vdaprep convert wrote; or their URL."""
    distill: float = 0.5
    """Weight in the loss of those that a teacher labelled, without a tenth of their pixels; others count 1."""
    skip_bad: int = _option(0, changeable=True)
    """Unreadable windows to replace by others before the run ends."""
    stall_timeout: float = _option(300.0, changeable=True)
    """Seconds until a read counts as stalled; 0: never."""
    workers: int = _option(2, changeable=True, cpu=1)
    """Threads that read."""
    log_every: int = _option(10, changeable=True)
    """Steps between two lines of the log."""
    eval_every: int = _option(500, cpu=100)
    """Steps between two evaluations on held-out clips."""
    eval_windows: int = 32
    """Windows of each of those; 0: all."""
    forget: float = _option(0.1, changeable=True)
    """Share by which no held-out data set may be worse than at first, for weights to be the best; 0: any."""
    save_every: int = _option(0, changeable=True)
    """Steps between two checkpoints; 0: at evaluations only, which always save one."""
    keep: int = _option(1, changeable=True)
    """Checkpoints kept beside the last."""
    train_split: str = "train"
    """Split to train on."""
    eval_split: str = "val"
    """Split to evaluate on, where the shards have it; none: nothing is evaluated."""
    final: FinalWeights = _option("best", changeable=True)
    """Weights that are evaluated at the end, on all windows: the best of the evaluations, or the last step's."""
    track: str = _option(TENSORBOARD, changeable=True)
    """Trackers: tensorboard, wandb, both with a comma between, or none."""
    cache: str | None = _option(None, changeable=True, metavar="DIR")
    """Folder for copies of whole shards, for slow disks and URLs."""
    cache_size: str = _option("20GB", changeable=True)
    """Most that the cache holds."""
    cache_free: str = _option("1GB", changeable=True)
    """Space that the cache leaves free on its disk."""
    device: str | None = _option(None, changeable=True, show_default="the GPU if there is one")
    """Device to train on: cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if _choices(kind):
                _expect(getattr(self, name) in _choices(kind), self, name, f"one of {', '.join(_choices(kind))}")
        _expect(self.lr is None or self.lr > 0, self, "lr", "more than 0")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            _expect(value is None or value >= least, self, name, "at least 1" if least else "0 or more")
            _expect(value is None or value <= most, self, name, f"at most {most:.10g}")
        _expect(self.size % PATCH_PX == 0, self, "size", f"a multiple of {PATCH_PX}")
        _expect(0 <= self.ema < 1, self, "ema", "0 to just under 1")
        if self.shard_model and self.compile:
            raise UsageError(
                "--shard-model does not go together with --compile; give --no-compile or --no-shard-model."
            )
        if self.differences == "shuffled" and self.batch < 2:
            raise UsageError(
                "--differences shuffled takes those of another window of the batch; give --batch 2 or more, and "
                "--accumulate less."
            )
        if self.order == "sequential" and (self.aspect, self.short_clips) != ("square", "drop"):
            raise UsageError(
                "--order sequential does not go together with --aspect native or --short-clips bucket; give --order "
                "shuffle, or neither of them."
            )
        if self.order == "sequential" and self.images_per_clip:
            raise UsageError(
                "--images-per-clip does not go together with --order sequential; give --order shuffle, or no images."
            )
        parse_mix(self.mix)
        parse_bytes(self.cache_size, option="--cache-size")
        parse_bytes(self.cache_free, option="--cache-free")
        known = self.track == NO_TRACKER or set(self.track.split(",")) <= {TENSORBOARD, WANDB}
        _expect(known, self, "track", "tensorboard, wandb, both with a comma between, or none")

    @property
    def frames_per_step(self) -> int:
        """Frames that one rank shows the model in a step: those of the windows and the single ones."""
        return self.batch * self.accumulate * (self.frames + self.images_per_clip)

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers that `track` names, each once."""
        return tuple(sorted({*self.track.split(",")} - {NO_TRACKER}))

    def changed(self, given: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration that a run is resumed with.

        Raises:
            UsageError: `given` changes an option that is not `CHANGEABLE`, or makes the run shorter.
        """
        stored = self.options()
        changed = from_mapping({**stored, **given}, where="vdatrain run --resume")
        refused = self.refused_changes(changed)
        if refused:
            raise UsageError(f"--resume goes on as the run began; leave out what would change {', '.join(refused)}.")
        if changed.steps < self.steps:
            raise UsageError(
                f"--steps {changed.steps}: the run has {self.steps} steps, and --resume makes it longer, never "
                "shorter; give more, or leave --steps out."
            )
        return changed

    def refused_changes(self, other: "TrainConfig") -> list[str]:
        """Return what `other` changes that a run keeps for good, each as `--seed 0 to 1`."""
        mine, theirs = self.options(), other.options()
        return [
            f"{option_name(name)} {value} to {theirs[name]}"
            for name, value in mine.items()
            if value != theirs[name] and name not in CHANGEABLE
        ]

    def options(self) -> dict[str, Any]:
        """Return the options by name, for this process alone: places of shards may hold a password."""
        return dataclasses.asdict(self)

    def to_json(self) -> dict[str, Any]:
        """Return the options by name, without user and query of the URLs in `shards` and `images`."""
        return {**self.options(), "shards": redact(self.shards), "images": redact(self.images)}


_KINDS: Mapping[str, Any] = MappingProxyType(get_type_hints(TrainConfig))

_BOUNDS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **dict.fromkeys(("steps", "log_every", "eval_every"), (1, MAX_STEPS)),
        **dict.fromkeys(
            ("warmup", "weight_decay", "clip", "lr", "eval_windows", "save_every", "forget", "distill"), (0, MAX_STEPS)
        ),
        **dict.fromkeys(("skip_bad", "keep", "stall_timeout"), (0, MAX_STEPS)),
        **dict.fromkeys(("batch", "accumulate", "shuffle_buffer"), (1, 10**6)),
        "frames": (1, 1000),  # of a clip
        "stride": (1, 258),  # of the sampler
        "size": (PATCH_PX, 600 * PATCH_PX),
        "images_per_clip": (0, 1000),
        "workers": (0, 1000),
        "seed": (0, 2**63 - 1),
    }
)
"""Least and greatest value of options that are numbers."""

# A run stores its position in the order of windows, so it may be resumed with another batch; shards may have moved but
# not changed; steps may be added, and the learning rate then falls until the new end.
CHANGEABLE = frozenset(item.name for item in dataclasses.fields(TrainConfig) if item.metadata.get("changeable"))
"""Options that may differ when a run is resumed: where, how and how long it is computed, and what is kept."""

CPU_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        item.name: item.metadata["cpu"]
        for item in dataclasses.fields(TrainConfig)
        if item.metadata.get("cpu") is not None
    }
)
"""What a machine without a GPU trains in minutes, where nothing else is asked for: a smoke run, not a model to keep."""

GPU_WEIGHTS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "relative": {"vits": "vda-small", "vitb": "vda-base", "vitl": "vda-large"},
        "metric": {"vits": "vda-metric-small", "vitb": "vda-metric-base", "vitl": "vda-metric-large"},
    }
)
"""What a run on a GPU begins with, by task and encoder, where nothing else is asked for: a fine-tuning, not random
weights."""


# -------------------------------------------------------------------------------------------------- from files and text


def from_mapping(values: Mapping[str, Any] | object, *, where: str) -> TrainConfig:
    """Build a configuration from options by name.

    Args:
        values: as `TrainConfig.to_json` gives them; what is missing has its default.
        where: where they are from, for the sentence of an error.

    Raises:
        UsageError: an unknown name, a value of the wrong type or one that cannot be.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: holds {shown(values)} where options by name were expected.")
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _KINDS:
            raise UsageError(f"{where}: there is no option {shown(name)}; known: {', '.join(_KINDS)}.")
        checked[name] = _checked(name, value, where=where)
    if not checked.get("shards"):
        raise UsageError(f"{where}: --shards is missing: the folder, or its URL, that `vdaprep convert` wrote.")
    return TrainConfig(**checked)


def from_stored(values: Mapping[str, Any] | object, *, where: str) -> TrainConfig:
    """Build the configuration that a run's file holds; otherwise as `from_mapping`.

    Raises:
        DataError: what `from_mapping` refuses. It is the file's fault: nobody gave these options in a command.
    """
    try:
        return from_mapping(values, where=where)
    except UsageError as error:
        found = str(error).removeprefix(f"{where}: ").rstrip(".")
        raise DataError(
            f"{where}: holds options that no run has ({found}); the file was changed, or another version wrote it: get "
            "the unchanged one, or begin the run again elsewhere."
        ) from error


def from_file(path: Path) -> dict[str, Any]:
    """Read options by name from a TOML file, or from JSON such as a run's config.json.

    Raises:
        UsageError: there is no such file, or it is neither.
    """
    where = f"--config {path}"
    try:
        data = path.read_bytes()
        parse = parse_json if path.suffix == ".json" else parse_toml
        found = parse(data, where=where, limit=MAX_SMALL_DOCUMENT_BYTES)
        return dict((found.mapping("config") if "config" in found else found).values)
    except FileNotFoundError as error:
        raise UsageError(f"{where}: there is no such file.") from error
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror}).") from error
    except (DocumentError, LimitError) as error:
        raise UsageError(f"{str(error).rstrip('.')}; expected options by name, or the config.json of a run.") from error


@dataclass(frozen=True)
class Mix:
    """How much of each data set a run shows."""

    numbers: Mapping[str, float]
    """By data set: how often its windows come in an epoch, or its share of the frames, 0 to 1."""
    of_frames: bool = False
    """Whether the numbers are shares; a data set without one then has none, and otherwise comes once."""

    def takes(self, dataset: str) -> bool:
        """Say whether anything of a data set is shown."""
        return self.numbers.get(dataset, 0 if self.of_frames else 1) > 0


def parse_mix(text: str) -> Mix:
    """Read `tartanair=1,vkitti=3`, or shares of frames, `tartanair=40%,vkitti=60%`.

    An empty text is an empty mix.

    Raises:
        UsageError: the text is anything else, or the shares do not add up to 100 %.
    """
    numbers: dict[str, float] = {}
    items = text.split(",") if text else []
    of_frames = "%" in text
    for item in items:
        name, _, number = (word.strip() for word in item.partition("="))
        value = _number(number.removesuffix("%").rstrip()) if number.endswith("%") == of_frames else math.nan
        if not name or name in numbers or not 0 <= value <= (100 if of_frames else MAX_REPEATS):
            raise UsageError(
                f"--mix {text}: {item.strip()!r} is not understood; expected each data set once, with how often its "
                f"windows come in an epoch (0 to {MAX_REPEATS}), like tartanair=1,vkitti=3, or all with shares of "
                "frames, like tartanair=40%,vkitti=60%."
            )
        numbers[name] = value / 100 if of_frames else value
    total = 100 * sum(numbers.values())
    if of_frames and abs(total - 100) > _SHARES_WITHIN:
        raise UsageError(f"--mix {text}: the shares add up to {total:g} %; expected 100.")
    return Mix(numbers, of_frames)


def parse_attention(text: str) -> int | None:
    """Read `full`, `causal` or `chunk:8` as the frames of a chunk, None for full.

    Raises:
        UsageError: the text is anything else.
    """
    kind, _, number = text.partition(":")
    if kind == "chunk" and number.isdecimal() and 1 <= int(number) <= MAX_CHUNK:
        return int(number)
    if text not in ("full", "causal"):
        raise UsageError(f"--attention {text[:60]}: expected full, causal, or chunk:8 with 1 to {MAX_CHUNK} frames.")
    return 1 if text == "causal" else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _checked(name: str, value: Any, *, where: str) -> Any:
    """Return an option's value if its type is right, whole numbers as floats where expected."""
    kinds = [type(None) if kind is None else kind for kind in get_args(_KINDS[name]) or (_KINDS[name],)]
    if _choices(_KINDS[name]):
        kinds = [str]
    if float in kinds and type(value) is int and abs(value) <= MAX_STEPS:
        value = float(value)
    if type(value) not in kinds:
        found = shown(value) if name not in ("shards", "images") else type(value).__name__  # which may hold a password
        raise UsageError(f"{where}: {name} is {found}, expected {kinds[0].__name__}.")
    choices = _choices(_KINDS[name])
    if choices and value not in choices:
        raise UsageError(f"{where}: {option_name(name)} {str(value)[:60]}: expected one of {', '.join(choices)}.")
    return value


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the values of a Literal; none of another type."""
    return tuple(value for value in get_args(kind) if isinstance(value, str))


def option_name(field_name: str) -> str:
    """Return how the command line calls a field."""
    return f"--{field_name.replace('_', '-')}"


def _expect(condition: bool, config: TrainConfig, name: str, expected: str) -> None:
    if not condition:
        raise UsageError(f"{option_name(name)} {str(getattr(config, name))[:60]}: expected {expected}.")


# ----------------------------------------------------------------------------------------------------- learning rates


@dataclass(frozen=True)
class Preset:
    """Peak learning rates by the start of a parameter's name."""

    summary: str
    """What learns, in a few words."""
    rates: tuple[tuple[str, float], ...]
    """Start of names and their rate, looked up in this order; 0 freezes the part. The last start is empty."""

    def rate_of(self, name: str, *, lr: float | None) -> float:
        """Return a parameter's rate; `lr` replaces the greatest and scales the others along."""
        rate = next(rate for start, rate in self.rates if name.startswith(start))
        greatest = max(rate for _, rate in self.rates)
        return rate if lr is None else rate * lr / greatest


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "paper": Preset("encoder frozen, head and branch at 1e-4", (("pretrained.", 0.0), ("", 1e-4))),
        "finetune": Preset(
            "encoder at 1e-6, head at 1e-5, branch at 1e-4", (("pretrained.", 1e-6), ("head.", 1e-5), ("", 1e-4))
        ),
        "adapter": Preset("only the variant's own branch, at 1e-4", (("pretrained.", 0.0), ("head.", 0.0), ("", 1e-4))),
        "scratch": Preset("everything at 3e-4", (("", 3e-4),)),
    }
)
