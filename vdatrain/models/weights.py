"""Weights of any origin into a model: names, what must fit, what may be missing.

    Video Depth Anything    pretrained.*, head.*          complete; ours are these, and a variant's own beside them
    Depth Anything V2       pretrained.*, depth_head.*    an image model: no temporal modules, which start as no-ops
    DINOv2, from Meta or    cls_token, blocks.*, ...      the encoder alone, with or without its mask_token
    from timm

They are found bare in a `.pth`, `.pt` or `.safetensors` file, or under `model`, `state_dict` or `model_state_dict`, as
in a run's checkpoint; averaged ones under `ema` or `average` replace those of the same names. `module.` and
`_orig_mod.` in names are dropped.

Metric weights of Video Depth Anything differ in nothing but what they mean: their output is depth in metres. They are
known by the word "metric" in the name of the file, as published (`metric_video_depth_anything_vits.pth`); a run's
checkpoint says itself what it learned, and of which camera its depth is (`canonical`).
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.records import DataTerms
from vdatrain.config import TrainConfig, from_stored
from vdatrain.models import tensor_files
from vdatrain.models.layers.encoder import ENCODERS, encoder_spec
from vdatrain.models.variants.basic import VideoDepth

PUBLISHED_ENCODER = "dinov2"  # what `--init` takes in place of a file
_WRAPPERS = ("model", "state_dict", "model_state_dict", "ema", "average")  # a later one's tensors win
_WRAPPED_NAMES = ("module", "_orig_mod")  # parts of names, from DistributedDataParallel and torch.compile
_TEMPORAL = "head.motion_modules."
_GROUPS = (("temporal", _TEMPORAL), ("encoder", "pretrained."), ("head", "head."), ("branch", "branch."), ("other", ""))
_METRIC = re.compile(r"(?<![a-z])(?<!non[-_ ])(?<!not[-_ ])metric(?![a-z])", re.IGNORECASE)  # not "geometric"
_METRIC_FOLDER = re.compile(r"metric[-_ ]video[-_ ]depth", re.IGNORECASE)  # a repository of the hub
_NAMED = 3  # names a report gives of a group
_NAME_SHOWN = 120  # characters of each


@dataclass(frozen=True)
class Weights:
    """Tensors under the names that our models give them."""

    where: str
    """Where they come from, for messages: a path or a URL."""
    kind: str
    """What they are, for messages: "weights of a video model", "of an image model" or "of an encoder"."""
    tensors: Mapping[str, Tensor]
    """The tensors, by name."""
    lacks: tuple[str, ...] = ()
    """The starts of names that weights of this kind never have."""
    metric: bool = False
    """Whether the model's output is depth in metres rather than relative disparity."""
    canonical_focal_px: float | None = None
    """Of metric weights the focal length of the camera that this depth is of, see `canonical`; None: of any camera."""
    data: tuple[DataTerms, ...] = ()
    """The data that they were trained on, as far as the file says."""


@dataclass(frozen=True)
class LoadReport:
    """Which weights were copied into a model and which not; `str` prints a summary."""

    where: str
    """Where the weights come from."""
    kind: str
    """What they are, as in `Weights`."""
    matched: tuple[str, ...]
    """Copied."""
    missing: tuple[str, ...]
    """Not among the weights; the model keeps its initial ones."""
    unexpected: tuple[str, ...]
    """Weights that the model has no place for."""
    reshaped: tuple[str, ...]
    """Of another shape than the model's, with both shapes."""
    rebuilt: tuple[str, ...]
    """Position tables over time of another length; the model keeps the ones that it computed for its own length."""
    data: tuple[DataTerms, ...] = ()
    """The data that the weights were trained on, as far as the file says."""
    remark: str = ""
    """What became of them besides, in a line; empty: nothing."""

    def __str__(self) -> str:
        """Return licences, what matched, is missing, unexpected, of another shape, by group."""
        licences = [terms.named() for terms in self.data]
        return "\n".join(
            [
                f"{self.where}: {self.kind}",
                *([f"  licences: {'; '.join(licences)}"] if licences else []),
                f"  matched: {_by_group(self.matched, named=0)}",
                f"  missing: {_by_group(self.missing)}",
                f"  unexpected: {_by_group(self.unexpected)}",
                f"  reshaped: {_by_group((*self.reshaped, *self.rebuilt))}",
                *([f"  {self.remark}"] if self.remark else []),
            ]
        )


