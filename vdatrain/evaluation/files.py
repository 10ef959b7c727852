"""An evaluation as files: `evaluation.json`, `windows.jsonl`, a `gallery-DATASET.npz` each.

    datasets, average    the metrics by name, of each data set and of all
    protocol             what was evaluated, see `Protocol`
    data                 of each data set, a SHA-256 of the clips: their frames, cameras and greatest evaluated depth
    config, step         of a run's weights: its options, and the step they are of
    weights              of others: the file's name and SHA-256, their encoder, whether they are metric
    name                 what tables call the model, where it was given one
    stressed             datasets and average once more, by the stress that images were put under
    stress_seed          what that was drawn from, with the clips' names

Those that `vdatrain run` wrote before there were `protocol` and `data` are read, too. What is read may be a stranger's.
"""

import hashlib
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vdaprep.errors import DataError, UsageError
from vdaprep.shards.reader import Clip
from vdaprep.storage.atomic import check_output_folder, new_file, write_text
from vdaprep.storage.documents import DocumentError, Fields, parse_json, shown
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES, MAX_WINDOW_BYTES, LimitError, check_pixels
from vdatrain.config import CHANGEABLE
from vdatrain.evaluation.evaluate import Evaluation, Gallery
from vdatrain.evaluation.long import LongEvaluation
from vdatrain.evaluation.windows import write_windows
from vdatrain.models.tensor_files import READER_ERRORS
from vdatrain.objectives.metrics import Alignment
from vdatrain.run_dir import CONFIG_FILE, LOG_FILE

EVALUATION_FILE = "evaluation.json"
METRICS = {"absrel": -1, "delta1": 1, "tae": -1}
"""The metrics that tables have; -1: lower is better."""
AVERAGE = "average"
MAX_NAME = 200
"""Characters of what tables call a model."""

_GREATEST = 1e9  # of a metric: no depth that is evaluated gives as much
_MAX_DISPARITY = 1e12  # 1/m
_MAX_LOG_BYTES = 256 << 20


@dataclass(frozen=True)
class Protocol:
    """What was evaluated; figures of the same data under another one cannot be compared."""

    split: str
    """The split."""
    size: int
    """Pixels of the short side that the model saw."""
    frames: int | None
    """Frames of a window; None: whole trajectories."""
    stride: int = 1
    """Frames from one frame of a window to the next."""
    alignment: Alignment = "scale-shift"
    """How predictions were fitted to the truth: metric models' are not."""

    def options(self) -> dict[str, str]:
        """Return the options of `vdatrain eval` that evaluate so, with what tables say of them."""
        length = {"--long": "whole trajectories"} if self.frames is None else {"--frames": str(self.frames)}
        fit = {"--metric": "not fitted"} if self.alignment == "none" else {}
        return {"--split": self.split, "--size": str(self.size), **length, "--stride": str(self.stride), **fit}


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that was evaluated: a finished run, or weights from elsewhere."""

    folder: Path
    """Where its evaluation is."""
    name: str
    """The variant, or what weights from elsewhere are called; in a comparison it tells models apart."""
    facts: Mapping[str, str | int]
    """What tables say of it besides: `encoder`, and of a run `steps`, `step` and `seed`."""
    protocol: Protocol
    """What was evaluated."""
    data: Mapping[str, str]
    """SHA-256 by data set; empty where it is not known."""
    shards: str | None
    """SHA-256 of all shards, of a run; None where it is not known."""
    figures: Mapping[str, Mapping[str, float | None]]
    """By data set and for AVERAGE: METRICS."""
    identity: str
    """The same for copies of one evaluation."""
    log: Sequence[Mapping[str, Any]] = ()
    """The lines of the run's log: their numbers, and the averages of evaluations."""


def data_digests(clips: Iterable[Clip]) -> dict[str, str]:
    """Return what tells the clips of each data set from others: a SHA-256 of them."""
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for clip in clips:
        sums = " ".join(map(str, clip.entry.crc32))
        lines[clip.dataset].append(f"{clip.key} {clip.evaluation_max_m} {sums}")
    return {name: hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest() for name, found in lines.items()}


# -------------------------------------------------------------------------------------------------------------- writing


def check_evaluation_folder(folder: Path, *, inputs: Sequence[object], name: str | None = None) -> None:
    """Raise UsageError or OutputError unless an evaluation can be written to a folder, no run's."""
    if name is not None and not 0 < len(name) <= MAX_NAME:
        raise UsageError(f"--name: has {len(name)} characters, expected 1 to {MAX_NAME}.")
    if (folder / CONFIG_FILE).exists():
        raise UsageError(f"--out {folder}: holds a run, which has an evaluation of its own; choose another folder.")
    check_output_folder(folder, inputs=inputs)


def write_evaluation(
    folder: Path,
    evaluation: Evaluation | LongEvaluation,
    *,
    protocol: Protocol,
    clips: Iterable[Clip],
    origin: Mapping[str, Any],
) -> None:
    """Write an evaluation of `clips`.

    origin: `config` and `step`, or `weights`, and perhaps `name`, as the module's docstring has them. Raises
    OutputError.
    """
    if isinstance(evaluation, Evaluation):
        for name, gallery in evaluation.galleries.items():
            with new_file(folder / f"gallery-{name}.npz") as file:
                np.savez_compressed(file, **asdict(gallery))
        write_windows(folder, evaluation.by_window)
    facts = {**evaluation.to_json(), "protocol": asdict(protocol), "data": data_digests(clips), **origin}
    write_text(folder / EVALUATION_FILE, json.dumps(facts, indent=2) + "\n")


# -------------------------------------------------------------------------------------------------------------- reading


