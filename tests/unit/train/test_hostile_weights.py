"""What people give as a checkpoint: each file that is none is a sentence, and takes little memory and nothing else."""

import gzip
import io
import json
import pickle
import pickletools
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from tests.memory import peak_kib
from vdaprep.errors import DataError
from vdatrain.models import tensor_files

WEIGHTS = {"weight": torch.arange(100.0)}
GIB = 1 << 30


def saved(value: object, **options: Any) -> bytes:
    target = io.BytesIO()
    torch.save(value, target, **options)
    return target.getvalue()


def legacy(value: object = WEIGHTS) -> bytes:
    return saved(value, _use_new_zipfile_serialization=False)


def zipped(members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_program(program: bytes, **more: bytes) -> bytes:
    """A file in torch's format, whose program is this one."""
    return zipped({**members(saved(WEIGHTS)), "archive/data.pkl": program, **more})


def tarred(name: str, data: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def lying_safetensors(**header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


def npz() -> bytes:
    target = io.BytesIO()
    np.savez(target, weight=np.ones(3))
    return target.getvalue()


def npy() -> bytes:
    target = io.BytesIO()
    np.save(target, np.ones(3))
    return target.getvalue()


def reduce(called: str, arguments: bytes) -> bytes:
    """A program that calls something and ends with an empty dictionary."""
    return b"\x80\x02c" + called.replace(" ", "\n").encode() + b"\n" + arguments + b"\x85R0}."


def shadowed() -> bytes:
    """A dictionary whose methods the program replaces."""
    value: OrderedDict[str, Any] = OrderedDict(WEIGHTS)
    value.__dict__.update(xtems=3, xeys=4, xalues=5, xet=6)
    named = members(saved(value))
    program = named["archive/data.pkl"]
    for hidden, name in ((b"xtems", b"items"), (b"xeys", b"keys"), (b"xalues", b"values"), (b"xet", b"get")):
        program = program.replace(hidden, name)
    return zipped({**named, "archive/data.pkl": program})


def inflated() -> bytes:
    named = members(saved({"weight": torch.zeros(2**25)}))
    return zipped(named, compression=zipfile.ZIP_DEFLATED)


def repeated(data: bytes, times: int) -> bytes:
    """An archive whose directory lists its largest member many times, under other names, at the same place."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
        largest = max(archive.infolist(), key=lambda item: item.file_size)
    end = data.index(b"PK\x06\x06")
    directory = data[start:end]
    entry = directory[directory.index(b"archive/data/0") - 46 :][: 46 + len("archive/data/0")]
    extra = struct.unpack("<H", entry[30:32])[0]
    entry += directory[directory.index(b"archive/data/0") + len("archive/data/0") :][:extra]
    assert largest.filename == "archive/data/0"
    listed = directory + b"".join(entry.replace(b"data/0", b"da%04d" % n) for n in range(times))
    count = data[-12:-10]
    total = struct.unpack("<H", count)[0] + times
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, total, total, len(listed), start, 0)
    return data[:start] + listed + tail


def nested(depth: int) -> bytes:
    return b"\x80\x02}X\x05\0\0\0model" + b"]" * depth + b"a" * (depth - 1) + b"s."


def laughs(levels: int) -> bytes:
    """Lists of which each holds the one before it twice."""
    program = b"\x80\x02}X\x05\0\0\0model(]q\x00"
    for level in range(1, levels):
        program += b"](h" + bytes([level - 1]) + b"h" + bytes([level - 1]) + b"eq" + bytes([level])
    return program + b"ts."


HUGE = b"\x8a\x05" + (5_000_000_000).to_bytes(5, "little")

FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    # what a download leaves
    "empty.pt": (lambda: b"", "is empty: it was not downloaded or written whole"),
    "zeros.pth": (lambda: bytes(5000), "is filled with zeros"),
    "page.pth": (lambda: b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
    "page with a mark.pt": (lambda: b"\xef\xbb\xbf<html>", "is a web page"),
    "error.xml.pth": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    "pointer.pth": (lambda: b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "pointer of git-lfs"),
    "pointer.safetensors": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "pointer of git-lfs"),
    "not found.pt": (lambda: b"Entry not found", "is text that begins with 'Entry not found'"),
    "json.pt": (lambda: b'{"error": "Repository is gated"}', "is text that begins with"),
    "config.safetensors": (lambda: b'{"encoder": "vits"}\n', "is text that begins with"),
    "cut.pth": (lambda: saved(WEIGHTS)[:-700], "its end is missing"),
    "begun in the middle.pth": (lambda: saved(WEIGHTS)[300:], "is no (file of tensors|whole checkpoint)"),
    "zeros at its end.pth": (lambda: saved(WEIGHTS) + bytes(5000), "its end is missing"),
    "something before it.pth": (lambda: b"PK\x03\x04" + bytes(60) + saved(WEIGHTS), "its directory is not where"),
    "cut.legacy.pth": (lambda: legacy()[:-100], "is no whole checkpoint"),
    "cut.legacy.early.pth": (lambda: legacy()[:40], "is no whole checkpoint"),
    "cut.safetensors": (lambda: safetensors_bytes(WEIGHTS)[:-10], "is no whole checkpoint"),
    "cut in its header.safetensors": (lambda: safetensors_bytes(WEIGHTS)[:30], "its header does not fit its 30 bytes"),
    # other files
    "npz.pth": (npz, "is an .npz of numpy"),
    "npy.pth": (npy, "is an array of numpy"),
    "onnx.pth": (lambda: b"\x08\x0a\x12\x07pytorch\x1a\x05" + b"2.9.0" + bytes(range(200)), "is an ONNX graph"),
    "graph.onnx": (lambda: b"\x08\x0a\x32\x00\xff", "is an ONNX graph"),
    "gz.pth": (lambda: gzip.compress(saved(WEIGHTS)), "is compressed with gzip; unpack it"),
    "tar.pth": (lambda: tarred("model.pth", saved(WEIGHTS)), "is a tar archive; unpack it"),
    "oldest.pt": (lambda: tarred("storages", b"x" * 600), "is a tar archive"),
    "zip of weights.pt": (lambda: zipped({"vda/model.pth": saved(WEIGHTS)}), "zip archive of vda/model.pth; unpack"),
    "zip of pictures.pt": (lambda: zipped({f"{n}.png": b"" for n in range(9)}), "archive of 0.png, 1.png, 2.png, ..."),
    "empty zip.pt": (lambda: zipped({}), "is an empty zip archive"),
    "hdf5.pt": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "picture.pt": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(99), "is a picture"),
    "video.pt": (lambda: b"\0\0\0\x20ftypisom" + bytes(99), "is a video"),
    "script.pt": (
        lambda: zipped({"m/data.pkl": b"", "m/constants.pkl": b"", "m/code/a.py": b""}), "program of TorchScript"
    ),
    "noise.pt": (lambda: np.random.default_rng(0).bytes(3000), "is no file of tensors that is known here"),
    "pickle.pt": (lambda: pickle.dumps({"weight": [1.0]}), "is a pickle that torch.save did not write"),
    "pickle2.pt": (lambda: pickle.dumps({"weight": [1.0]}, 2), "is a pickle that torch.save did not write"),
    "a whole model.pt": (lambda: saved(torch.nn.Linear(2, 2)), "would call 'torch.nn.modules.linear.Linear'"),
    "numpy in it.pt": (lambda: saved({"weight": np.ones(3)}), "would call 'numpy"),
    "a tensor.pt": (lambda: saved(torch.ones(3)), "holds a Tensor, expected a dictionary"),
    "a list.pt": (lambda: saved([torch.ones(3)]), "holds a list, expected a dictionary"),
    # damaged inside
    "no program.pt": (lambda: with_program(b""), "is no whole checkpoint"),
    "no end of program.pt": (lambda: with_program(b"\x80\x02}"), "is no whole checkpoint"),
    "nothing on the stack.pt": (lambda: with_program(b"\x80\x02."), "is no whole checkpoint .*; it is cut or damaged"),
    "unknown place.pt": (lambda: with_program(b"\x80\x02h\x09."), "is no whole checkpoint"),
    "no mark.pt": (lambda: with_program(b"\x80\x02}t."), "is no whole checkpoint"),
    "a call of nothing.pt": (lambda: with_program(b"\x80\x02}R."), "is no whole checkpoint"),
    "odd items.pt": (lambda: with_program(b"\x80\x02}(K\x01u."), "is no whole checkpoint"),
    "unhashable.pt": (lambda: with_program(b"\x80\x02}]K\x01s."), "is no whole checkpoint"),
    "a tensor of nothing.pt": (
        lambda: with_program(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."), "is no whole checkpoint"
    ),
    "a number as a tensor.pt": (
        lambda: with_program(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01K\x01K\x01K\x01K\x01tR."),
        "is no whole checkpoint",
    ),
    "no tensors.pt": (
        lambda: zipped({name: data for name, data in members(saved(WEIGHTS)).items() if "/data/" not in name}),
        "is no whole checkpoint",
    ),
    "short tensors.pt": (lambda: zipped({**members(saved(WEIGHTS)), "archive/data/0": b"1234"}), "is no whole"),
    "other prefix.pt": (
        lambda: zipped({name.replace("archive/data/", "b/data/"): d for name, d in members(saved(WEIGHTS)).items()}),
        "is no whole",
    ),
    "two programs.pt": (lambda: with_program(b"\x80\x02}.", **{"b/data.pkl": b""}), "several files of one name"),
    # that would take memory, time, or run something
    "bytearray.pt": (lambda: with_program(reduce("__builtin__ bytearray", HUGE)), "would call '__builtin__.bytea"),
    "bytearray of 3.pt": (lambda: with_program(reduce("builtins bytearray", HUGE)), "would call 'builtins.bytea"),
    "bytearray.legacy.pt": (
        lambda: legacy({}).replace(b"\x80\x02}q\x00.", reduce("builtins bytearray", HUGE), 1), "would call"
    ),
    "tensor.pt": (lambda: with_program(reduce("torch Tensor", HUGE)), "would call 'torch.Tensor'"),
    "float tensor.pt": (lambda: with_program(reduce("torch FloatTensor", HUGE)), "would call 'torch.Fl"),
    "encode.pt": (lambda: with_program(reduce("_codecs encode", b"X\x01\0\0\0a")), "would call '_codecs.encode'"),
    "system.pt": (lambda: with_program(reduce("posix system", b"X\x04\0\0\0true")), "would call 'posix.system'"),
    "exec.legacy.pt": (lambda: legacy(WEIGHTS).replace(b"ctorch\n", b"cposix\n", 1), "would call 'posix"),
    "hidden name.pt": (lambda: with_program(b"\x80\x04\x8c\x05posix\x8c\x06system\x93."), "is no whole checkpoint"),
    "inflated.pt": (inflated, "bytes that would become 134[0-9]* unpacked, expected at most 4 times"),
    "inflated program.pt": (
        lambda: zipped({"a/data.pkl": bytes(200 << 20)}, compression=zipfile.ZIP_DEFLATED), "would become 2"
    ),
    "one member many times.pt": (lambda: repeated(saved({"w": torch.ones(2**18)}), 2000), "would become"),
    "nested.pt": (lambda: with_program(nested(5000)), "holds containers without end"),
    "cyclic.pt": (lambda: with_program(b"\x80\x02}q\x00X\x05\0\0\0modelh\x00s."), "holds containers without end"),
    "laughs.pt": (lambda: with_program(laughs(200)), "holds containers without end"),
    "many steps.pt": (lambda: with_program(b"\x80\x02" + b"N0" * 3_000_000 + b"}."), "in more than 2000000 steps"),
    "stretched.pt": (lambda: saved({"w": torch.zeros(1).expand(2**20, 2**12)}), "is not stored in full"),
    "larger than its bytes.pt": (
        lambda: saved({"w": torch.as_strided(torch.zeros(4000), (4000, 4000), (0, 1))}), "is not stored in full"
    ),
    "sparse.pt": (lambda: saved({"w": torch.ones(3).to_sparse()}), "would call 'torch._utils._rebuild_sparse_tensor'"),
    "on no device.pt": (lambda: saved({"w": torch.ones(3, device="meta")}), "would call 'torch._utils._rebuild_meta"),
    "keys.pt": (lambda: saved({("a", "b"): torch.ones(3)}), "holds a tuple as a name"),
    "objects.pt": (lambda: saved({"w": {torch.Size([3])}}), "would call"),
    "header.safetensors": (lambda: struct.pack("<Q", 2**62) + b"{}" + bytes(99), "its header does not fit"),
    "large header.safetensors": (
        lambda: struct.pack("<Q", 20 << 20) + b"{" + b" " * (20 << 20), "has a header of 20971520 bytes"
    ),
    "nested header.safetensors": (
        lambda: struct.pack("<Q", 4000) + b'{"a":' + b"[" * 3995 + bytes(9), "is no whole checkpoint"
    ),
    "beyond its end.safetensors": (
        lambda: lying_safetensors(w={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}), "is no whole"
    ),
    "overlapping.safetensors": (
        lambda: lying_safetensors(
            a={"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
            b={"dtype": "F32", "shape": [16], "data_offsets": [0, 64]},
        ),
        "is no whole",
    ),
    "overflow.safetensors": (
        lambda: lying_safetensors(w={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 64]}), "is no whole"
    ),
    "unknown type.safetensors": (
        lambda: lying_safetensors(w={"dtype": "F99", "shape": [16], "data_offsets": [0, 64]}), "is no whole"
    ),
    "no header.safetensors": (lambda: struct.pack("<Q", 16) + b"{not json at all" + bytes(9), "is no whole"),
}  # fmt: skip
LOADED: dict[str, Callable[[], bytes]] = {
    "whole.pth": lambda: saved(WEIGHTS),
    "old.pth": legacy,
    "whole.safetensors": lambda: safetensors_bytes(WEIGHTS),
    "safetensors under another name.pth": lambda: safetensors_bytes(WEIGHTS),
    "pth under another name.safetensors": lambda: saved(WEIGHTS),
    "no ending": lambda: saved(WEIGHTS),
    "packed again.pth": lambda: zipped(members(saved(WEIGHTS))),
    "shadowed.pth": shadowed,
    "parameters.pth": lambda: saved({"weight": torch.nn.Parameter(WEIGHTS["weight"])}),
    "a view.pth": lambda: saved({"weight": torch.arange(200.0)[:100]}),
}


@pytest.mark.parametrize("name", LOADED)
def test_weights_in_any_dress_load(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(LOADED[name]())
    assert torch.equal(tensor_files.load(tmp_path / name)["model"]["weight"], WEIGHTS["weight"])


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], int]:
    """What a process that loads every file says of each, and the most memory it took beyond what torch takes."""
    folder = tmp_path_factory.mktemp("files")
    for name, (make, _) in FILES.items():
        (folder / name).write_bytes(make())
    code = f"from tests.unit.train.test_hostile_weights import load_all; load_all({str(folder)!r}, {[*FILES]!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    result = json.loads(done.stdout)
    return result["said"], result["bytes"]


def load_all(folder: str, names: Sequence[str]) -> None:
    from safetensors.torch import load_file  # noqa: F401 - its memory is not that of a file

    before = peak_kib()
    found: dict[str, str] = {}
    for name in names:
        try:
            tensor_files.load(Path(folder, name))
            found[name] = "loaded"
        except DataError as error:
            found[name] = str(error)
    sys.stdout.write(json.dumps({"said": found, "bytes": (peak_kib() - before) << 10}))


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_checkpoint_is_a_sentence(name: str, said: tuple[dict[str, str], int]) -> None:
    found = said[0][name]
    assert re.search(FILES[name][1], found), found
    assert f"{name}: " in found
    assert "\n" not in found
    assert len(found) < 500


def test_none_of_them_takes_memory(said: tuple[dict[str, str], int]) -> None:
    assert said[1] < GIB / 2


def test_what_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").write_bytes(b"")
    for path, sentence in {
        tmp_path / "run": "is a folder; give the file in it, best.pt",
        tmp_path / "none.pt": "there is no such checkpoint",
        Path("https://example.org/a.pth"): "is a URL; download the file",
        Path("/dev/zero"): "is no regular file",
        tmp_path / "none" / "a.pt": "there is no such checkpoint",
    }.items():
        with pytest.raises(DataError, match=sentence):
            tensor_files.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: saved(WEIGHTS), legacy, lambda: safetensors_bytes(WEIGHTS)])
def test_any_byte_changed_is_weights_or_a_sentence(make: Callable[[], bytes], tmp_path: Path) -> None:
    data, path = make(), tmp_path / "changed.pt"
    generator = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for at in generator.integers(len(data), size=generator.integers(1, 4)):
            changed[at] = generator.integers(256)
        path.write_bytes(changed)
        try:
            tensor_files.load(path)
        except DataError as error:
            assert "\n" not in str(error)


def test_programs_of_the_table_are_whole() -> None:
    """Else a case would only show that a damaged program is refused."""
    for program in (reduce("a b", HUGE), nested(50), laughs(50)):
        assert [*pickletools.genops(program)][-1][0].name == "STOP"
