"""What a file of tensors really is, told from its first bytes before it is read.

A checkpoint of a stranger, or a download that went wrong, costs a sentence: web pages, git-lfs pointers, archives of
something, pickles and empty files are named with what to do about each. Of files of tensors everything is bounded by
the size of the file that is there, so that reading them takes no more memory than a few times that:

    zip, torch's format     its directory, its members' sizes unpacked, the program that says what they are
    legacy, torch's older   the programs at its beginning
    safetensors             its header
"""

import io
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import BinaryIO, NoReturn

from vdaprep.errors import DataError
from vdaprep.storage.documents import stand_in

EXPECTED = "expected weights as .pth, .pt or .safetensors"

_HEAD = 1024  # bytes that are enough to tell what a file is
_NOT_WHOLE = "it was not downloaded or written whole; get it again"
_WEB_PAGE = "a web page: the link leads to a page about the file, or asks to log in; download the file itself"
_STAND_INS = {
    "nothing": f"empty: {_NOT_WHOLE}",
    "zeros": f"filled with zeros: {_NOT_WHOLE}",
    "web page": _WEB_PAGE,
    "XML": _WEB_PAGE,
    "git-lfs pointer": "a pointer of git-lfs and not the file itself; fetch that with `git lfs pull`",
}
_UNPACK = "unpack it, and give the file of weights in it"
_STARTS: Sequence[tuple[int, bytes, str]] = (  # where, which bytes, what they begin
    (0, b"\x1f\x8b", f"compressed with gzip; {_UNPACK}"),
    (0, b"\xfd7zXZ", f"compressed with xz; {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"compressed with zstd; {_UNPACK}"),
    (0, b"BZh", f"compressed with bzip2; {_UNPACK}"),
    (0, b"7z\xbc\xaf", f"a 7z archive; {_UNPACK}"),
    (0, b"Rar!", f"a rar archive; {_UNPACK}"),
    (257, b"ustar", f"a tar archive; {_UNPACK}"),
    (0, b"PK\x05\x06", "an empty zip archive; get it again"),
    (0, b"\x93NUMPY", "an array of numpy; save the tensors with torch.save or safetensors"),
    (0, b"\x89HDF", "an HDF5 file; save the tensors with torch.save or safetensors"),
    (0, b"GGUF", "a GGUF file of a language model; give the weights of the depth model"),
    (4, b"TFL3", "a model of TensorFlow Lite, from which weights cannot be taken; get those it was made of"),
    (0, b"\x89PNG", "a picture; give the file of weights"),
    (0, b"\xff\xd8\xff", "a picture; give the file of weights"),
    (4, b"ftyp", "a video; give the file of weights"),
    (0, b"%PDF", "a PDF; give the file of weights"),
)
_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle of torch's older format
_LEGACY_PROGRAMS = 5  # magic number, protocol, machine, content, keys of the tensors

MAX_PROGRAM_BYTES = 16 << 20
"""Bytes of the pickle that says which tensors there are: of a run's checkpoint with encoder vitl it has 1 MB."""
MAX_STEPS = 2_000_000
"""Instructions of that pickle: of the same checkpoint it has 200,000."""
MAX_HEADER_BYTES = 16 << 20
"""Bytes of the header of a safetensors file, which for 1000 tensors has 100 kB."""
MAX_DIRECTORY_BYTES = 16 << 20
"""Bytes of the directory of a zip archive: 200,000 tensors."""
_UNPACKED = 4  # how often the bytes of a file its members may have, unpacked: weights shrink by some tenths
_ROOM = 1 << 20  # and so many bytes besides

# What a file of tensors is made of: dictionaries, tensors and how they are stored, dtypes, shapes and devices.
_HARMLESS = re.compile(
    r"collections OrderedDict|torch._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)|torch(\.cuda)? \w+Storage"
    r"|torch\.storage (Untyped|Typed)Storage|torch (Size|device|bool|b?float\w+|u?int\d+)"
)


class FileKind(Enum):
    """The formats of tensors."""

    ZIP = "torch's format"
    LEGACY = "torch's older format"
    SAFETENSORS = "safetensors"


def check_file(path: Path, file: BinaryIO) -> FileKind:
    """Tell an open file's format by its content, and check what reading it will take.

    Raises DataError for anything that is no file of tensors or asks for more memory than it may, saying what it is;
    what is damaged raises as zipfile, pickletools and struct do.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD)
    if head.startswith(b"PK\x03\x04"):
        kind = _check_zip(path, file, size)
    elif head.startswith(_TORCH_MAGIC):
        kind = _check_legacy(path, file)
    elif _is_safetensors(head, size):
        kind = _check_header(path, head)
    else:
        _refuse(path, _what(path, head, size))
    file.seek(0)
    return kind


def _refuse(path: Path, found: str) -> NoReturn:
    raise DataError(f"{path}: is {found}; {EXPECTED}.")


def _what(path: Path, head: bytes, size: int) -> str:
    """Say what a file is that holds no tensors, and what to do."""
    if found := _STAND_INS.get(stand_in(head)):
        return found
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"text that begins with {head[:40].decode('ascii')!r}; download the file itself"
    return _what_binary(path, head, size)


def _what_binary(path: Path, head: bytes, size: int) -> str:
    for start, magic, found in _STARTS:
        if head[start:].startswith(magic):
            return found
    if path.suffix == ".onnx" or (head[0] == 0x08 and head[1] < 32 and head[2:3] in b"\x12\x1a\x22\x3a"):
        return "an ONNX graph, from which weights cannot be taken; give the file that it was exported from"
    if head[0] == 0x80 and 2 <= head[1] <= 5:
        return "a pickle that torch.save did not write, which could run code and is not read; save it with torch.save"
    if path.suffix == ".safetensors":
        return f"no safetensors file: its header does not fit its {size} bytes; get it again"
    return f"no file of tensors that is known here, it begins with {head[:8].hex(' ')}; get it again"


# ---------------------------------------------------------------------------------------------------------------- zip


def _check_zip(path: Path, file: BinaryIO, size: int) -> FileKind:
    _check_directory(path, file, size)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [item.filename for item in members]
        programs = [item for item in members if item.filename.rpartition("/")[2] == "data.pkl"]
        if any(name.endswith(("/constants.pkl", "/serialized_exported_program.json")) for name in names):
            _refuse(path, "a program of TorchScript or torch.export, which is not run; save its state_dict()")
        if not programs:
            _refuse(path, _contents(names))
        if len(programs) > 1 or len(set(names)) < len(names):
            raise DataError(f"{path}: holds several files of one name; {EXPECTED}, as torch.save writes them.")
        _bound_members(path, members, size)
        _check_program(path, archive.read(programs[0]))
        damaged = archive.testzip()  # torch reads past a wrong checksum without a word
    if damaged is not None:
        raise ValueError(f"{damaged} differs from its checksum")
    return FileKind.ZIP


def _contents(names: Sequence[str]) -> str:
    """Say what a zip archive is that torch did not write."""
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz of numpy; save the tensors with torch.save or safetensors"
    shown = ", ".join(name[:60] for name in names[:3]) or "nothing"
    return f"a zip archive of {shown}{', ...' if len(names) > 3 else ''}; {_UNPACK}"


def _check_directory(path: Path, file: BinaryIO, size: int) -> None:
    """Raise ValueError unless a zip ends with its directory, DataError if that is too large.

    zipfile accepts an archive with something before it, torch would see another one there.
    """
    file.seek(max(0, size - (22 + 20 + 56)))
    tail = file.read()
    if tail[-22:-18] != b"PK\x05\x06":
        raise ValueError("its end is missing")
    length, begin = struct.unpack("<II", tail[-10:-2])
    end = size - 22
    if tail[-42:-38] == b"PK\x06\x07" and tail[:4] == b"PK\x06\x06":
        length, begin = struct.unpack("<QQ", tail[40:56])
        end = size - 98
    if length > MAX_DIRECTORY_BYTES:
        raise DataError(f"{path}: has a directory of {length} bytes, expected at most {MAX_DIRECTORY_BYTES}.")
    if begin + length != end:
        raise ValueError("its directory is not where its end says")


def _bound_members(path: Path, members: Sequence[zipfile.ZipInfo], size: int) -> None:
    unpacked = sum(item.file_size for item in members)
    if unpacked > _UNPACKED * size + _ROOM:
        raise DataError(
            f"{path}: has {size} bytes that would become {unpacked} unpacked, expected at most {_UNPACKED} times as "
            "many; it was not written by torch.save and is not read."
        )


# ------------------------------------------------------------------------------------------------------------- pickles


def _check_legacy(path: Path, file: BinaryIO) -> FileKind:
    file.seek(0)
    programs = io.BytesIO(file.read(MAX_PROGRAM_BYTES))
    for _ in range(_LEGACY_PROGRAMS):
        _check_operations(path, programs)
    return FileKind.LEGACY


def _check_program(path: Path, program: bytes) -> None:
    if len(program) > MAX_PROGRAM_BYTES:
        raise DataError(f"{path}: lists its tensors in {len(program)} bytes, expected at most {MAX_PROGRAM_BYTES}.")
    _check_operations(path, io.BytesIO(program))


def _check_operations(path: Path, program: io.BytesIO) -> None:
    """Raise DataError if a pickle names more than tensors, numbers and text, or never ends."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(program)):
        if operation.name == "GLOBAL" and not _HARMLESS.fullmatch(str(argument)):
            called = str(argument)[:100].replace(" ", ".")
            raise DataError(
                f"{path}: would call {called!r}, which a file of tensors does not need, and is not read; save the "
                "state_dict() of the model alone."
            )
        if number > MAX_STEPS:
            raise DataError(f"{path}: lists its tensors in more than {MAX_STEPS} steps; {EXPECTED}.")


# --------------------------------------------------------------------------------------------------------- safetensors


def _is_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8


def _check_header(path: Path, head: bytes) -> FileKind:
    length = struct.unpack("<Q", head[:8])[0]
    if length > MAX_HEADER_BYTES:
        raise DataError(f"{path}: has a header of {length} bytes, expected at most {MAX_HEADER_BYTES}.")
    return FileKind.SAFETENSORS
