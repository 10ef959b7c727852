"""Arms of a study: variants, each perhaps with options of its own.

    basic                        the variant
    conv:zeros                   the variant with --differences zeros
    basic+stride_weight=1        the variant with another option of `vdatrain run`; several with + between

or tables of a TOML file, which gives them names:

    [arms."basic, supervised"]
    variant = "basic"
    stride_weight = 1.0
"""

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdaprep.errors import UsageError
from vdaprep.storage.documents import DocumentError, parse_toml
from vdaprep.storage.limits import MAX_SMALL_DOCUMENT_BYTES, LimitError
from vdatrain.config import TrainConfig, from_mapping, option_name

MAX_NAME = 80
"""Characters of an arm's name."""
BASELINE = "basic"
"""The arm that others are compared with, where there is one of this name; else the first."""
SHARED = frozenset({
    "shards", "encoder", "init", "preset", "frames", "stride", "size", "batch", "accumulate", "steps", "seed",
    "aspect", "short_clips", "mix", "licence", "order", "shuffle_buffer", "images_per_clip", "images", "skip_bad",
    "train_split",
    "eval_every", "eval_windows", "eval_split", "final",
})  # fmt: skip
"""Options that no arm may have of its own: data and their order, first weights, what learns, steps, evaluation."""


@dataclass(frozen=True)
class ArmSpec:
    """What is compared: a variant with options.

    UsageError for a name that cannot be, or an option in SHARED.
    """

    name: str
    """What tables call it."""
    variant: str
    """The variant."""
    options: Mapping[str, Any]
    """Options of `vdatrain run` that only this arm has."""

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable() or not self.folder:
            raise UsageError(
                f"arm {self.name[:MAX_NAME]!r}: expected a name of 1 to {MAX_NAME} characters, a letter or digit among "
                "them."
            )
        if shared := sorted(SHARED & self.options.keys()):
            raise UsageError(
                f"arm {self.name}: has {', '.join(map(option_name, shared))} of its own, which all arms have to share "
                "or they cannot be compared; give it to the whole study."
            )

    @property
    def folder(self) -> str:
        """Name of its folder, in which nothing stands for another."""
        return re.sub(r"[^A-Za-z0-9_.=+-]+", "-", self.name).strip("-.")

    def config(self, common: TrainConfig, *, seed: int) -> TrainConfig:
        """Return the configuration of a run; raises UsageError for an option that cannot be."""
        given = {**common.options(), **self.options, "variant": self.variant, "seed": seed}
        return from_mapping(given, where=f"arm {self.name}")


def parse_arms(text: str) -> list[ArmSpec]:
    """Read arms with commas between; raises UsageError for any other text."""
    return [_parse_arm(part.strip()) for part in text.split(",")] if text.strip() else []


def read_arms(path: Path) -> list[ArmSpec]:
    """Read the arms of a TOML file; raises UsageError if it has none, or is none."""
    where = f"--arms {path}"
    try:
        document = parse_toml(path.read_bytes(), where=where, limit=MAX_SMALL_DOCUMENT_BYTES)
        tables = document.mapping("arms")
        arms = [_of_table(name, dict(tables.mapping(name).values)) for name in tables.values]
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({error.strerror}).") from error
    except (DocumentError, LimitError) as error:
        raise UsageError(
            f"{str(error).rstrip('.')}; expected a table [arms.NAME] with options for each arm."
        ) from error
    if not arms:
        raise UsageError(f"{where}: has no arm; expected a table [arms.NAME] with options for each.")
    return arms


def check_arms(arms: Sequence[ArmSpec]) -> str:
    """Return the baseline's name; raises UsageError for too few arms, or two that are one."""
    if len(arms) < 2:
        raise UsageError("vdatrain study: compares two arms or more; give --variants basic,conv, or --arms FILE.")
    for which, found in (("name", [arm.name for arm in arms]), ("folder", [arm.folder.lower() for arm in arms])):
        for index, value in enumerate(found):
            if value in found[:index]:
                raise UsageError(
                    f"arm {arms[index].name}: its {which} {value} is another's, too; name arms by a file for --arms."
                )
    names = [arm.name for arm in arms]
    return BASELINE if BASELINE in names else names[0]


def _parse_arm(text: str) -> ArmSpec:
    head, *changes = text.split("+")
    variant, _, differences = head.partition(":")
    options: dict[str, Any] = {"differences": differences} if ":" in head else {}
    for change in changes:
        key, _, value = (part.strip() for part in change.partition("="))
        name = key.replace("-", "_")
        if not name or not value or name in options:
            raise UsageError(
                f"--variants {text}: {change.strip()!r} is not understood; expected each option once, as in "
                "basic+stride_weight=1."
            )
        options[name] = _value(name, value)
    if not variant:
        raise UsageError(
            f"--variants: has an arm without a variant; expected names with commas between, found {text!r}."
        )
    return ArmSpec(text, variant, options)


def _value(name: str, text: str) -> Any:
    """Read a value as TOML does, text without quotes as text."""
    kinds = {item.name: str(item.type) for item in dataclasses.fields(TrainConfig)}
    if kinds.get(name) == "str":
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _of_table(name: str, options: dict[str, Any]) -> ArmSpec:
    variant = options.pop("variant", None)
    if not isinstance(variant, str):
        raise UsageError(f'arm {name}: has no variant; expected one in its table, like variant = "conv".')
    return ArmSpec(name, variant, options)