def read_weights(path: Path, *, metric: bool | None = None) -> Weights:
    """Read a file of weights; raises DataError if it is missing, damaged, unsafe or none.

    metric: whether their output is depth in metres; None: as a run's configuration or the name of the file says.
    """
    state = tensor_files.load(path)
    weights = make_weights(state, where=str(path))
    if "config" in state:
        config = from_stored(state["config"], where=str(path))
        return replace(of_run(config, weights), data=DataTerms.parse_all(state.get("data"), where=str(path)))
    metric = is_named_metric(path) if metric is None else metric
    if metric and _TEMPORAL in weights.lacks:
        raise DataError(
            f"{path}: are metric weights of an image model, whose depth is a sigmoid times its greatest depth, which a "
            "video model does not have; take the relative ones, such as depth_anything_v2_vits.pth."
        )
    return replace(weights, metric=metric and not weights.lacks)


def of_run(config: TrainConfig, weights: Weights) -> Weights:
    """Return weights with what a run's configuration says of their output."""
    metric = config.task == "metric"
    return replace(weights, metric=metric, canonical_focal_px=float(config.size) if metric else None)


def is_named_metric(path: Path) -> bool:
    """Say whether a file of weights, its link's target or its folder is named metric."""
    places = (path.absolute(), path.resolve())
    return any(_METRIC.search(place.name) or _METRIC_FOLDER.search(place.parent.name) for place in places)


def make_weights(state: Mapping[str, object], *, where: str) -> Weights:
    """Unwrap and rename weights and tell their kind; raises DataError if they are no tensors."""
    tensors = {name: value for name, value in _unwrap(state).items() if isinstance(value, Tensor)}
    others = [name for name, value in _unwrap(state).items() if not isinstance(value, Tensor)]
    if others or not tensors:
        found = f"{others[0]!r} that is no tensor" if others else "no tensors"
        raise DataError(f"{where}: holds {found}, expected weights, bare or under one of {', '.join(_WRAPPERS)}.")
    if "cls_token" in tensors:
        encoder = {f"pretrained.{name}": value for name, value in tensors.items()}
        return Weights(where, "weights of an encoder", encoder, lacks=("head.", "pretrained.mask_token"))
    if any(name.startswith("depth_head.") for name in tensors):
        image = {_renamed(name, "depth_head.", "head."): value for name, value in tensors.items()}
        return Weights(where, "weights of an image model", image, lacks=(_TEMPORAL,))
    return Weights(where, "weights of a video model", tensors)


def fetch_encoder(encoder: str) -> Weights:
    """Fetch DINOv2's weights from the hub through timm, or from its cache.

    Raises UsageError if there are none for the encoder, DataError, saying what to do, if they cannot be fetched.
    """
    name = encoder_spec(encoder).timm_name
    if name is None:
        fitting = ", ".join(known for known, spec in ENCODERS.items() if spec.timm_name)
        raise UsageError(f"--init {PUBLISHED_ENCODER}: there is none for encoder {encoder!r}; choose one of {fitting}.")
    import timm

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each of its ten attempts
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        page = f"https://huggingface.co/timm/{name}.lvd142m"
        raise DataError(
            f"--init {PUBLISHED_ENCODER}: the weights cannot be fetched from the hub ({type(error).__name__}); bring "
            f"model.safetensors of {page} to this machine and give --init FILE instead."
        ) from error
    return make_weights(model.state_dict(), where=f"timm's {name}")


