"""Every parser of text, archives, images, shards, weights and videos, with good inputs to spoil."""

import contextlib
import functools
import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from hypothesis import strategies as st

from tests.fuzz.mutation import as_json, spoilt, spoilt_values
from tests.sens import Shot, sens
from tests.strangers import FRAMES, HEIGHT, WIDTH, Stranger, packed
from vdaprep import sources
from vdaprep.analysis import describe, export, verify
from vdaprep.conversion import saved_plan
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import find_raw, make_plan
from vdaprep.raw import arrays, exr, images, png
from vdaprep.raw.files import Location
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.shards.canonical import sealed_json
from vdaprep.shards.codec import decode_depth, decode_group, encode_group
from vdaprep.shards.codec.zstd import compress, decompress
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import parse_depth_spec
from vdaprep.sources import _rows
from vdaprep.sources.evaluation import _oxts, sintel
from vdaprep.sources.training import spring
from vdaprep.storage import documents, paths, urls
from vdaprep.storage.cache import CachedTar, ShardCache
from vdaprep.storage.range_reader import InMemory
from vdaprep.synthetic.sample import SampleSpec, write_sample
from vdaprep.units import parse_bytes, parse_duration

_SPEC = SampleSpec(trajectories=1, frames=3, width=64, height=48)
_HERE = Location("", "frame")


SHARES = {
    "tar.gz": 8.0, "tar in a gzip": 8.0,
    "metadata": 2.0, "metadata bytes": 2.0, "metadata v2": 2.0, "shard record": 2.0,
    "dataset.json": 2.0, "shard tar": 2.0, "zstd members": 2.0, "jpeg members": 2.0, "h264 members": 2.0,
    "av1 members": 2.0, "video .mp4": 2.0, "video .avi": 2.0,
    ".pt": 2.0, ".safetensors": 2.0, "gallery": 2.0,
}  # fmt: skip
"""How much more time than others those get that take long: a tar.gz is listed by a process of its own."""


@dataclass(frozen=True)
class Target:
    """A parser: inputs to give it, and what is done with one in a folder of its own."""

    inputs: st.SearchStrategy[Any]
    """Spoilt inputs."""
    run: Callable[[Any, Path], object]
    """Parses one and uses all of it; VdakitError is how it refuses."""


