"""Files of tensors: written complete or not at all, read without executing anything in them."""

import hashlib
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import torch
from torch import Tensor

from vdaprep.errors import DataError, OutputError
from vdaprep.storage.atomic import new_file, write_error
from vdatrain.models.file_kinds import FileKind, check_file

_MAX_DEPTH = 32  # containers within each other
_MAX_ITEMS = 1_000_000  # of all containers together; a run's checkpoint has some 10,000
_URL = ("http:/", "https:/", "s3:/", "gs:/", "hf:/")
READER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError,
    OSError, RuntimeError, SyntaxError, TypeError, ValueError, UnpicklingError, lzma.LZMAError, struct.error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""All that readers of damaged files raise: each has been seen, of torch, zipfile, pickletools, numpy or safetensors."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts, containers of them; complete or not there.

    Raises OutputError if the disk does not take them; what stood under the name is then still there.
    """
    try:
        with new_file(path) as file:
            torch.save(dict(state), file)
    except (OSError, OutputError, RuntimeError) as error:
        refused = _refusal(error)
        if refused is None:
            raise
        raise OutputError(f"{write_error(refused, path)}; what was there before is whole.") from error


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; raises DataError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint or a file of weights onto the CPU.

    Returns:
        Dictionaries, lists and tuples of dense tensors, numbers and text; bare weights under `model`.

    Raises:
        DataError: The file is missing, damaged, unsafe, something else, or asks for more memory than its size explains.
    """
    from safetensors import SafetensorError

    if not path.is_file():
        _refuse_missing(path)
    try:
        with path.open("rb") as file:
            value = _read(path, check_file(path, file), file)
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); get the right to read it.") from error
    except (SafetensorError, *READER_ERRORS) as error:
        raise DataError(
            f"{path}: is no whole checkpoint of tensors ({_first_line(error)}); it is cut or damaged, get it again."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, expected a dictionary of tensors.")
    found = _Plain(path).copy(value)
    return found if "model" in found else {"model": found}


def _read(path: Path, kind: FileKind, file: Any) -> Any:
    if kind is FileKind.SAFETENSORS:
        from safetensors.torch import load_file

        return {"model": load_file(path)}
    return torch.load(file, map_location="cpu", weights_only=True)


def _refuse_missing(path: Path) -> NoReturn:
    if str(path).startswith(_URL):
        raise DataError(f"{path}: is a URL; download the file, and give its path.")
    if path.is_dir():
        inside = sorted(item.name for item in path.iterdir() if item.suffix in (".pt", ".pth", ".safetensors"))
        raise DataError(f"{path}: is a folder; give the file in it, {', '.join(inside[:3]) or 'such as best.pt'}.")
    if path.exists():
        raise DataError(f"{path}: is no regular file; expected weights as .pth, .pt or .safetensors.")
    raise DataError(f"{path}: there is no such checkpoint; `vdatrain run` writes last.pt and best.pt.")


class _Plain:
    """Copies what a reader made into plain containers, without methods of their own.

    Containers may hold themselves, or each other many times: neither depth nor number of what is copied is unbounded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items = 0

    def copy(self, value: Any, *, depth: int = 0) -> Any:
        """Return a copy; raises DataError for what no checkpoint needs."""
        self._items += 1
        if depth > _MAX_DEPTH or self._items > _MAX_ITEMS:
            raise DataError(f"{self._path}: holds containers without end, expected a dictionary of tensors.")
        if isinstance(value, Tensor):
            return self._checked(value)
        if isinstance(value, dict):  # by dict's own methods: those of an OrderedDict can be replaced by a pickle
            items = [(key, dict.__getitem__(value, key)) for key in dict.__iter__(value)]
            return {self._key(key): self.copy(item, depth=depth + 1) for key, item in items}
        if isinstance(value, list | tuple):
            return (list if isinstance(value, list) else tuple)(self.copy(item, depth=depth + 1) for item in value)
        if value is None or type(value) in (bool, int, float, str, torch.dtype, torch.device):
            return value
        raise DataError(f"{self._path}: holds a {type(value).__name__}, expected tensors, numbers and text alone.")

    def _key(self, key: object) -> object:
        if type(key) in (str, int):
            return key
        raise DataError(f"{self._path}: holds a {type(key).__name__} as a name, expected text.")

    def _checked(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        stored = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not stored or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise DataError(
                f"{self._path}: holds a tensor {list(tensor.shape)} that is not stored in full; save it dense, with "
                "all its numbers."
            )
        return tensor


def _refusal(error: BaseException) -> OSError | None:
    """Return what the disk said, which torch.save and new_file wrap in errors of their own."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return found


def _first_line(error: Exception) -> str:
    """Say in a few words what a reader found; torch's hints to load what is unsafe are left out."""
    if isinstance(error, ArithmeticError | AssertionError | AttributeError | LookupError | TypeError):
        return "its list of tensors makes no sense"
    _, found, detail = str(error).partition("WeightsUnpickler error: ")
    text = (detail if found else str(error)).strip().partition("\n")[0].partition(". ")[0]
    return text[:120] or type(error).__name__