def load_weights(
    model: nn.Module, weights: Weights | Path | str, *, may_miss: Sequence[str] | None = None
) -> LoadReport:
    """Copy weights into a model by name and shape.

    All must fit, but for what their kind or the variant excuses.

    Position tables over time are functions of their length alone: one of another length is not copied, the model keeps
    its own.

    Args:
        model: A variant that `build_model` built.
        weights: A file, in any form that this module's docstring lists, or what was read of one.
        may_miss: The starts of names that may be missing; None excuses all that the variant adds to the published
            model, unless the weights have some of it: then they are of this variant and must be complete.

    Returns:
        What was copied and what was not.

    Raises:
        DataError: The file is missing, damaged, unsafe or holds no weights, or names are unexpected, of another shape
            or missing without excuse; the model is then unchanged.
    """
    if not isinstance(weights, Weights):
        weights = read_weights(Path(weights))
    if may_miss is None:
        own: tuple[str, ...] = getattr(model, "own_prefixes", ())
        may_miss = () if any(name.startswith(own) for name in weights.tensors) else own
    report = check_fit(model, weights, may_miss=may_miss)
    taken = {name: weights.tensors[name] for name in report.matched}
    model.load_state_dict({**model.state_dict(), **taken}, strict=True)
    if isinstance(model, VideoDepth):
        model.metric, model.canonical_focal_px = weights.metric, weights.canonical_focal_px
    return report


def check_fit(model: nn.Module, weights: Weights, *, may_miss: Sequence[str] = ()) -> LoadReport:
    """Return what `load_weights` would do, also on the device `meta`; raises as it does."""
    expected = model.state_dict()
    report = _compare(expected, weights)
    excused = (*may_miss, *weights.lacks)
    problems = {
        "missing": [name for name in report.missing if not name.startswith(excused)],
        "unexpected": report.unexpected,
        "of another shape": report.reshaped,
        "no floating-point numbers": [name for name in report.matched if not weights.tensors[name].is_floating_point()],
    }
    found = [f"{kind}: {_by_group(names)}" for kind, names in problems.items() if names]
    if found:
        raise DataError(
            f"{weights.where}: does not fit this model: {weights.kind}, {'; '.join(found)}; is it of another encoder "
            "or variant?"
        )
    return report


def _compare(expected: Mapping[str, Tensor], weights: Weights) -> LoadReport:
    given = weights.tensors
    both = [name for name in expected if name in given]
    differ = [name for name in both if given[name].shape != expected[name].shape]
    rebuilt = [name for name in differ if _is_other_length(given[name], expected[name], name=name)]
    shapes = {name: f"{name} {list(given[name].shape)} for {list(expected[name].shape)}" for name in differ}
    return LoadReport(
        where=weights.where,
        kind=weights.kind,
        matched=tuple(name for name in both if name not in shapes),
        missing=tuple(name for name in expected if name not in given),
        unexpected=tuple(name for name in given if name not in expected),
        reshaped=tuple(shapes[name] for name in differ if name not in rebuilt),
        rebuilt=tuple(shapes[name] for name in rebuilt),
        data=weights.data,
    )


def _is_other_length(given: Tensor, expected: Tensor, *, name: str) -> bool:
    """Say whether both are position tables [1, frames, channels] of other frames alone."""
    return name.endswith(".pe") and given.shape[::2] == expected.shape[::2]


def _unwrap(value: Mapping[str, object]) -> dict[str, object]:
    """Return the content of the wrappers, or the bare mapping, names without wrappers'."""
    wrapped = [inner for name in _WRAPPERS if isinstance(inner := value.get(name), Mapping)]
    if not wrapped:
        return {_plain(str(name)): item for name, item in value.items()}
    return {name: item for inner in wrapped for name, item in _unwrap(inner).items()}


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPED_NAMES)


def _renamed(name: str, start: str, new_start: str) -> str:
    return new_start + name.removeprefix(start) if name.startswith(start) else name


def _by_group(names: Iterable[str], *, named: int = _NAMED) -> str:
    """Count names by group and give the first few of each."""
    groups: dict[str, list[str]] = {}
    for name in (name[:_NAME_SHOWN] for name in names):
        group = next(group for group, start in _GROUPS if name.startswith(start))
        groups.setdefault(group, []).append(name)
    return ", ".join(_count(group, found, named=named) for group, found in sorted(groups.items())) or "none"


def _count(group: str, names: Sequence[str], *, named: int) -> str:
    more = ", ..." if len(names) > named else ""
    return f"{len(names)} {group}" + (f" ({', '.join(names[:named])}{more})" if named else "")