def targets(folder: Path) -> Mapping[str, Callable[[], Target]]:
    """Return what makes each target, by name; inputs are made below `folder` when a target is."""
    found: dict[str, Callable[[], Target]] = {
        "png": lambda: _bytes(_images(".png"), lambda data: png.parse_png(data, _HERE), mend=_png_sums),
        "png16": lambda: _bytes(_images(".png16"), lambda data: png.parse_png16(data, _HERE), mend=_png_sums),
        "png floats": lambda: _bytes(_images(".pngf"), lambda data: png.parse_png_floats(data, _HERE), mend=_png_sums),
        "jpeg": lambda: _bytes(_images(".jpg"), lambda data: images.parse_jpeg(data, _HERE)),
        "ppm": lambda: _bytes([b"P6 2 1 255\n\1\2\3\4\5\6"], lambda data: images.parse_ppm(data, _HERE)),
        "pgm": lambda: _bytes([b"P5\n# x\n2 1 65535\n\1\2\3\4"], lambda data: images.parse_pgm16(data, _HERE)),
        "exr": lambda: _bytes(_exr(), lambda data: exr.parse_exr(data, _HERE)),
        "hdf5": lambda: _bytes(_hdf5(), lambda data: spring.parse_dsp5(data, _HERE)),
        "dpt": lambda: _bytes([_DPT], lambda data: sintel.parse_dpt(data, _HERE)),
        "cam": lambda: _bytes([_CAM], lambda data: sintel.parse_cam(data, _HERE)),
        "calibration": lambda: _bytes([_CALIBRATION], lambda data: _oxts.parse_rectified(data, _HERE, camera="2")),
        "oxts": lambda: _bytes(
            [b"49.0 8.4 110 0.03 0.02 1.5 " + b"0 " * 24], lambda data: _oxts.parse_oxts(data, _HERE)
        ),
        "npz": lambda: _bytes(_npz(), lambda data: arrays.parse_npz(InMemory(data), _HERE, {"a": (3, 3), "b": ()})),
        "npy": lambda: _bytes(_npy(), lambda data: arrays.parse_npy(data, _HERE)),
        "pose table": lambda: _bytes(_tables(), lambda data: _rows.without_header(_rows.read_rows(data, _HERE))),
        "zip": lambda: _archive("a.zip", _zips()),
        "tar": lambda: _archive("a.tar", _tars(), mend=_tar_sums),
        "tar.gz": lambda: _archive("a.tar.gz", [gzip.compress(data, mtime=0) for data in _tars()]),
        "tar in a gzip": lambda: _archive("a.tar.gz", _tars(), mend=lambda data: gzip.compress(_tar_sums(data), 1)),
        "sens": lambda: _archive("a.sens", _recordings()),
        "json": lambda: _bytes(_documents(), lambda data: documents.parse_json(data, where="x").text("dataset")),
        "toml": lambda: _bytes(_TOML, lambda data: documents.parse_toml(data, where="x").mapping("table")),
        "lines": lambda: _bytes(_tables(), lambda data: documents.read_text_lines(data, where="x")),
        "metadata": lambda: _shard(lambda value: Stranger(raw_meta=as_json(value)), Stranger().meta),
        "metadata bytes": lambda: _shard_bytes(lambda data: Stranger(raw_meta=data), [as_json(Stranger().meta)]),
        "shard record": lambda: _record("train/shard-0001.json", folder),
        "dataset.json": lambda: _record("dataset.json", folder),
        "shard tar": lambda: Target(spoilt([b"\0" * 2048]).map(lambda data: data), _of_tar),
        "zstd members": lambda: _shard_bytes(_with_depth, [Stranger().members["f001.depth.zst"]]),
        "jpeg members": lambda: _shard_bytes(_with_rgb, [Stranger().members["f001.rgb.jpg"]]),
        "h264 group": lambda: _group("h264"),
        "av1 group": lambda: _group("av1"),
        "h264 members": lambda: _packed_member("h264", "nibbles", "f000.rgb.mp4"),
        "av1 members": lambda: _packed_member("av1", "interpolation", "f000.rgb.mp4"),
        "nibbles": lambda: _packed_depth("nibbles"),
        "interpolation": lambda: _packed_depth("interpolation"),
        "sparse": lambda: _packed_depth("sparse"),
        "metadata v2": lambda: _packed_meta("h264", "interpolation"),
        "cache entry": lambda: Target(spoilt([b'{"bytes": 20480, "mtime_ns": 1}', b""]), _cache_entry),
        "plan.json": lambda: _plan(folder),
        "tartanair tree": lambda: _tree(folder, "tartanair", ("txt",)),
        "vkitti tree": lambda: _tree(folder, "vkitti", ("txt",)),
        "mvs-synth tree": lambda: _tree(folder, "mvs-synth", ("json",)),
        "urls, sizes": lambda: Target(spoilt(_TEXTS).map(lambda data: data.decode("utf-8", "replace")), _texts),
    }
    return {**found, **{name: functools.partial(_of_torch, name) for name in _OF_TORCH}}


_OF_TORCH = (
    ".pt", ".pt of an older torch", ".safetensors", "config.json", "config.toml", "log.jsonl", "evaluation.json",
    "gallery",
    "video .mp4", "video .avi", "image folder", "mix",
)  # fmt: skip


def _of_torch(name: str) -> "Target":
    from tests.fuzz import torch_targets  # which the others do without, and its memory

    return torch_targets.TARGETS[name]()


def _bytes(
    seeds: Sequence[bytes], parse: Callable[[bytes], object], *, mend: Callable[[bytes], bytes] = bytes
) -> Target:
    return Target(_mended(seeds, mend), lambda data, _: parse(data))


def _mended(seeds: Sequence[bytes], mend: Callable[[bytes], bytes]) -> st.SearchStrategy[bytes]:
    """Spoilt bytes as they are, and with checksums that agree with them, so that more than these is tried."""
    return st.one_of(spoilt(seeds), spoilt(seeds).map(mend))