def read_evaluation(folder: Path) -> EvaluatedModel:
    """Read a folder's evaluation; raises DataError or DocumentError if it has no good one."""
    where = folder / EVALUATION_FILE
    document = _read(where, missing="a run writes it when it ends, if the shards have a held-out split")
    rows = document.mapping("datasets")
    if not rows.values:
        document.fail("datasets", "is empty, expected at least one data set")
    figures = {name: _row(rows.mapping(name)) for name in rows.names("a data set")}
    figures[AVERAGE] = _row(document.mapping("average"))
    config, weights = document.optional_mapping("config"), document.optional_mapping("weights")
    source = config or weights
    if source is None:
        document.fail("config", "is missing, expected that of a run, or weights")
    own = {key: value for key, value in source.values.items() if key not in CHANGEABLE}
    name = document.optional_text("name", at_most=MAX_NAME) or source.text(
        "variant" if config else "name", at_most=MAX_NAME
    )
    step = document.integer("step", 0, 2**53) if config else 0
    protocol = _protocol(document, source)
    data = document.optional_mapping("data") or Fields({}, where=str(where))
    return EvaluatedModel(
        folder=folder,
        name=name,
        facts={**_facts(source), **({"step": step} if config else {})},
        protocol=protocol,
        data={key: data.sha256(key) for key in data.values},
        shards=_shards_digest(folder),
        figures=figures,
        identity=json.dumps([figures, own, step, protocol.options()], sort_keys=True),
        log=_read_log(folder / LOG_FILE),
    )


def _read(path: Path, *, missing: str) -> Fields:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SMALL_DOCUMENT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: is missing; {missing}.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return parse_json(data, where=str(path), limit=MAX_SMALL_DOCUMENT_BYTES)


def _row(fields_: Fields) -> dict[str, float | None]:
    return {
        metric: fields_.optional_number(metric, 0, _GREATEST)
        if metric == "tae"
        else fields_.number(metric, 0, _GREATEST)
        for metric in METRICS
    }


def _facts(source: Fields) -> dict[str, str | int]:
    found: dict[str, str | int] = {"encoder": source.text("encoder", at_most=200)}
    for name in ("steps", "seed"):
        value = source.optional_integer(name, 0, 2**64)
        found |= {} if value is None else {name: value}
    return found


def _protocol(document: Fields, config: Fields) -> Protocol:
    """Return what an evaluation says of itself; of an old one, the run's own options."""
    given = document.optional_mapping("protocol")
    found = given or config
    return Protocol(
        split=found.text("split" if given else "eval_split", at_most=200),
        size=found.integer("size", 1, 2**31),
        frames=found.optional_integer("frames", 1, 2**31),
        stride=found.integer("stride", 1, 2**31),
        alignment=_alignment(given),
    )


def _alignment(protocol: Fields | None) -> Alignment:
    """Return how predictions were fitted; those of evaluations that do not say were."""
    said = None if protocol is None else protocol.optional_text("alignment", at_most=20)
    if protocol is not None and said not in (None, *get_args(Alignment)):
        protocol.fail("alignment", f"is {shown(said)}, expected one of {', '.join(get_args(Alignment))}")
    return "none" if said == "none" else "scale-shift"


def _shards_digest(folder: Path) -> str | None:
    """Return the fingerprint of a run's shards, None if there is no run or it says none."""
    try:
        return _read(folder / CONFIG_FILE, missing="").sha256("data")
    except (DataError, DocumentError, LimitError):
        return None


def _read_log(path: Path) -> list[Mapping[str, Any]]:
    """Return the numbers of each line; none for weights that were not trained here."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_LOG_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return [_line(text, where=f"{path}: line {number}") for number, text in enumerate(data.splitlines(), 1)]


def _line(text: bytes, *, where: str) -> Mapping[str, Any]:
    line = parse_json(text, where=where, limit=MAX_SMALL_DOCUMENT_BYTES)
    line.number("step", 0, 2**53)
    found: dict[str, Any] = {key: value for key, value in line.values.items() if type(value) in (int, float)}
    if evaluation := line.optional_mapping("evaluation"):
        average = evaluation.mapping("average")
        found["evaluation"] = {key: average.optional_number(key) for key in average.values}
    return found


def read_gallery(path: Path) -> Gallery:
    """Read a gallery that `write_evaluation` wrote; raises DataError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_WINDOW_BYTES:
                raise LimitError("", f"has {size} bytes unpacked, expected at most {MAX_WINDOW_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            names = [
                field.name for field in fields(Gallery) if field.name in arrays or field.default_factory is MISSING
            ]
            gallery = Gallery(**{name: arrays[name] for name in names})
        _check_gallery(gallery)
    except (*READER_ERRORS, LimitError) as error:
        raise DataError(f"{path}: is no gallery that vdatrain wrote ({shown(str(error), at_most=120)}).") from error
    return gallery


def _check_gallery(gallery: Gallery) -> None:
    """Raise ValueError or LimitError unless the pictures are of one size and of their types."""
    t, height, width = gallery.truth.shape
    check_pixels(width, height)
    expected = {
        "frames": ((t, height, width, 3), np.uint8),
        "known": ((t, height, width), np.bool_),
        "disparity_range": ((2,), np.float64),
    }
    for field in fields(Gallery):
        shape, kind = expected.get(field.name, ((t, height, width), np.uint8))
        found: np.ndarray = getattr(gallery, field.name)
        if found.shape != shape or found.dtype != kind or not t:
            raise ValueError(
                f"{field.name} is {found.dtype} {list(found.shape)}, expected {np.dtype(kind)} {list(shape)}"
            )
    low, high = gallery.disparity_range.tolist()
    if not 0 <= low <= high < _MAX_DISPARITY:
        raise ValueError(f"disparity_range is {low:g} to {high:g} 1/m")
