"""Files of tensors: written complete or not at all, read without executing anything in them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from vdaprep.errors import DataError
from vdaprep.storage.atomic import new_file


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them under a temporary name, flush, then rename.

    Raises DataError if the disk does not take them; what stood under the name is then still there.
    """
    try:
        with new_file(path) as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:
        refused = _refusal(error)
        if refused is None:
            raise
        raise DataError(
            f"{path}: cannot be written ({refused.strerror or refused}); what was there before is whole: make room, "
            "then go on with --resume."
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint or a file of weights onto the CPU; raises DataError if it is missing, damaged or unsafe."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such checkpoint; `vdatrain run` writes last.pt and best.pt.")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return {"model": load_file(path)}
        _check_sums(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, UnpicklingError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise DataError(f"{path}: is no whole checkpoint of tensors ({_first_line(error)}).") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, expected a dictionary of tensors.")
    return value if "model" in value else {"model": value}


def _check_sums(path: Path) -> None:
    """Raise ValueError if a member's bytes differ from their checksum: torch reads past that without a word."""
    if not zipfile.is_zipfile(path):
        return  # torch's older format has none
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} differs from its checksum")


def _refusal(error: BaseException) -> OSError | None:
    """Return what the disk said, which torch.save wraps in an error of its own."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