def _png_sums(data: bytes) -> bytes:
    """Write the right CRC behind every chunk of a PNG."""
    found, at = bytearray(data), 8
    while at + 12 <= len(found):
        end = at + 8 + int.from_bytes(found[at : at + 4], "big")
        found[end : end + 4] = zlib.crc32(found[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(found)


def _tar_sums(data: bytes) -> bytes:
    """Write the right checksum into every block of a tar that says it is a header."""
    found = bytearray(data)
    for at in range(0, len(found) - 511, 512):
        if found[at + 257 : at + 262] == b"ustar":
            found[at + 148 : at + 156] = b" " * 8
            found[at + 148 : at + 156] = b"%06o\0 " % sum(found[at : at + 512])
    return bytes(found)


# --------------------------------------------------------------------------------------------------------------- seeds


def _images(kind: str) -> list[bytes]:
    rgb = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    if kind == ".png16":
        return [png.encode_png16(rgb[..., 0].astype(np.uint16) * 99)]
    if kind == ".pngf":
        return [png.encode_png(np.repeat(rgb, 1, axis=2)), *_four_channels()]
    if kind == ".png":
        return [png.encode_png(rgb), *_four_channels()]
    flags = ([cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1], [])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    plain = [cv2.imencode(".jpg", rgb, flag)[1].tobytes() for flag in flags]
    return [*plain, plain[0][:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[0][2:]]


def _four_channels() -> list[bytes]:
    rgba = np.random.default_rng(0).integers(0, 255, (6, 8, 4), np.uint8)
    return [cv2.imencode(".png", rgba)[1].tobytes()]


def _exr() -> list[bytes]:
    values = np.random.default_rng(0).random((6, 8)).astype(np.float16)
    return [exr.encode_exr(values)]


def _hdf5() -> list[bytes]:
    found: list[bytes] = []
    for options in ({}, {"compression": "gzip", "shuffle": True}, {"chunks": (2, 4), "fletcher32": True}):
        file = io.BytesIO()
        with h5py.File(file, "w") as content:
            content.create_dataset("disparity", data=np.ones((6, 8), np.float32), **options)
        found.append(file.getvalue())
    return found


_DPT = struct.pack("<fii", 202021.25, 4, 3) + np.ones(12, "<f4").tobytes()
_CAM = struct.pack("<f", 202021.25) + np.array([[9, 0, 2], [0, 9, 1], [0, 0, 1.0]]).tobytes() + np.eye(4)[:3].tobytes()
_OXTS = b"49.0 8.4 110 0.03 0.02 1.5 " + b"0 " * 24
_CALIBRATION = (
    b"calib_time: 09-Jan-2012\nS_rect_02: 1.242e+03 3.75e+02\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
    b"P_rect_02: 721.5 0 609.6 44.8 0 721.5 172.9 0.2 0 0 1 0.002\n"
)


def _npz() -> list[bytes]:
    found: list[bytes] = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, a=np.ones((4, 3, 3)), b=np.ones(4), c=np.ones((4, 200), np.float32))
        found.append(file.getvalue())
    return found


def _npy() -> list[bytes]:
    found: list[bytes] = []
    for array in (np.ones((4, 6), np.float32), np.ones((4, 6), ">f8"), np.asfortranarray(np.ones((4, 6), np.float16))):
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    return found


def _tables() -> list[bytes]:
    line = b"0.1 0.2 0.3 0.0 0.0 0.0 1.0\n"
    return [line * 4, b"# header\n\n" + line * 3 + b"\r\n", b"\xef\xbb\xbf" + line]


def _contents() -> dict[str, bytes]:
    png_data = _images(".png")[0]
    return {
        "walk/rgb/000000.png": png_data,
        "walk/rgb/000001.png": png_data,
        "walk/pose_left.txt": b"1 2 3\n",
        "x": b"",
    }


def _zips() -> list[bytes]:
    found: list[bytes] = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, data in _contents().items():
                archive.writestr(name, data)
            archive.comment = b"comment"
        found.append(file.getvalue())
    return found


def _tars() -> list[bytes]:
    found: list[bytes] = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            for name, data in {**_contents(), "long/" * 30 + "a.png": b"x", "视/a.png": b"y"}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        found.append(file.getvalue())
    return found


def _recordings() -> list[bytes]:
    shots = [Shot(b"no JPEG", np.full((3, 4), number, np.uint16), np.eye(4)) for number in range(2)]
    return [sens(shots, np.eye(4)), sens(shots, np.eye(4), depth=0)]


def _documents() -> list[bytes]:
    return [b'{"dataset": "toy", "a": [1, 2.5, {"b": null}], "c": true}']


_TOML = [b'a = 1\nb = [1.5, "x"]\n[table]\nc = 2026-01-01\nd.e = true\n', b"[[list]]\nx = 0x1f\n[table.inner]\n"]
_TEXTS = [
    b"https://user:secret@host:8080/a/b.tar?token=1#x", b"s3://bucket/key", b"gs://b/../c", b"file:///tmp/x", b"5GB",
    b"1.5 GiB",
    b"11h30m", b"tartanair=1,vkitti=3", b"10.0,10.0,5.5,5.5", b"https://a/x,https://b/y", b"http://[::1]/x",
]  # fmt: skip


def _texts(text: str, folder: Path) -> None:
    from vdaprep.conversion import options

    for parse in (
        lambda: [str(path) for path in paths.open_paths(text)],
        lambda: [(path.name, path.suffix, str(path.parent), repr(path)) for path in paths.open_paths(text)],
        lambda: (urls.redact(text), urls.redact_within(text), urls.is_url(text)),
        lambda: parse_bytes(text, "--size"),
        lambda: parse_duration(text, "--time"),
        lambda: options._parse_intrinsics(text),
        lambda: documents.name_problem(text) or documents.path_problem(text),
    ):
        with contextlib.suppress(_refused()):
            parse()


def _refused() -> type[Exception]:
    from vdaprep.errors import VdakitError

    return VdakitError


# ------------------------------------------------------------------------------------------------------------ raw data


def _archive(name: str, seeds: Sequence[bytes], *, mend: Callable[[bytes], bytes] = bytes) -> Target:
    def run(data: bytes, folder: Path) -> None:
        (folder / "raw").mkdir(exist_ok=True)
        (folder / "raw" / name).write_bytes(data)
        tree = open_tree(folder / "raw")
        with Reader(folder / "raw") as reader:
            for location in list(tree.files.values())[:4]:
                with contextlib.suppress(_refused()):
                    reader.read(location)

    return Target(_mended(seeds, mend), run)


def _tree(folder: Path, dataset: str, endings: tuple[str, ...]) -> Target:
    """Spoil one text file of a whole raw tree, find its trajectories, and read cameras."""
    root = folder / dataset
    write_sample(dataset, out=root, spec=_SPEC, archives=False, on_frame=lambda: None)
    texts = [path for path in sorted(root.rglob("*")) if path.suffix[1:] in endings]
    source = sources.load(dataset)
    options = Settings().source

    def run(chosen: tuple[Path, bytes], _: Path) -> None:
        path, data = chosen
        good = path.read_bytes()
        path.write_bytes(data)
        try:
            raw = find_raw(dataset, raw=root, options=options)
            with Reader(root) as reader:
                for trajectory in raw.trajectories:
                    source.read_cameras(trajectory, reader, options)
        finally:
            path.write_bytes(good)

    inputs = st.one_of([st.tuples(st.just(path), spoilt([path.read_bytes()])) for path in texts[:4]])
    return Target(inputs, run)


def _plan(folder: Path) -> Target:
    root = folder / "for-plan"
    write_sample("tartanair", out=root, spec=_SPEC, archives=False, on_frame=lambda: None)
    plan = make_plan("tartanair", raw=root, settings=Settings(), selection=Selection())
    value = json.loads(saved_plan.plan_bytes(plan))
    value.pop("checksum")

    def run(spoilt_plan: Any, _: Path) -> None:
        data = _sealed(spoilt_plan)
        found = saved_plan.parse_plan(data, where="plan.json", raw=str(root), settings=Settings())
        saved_plan.compare_options("plan.json", found.options, plan)

    return Target(spoilt_values([value]), run)


# -------------------------------------------------------------------------------------------------------------- shards


def use_shards(dataset: Path, folder: Path) -> None:
    """Do with a data set all that commands do: list, read, examine, export, verify."""
    tar = dataset / "train" / "shard-0001.tar"
    refused = _refused()
    with contextlib.suppress(refused):
        for clip in open_shards(dataset).clips():
            clip.read()
    with contextlib.suppress(refused):
        record = describe.open_shard(tar)
        clips = describe.choose_clips(tar, record)
        describe.examine(tar, record, clips, on_frame=lambda: None).to_json()
    with contextlib.suppress(refused):
        export.export(dataset, folder / "exported")
    str(verify.verify(dataset, deep=True).to_json())


def _shard(make: Callable[[Any], Stranger], seed: Any) -> Target:
    return Target(spoilt_values([seed]), lambda value, folder: use_shards(make(value).write(folder / "toy"), folder))


def _shard_bytes(make: Callable[[bytes], Stranger], seeds: Sequence[bytes]) -> Target:
    return Target(spoilt(seeds), lambda data, folder: use_shards(make(data).write(folder / "toy"), folder))


def _with_depth(data: bytes) -> Stranger:
    stranger = Stranger()
    return Stranger(members={**stranger.members, "f001.depth.zst": data, "f002.diff.zst": data})


def _group(codec: str) -> Target:
    frames = list(np.random.default_rng(0).integers(0, 255, (3, 18, 34, 3), np.uint8))
    seed = encode_group(frames, codec=codec, crf=30)
    return _bytes([seed], lambda data: decode_group(data, codec=codec, size=(18, 34), count=3))


def _packed_member(rgb: str, packing: str, name: str) -> Target:
    """Spoil a member of version 2, of which the checksums know, and use the whole data set."""

    def run(data: bytes, folder: Path) -> None:
        stranger = packed(rgb, packing)
        stranger.members[name] = data
        use_shards(stranger.write(folder / "toy"), folder)

    return Target(spoilt([packed(rgb, packing).members[name]]), run)


def _packed_depth(packing: str) -> Target:
    """Spoil depth, and what zstd holds of it, whose checksum then agrees."""
    stranger = packed("h264", packing)
    good = stranger.members["f001.depth.zst"]
    spec = parse_depth_spec(documents.Fields(stranger.meta["depth"], where=""), 2)

    def parse(data: bytes) -> None:
        decode_depth(data, spec, height=HEIGHT, width=WIDTH)

    within = spoilt([decompress(good, size=(1, 1 << 20), where="")]).map(compress)
    return Target(st.one_of(spoilt([good]), within, within), lambda data, _: parse(data))


def _packed_meta(rgb: str, packing: str) -> Target:
    seed = packed(rgb, packing).meta

    def run(value: Any, folder: Path) -> None:
        stranger = packed(rgb, packing)
        stranger.raw_meta = as_json(value)
        use_shards(stranger.write(folder / "toy"), folder)

    return Target(spoilt_values([seed]), run)


def _with_rgb(data: bytes) -> Stranger:
    return Stranger(members={**Stranger().members, "f001.rgb.jpg": data})


def _of_tar(noise: bytes, folder: Path) -> None:
    """Lay noise over the tar's headers, of which the record's checksums know."""
    at = 512 * (sum(noise[:3]) % 30)
    stranger = Stranger(
        of_tar=lambda data: data[:at] + noise.strip(b"\0")[:600] + data[at + len(noise.strip(b"\0")[:600]) :]
    )
    use_shards(stranger.write(folder / "toy"), folder)


def _record(name: str, folder: Path) -> Target:
    seed = json.loads((Stranger().write(folder / "seed") / name).read_bytes())
    seed.pop("checksum")

    def run(value: Any, place: Path) -> None:
        dataset = Stranger().write(place / "toy")
        (dataset / name).write_bytes(_sealed(value))
        use_shards(dataset, place)

    return Target(spoilt_values([seed]), run)


def _sealed(value: Any) -> bytes:
    try:
        return sealed_json(value)
    except (TypeError, ValueError):  # no object, or holds nan
        return as_json(value)


def _cache_entry(data: bytes, folder: Path) -> None:
    dataset = Stranger().write(folder / "toy")
    [summary] = json.loads((dataset / "dataset.json").read_bytes())["shards"]
    cache = ShardCache(folder / "cache", size=10**8, floor=0, wait_s=1)
    cache.folder.mkdir()
    (cache.folder / f"vdatrain-{summary['sha256']}.entry").write_bytes(data)
    cache.prepare()
    for clip in open_shards(dataset, cache=cache).clips():
        assert isinstance(clip.tar, CachedTar)
        assert clip.num_frames == FRAMES
        clip.read()
