"""Checkpoints on disk: written whole or not at all, read without running anything that they hold."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdaprep.schema import DataError
from vdatrain.files import new_file


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them under a temporary name, flush, then rename."""
    with new_file(path) as file:
        torch.save(dict(state), file)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint or a file of weights onto the CPU; raises DataError if it is missing, cut short or unsafe."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such checkpoint; `vdatrain run` writes last.pt and best.pt.")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return {"model": load_file(path)}
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise DataError(f"{path}: is no whole checkpoint of tensors ({_first_line(error)}).") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, expected a dictionary of tensors.")
    return value if "model" in value else {"model": value}


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], *, where: str, may_miss: Sequence[str] = ()
) -> list[str]:
    """Copy weights into a model, all of them, by name and shape; returns the names that stay as they are.

    Raises DataError, naming up to five, if names are missing (but those that start as `may_miss` says), left over or
    of another shape.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights]
    problems = {
        "missing": [name for name in missing if not name.startswith(tuple(may_miss) or ("\0",))],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {list(weights[name].shape)} for {list(value.shape)}"
            for name, value in expected.items()
            if name in weights and weights[name].shape != value.shape
        ],
    }
    found = [f"{len(names)} {kind} ({', '.join(names[:5])})" for kind, names in problems.items() if names]
    if found:
        raise DataError(f"{where}: does not fit this model: {'; '.join(found)}; is it of another encoder or variant?")
    model.load_state_dict({**{name: expected[name] for name in missing}, **weights}, strict=True)
    return missing


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
