"""The parsers of vdatrain: weights, configurations, evaluations, galleries, videos."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as iio
import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from tests.fuzz import targets as base
from tests.fuzz.mutation import as_json, spoilt, spoilt_values
from vdatrain import config, run_dir
from vdatrain.evaluation import compare, files
from vdatrain.evaluation.evaluate import Gallery
from vdatrain.evaluation.report.comparison import write_report
from vdatrain.inference.video_reader import open_video
from vdatrain.models import weights


def _file(name: str, seeds: list[bytes], use: Callable[[Path], object]) -> "base.Target":
    def run(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        use(folder / name)

    return base.Target(spoilt(seeds), run)


def _json(name: str, seed: Any, use: Callable[[Path], object]) -> "base.Target":
    def run(value: Any, folder: Path) -> None:
        (folder / name).write_bytes(as_json(value))
        use(folder / name)

    return base.Target(spoilt_values([seed]), run)


def _state() -> dict[str, torch.Tensor]:
    return {"pretrained.cls_token": torch.zeros(1, 1, 8), "head.scratch.output_conv1.weight": torch.ones(4, 4, 3, 3)}


def _pickled(zipped: bool = True) -> list[bytes]:
    found: list[bytes] = []
    for state in (_state(), {"model": _state(), "step": 3}):
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        found.append(file.getvalue())
    return found


def _safe() -> list[bytes]:
    return [save_safetensors(_state())]


_TOML = [b'shards = "x"\nvariant = "conv"\nsteps = 10\nlr = 1e-4\nframes = 8\n']


def _from_toml(path: Path) -> None:
    config.from_mapping(config.from_file(path), where="--config")


def _facts() -> dict[str, Any]:
    options = config.from_mapping({"shards": "x"}, where="here").to_json()
    return {"config": json.loads(json.dumps(options)), "data": "ab" * 32, "versions": {"torch": "2"}, "git": None}


def _log() -> list[bytes]:
    evaluation = b'{"step": 2, "evaluation": {"average": {"absrel": 0.1, "loss": null}}}'
    return [b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n' + evaluation + b"\n"]


def _evaluation() -> dict[str, Any]:
    row = {"absrel": 0.1, "delta1": 0.9, "rmse": 1.0, "tae": None, "tae_compared": None, "loss": 0.3}
    protocol = {"split": "val", "size": 28, "frames": 3, "stride": 1}
    facts = {"config": _facts()["config"], "protocol": protocol, "data": {"toy": "ab" * 32}}
    return {"datasets": {"toy": row}, "average": row, "step": 3, **facts}


def _compare(path: Path) -> None:
    (path.parent / "log.jsonl").write_bytes(_log()[0])
    run = files.read_evaluation(path.parent)
    rows = compare.compare([run])
    compare.markdown_table(rows)
    compare.verdict(rows)
    write_report(path.parent / "report.html", [run], rows)


def _gallery() -> list[bytes]:
    from dataclasses import fields

    file = io.BytesIO()
    arrays: dict[str, Any] = {item.name: np.zeros((2, 4, 6), np.uint8) for item in fields(Gallery)}
    arrays |= {"frames": np.zeros((2, 4, 6, 3), np.uint8), "known": np.ones((2, 4, 6), np.bool_)}
    np.savez_compressed(file, **arrays)
    return [file.getvalue()]


def _film(ending: str) -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), np.uint8)
    return iio.imwrite("<bytes>", frames, extension=ending, plugin="pyav", codec="mpeg4", fps=10)


def _watch(path: Path) -> None:
    for number, frame in enumerate(open_video(path).frames()):
        assert frame.rgb.ndim == 3
        if number > 20:
            break


def _pictures() -> st.SearchStrategy[bytes]:
    rgb = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    return spoilt([cv2.imencode(ending, rgb)[1].tobytes() for ending in (".png", ".jpg", ".bmp", ".tiff")])


def _watch_folder(data: bytes, folder: Path) -> None:
    (folder / "images").mkdir()
    for number in range(2):
        (folder / "images" / f"{number}.png").write_bytes(data)
    _watch(folder / "images")


def _mix(text: str, folder: Path) -> None:
    config.parse_mix(text.replace("\n", " "))


TARGETS: Mapping[str, Callable[[], base.Target]] = {
    ".pt": lambda: _file("weights.pt", _pickled(), lambda path: weights.read_weights(path)),
    ".pt of an older torch": lambda: _file("weights.pt", _pickled(False), lambda path: weights.read_weights(path)),
    ".safetensors": lambda: _file("weights.safetensors", _safe(), lambda path: weights.read_weights(path)),
    "config.json": lambda: _json("config.json", _facts(), lambda path: run_dir.stored_config(path.parent)),
    "config.toml": lambda: _file("config.toml", _TOML, _from_toml),
    "log.jsonl": lambda: _file("log.jsonl", _log(), lambda path: run_dir.forget_log_after(path.parent, 1, evaluated=1)),
    "evaluation.json": lambda: _json("evaluation.json", _evaluation(), _compare),
    "gallery": lambda: _file("gallery-toy.npz", _gallery(), lambda path: asdict(files.read_gallery(path))),
    "video .mp4": lambda: _file("video.mp4", [_film(".mp4")], _watch),
    "video .avi": lambda: _file("video.avi", [_film(".avi")], _watch),
    "image folder": lambda: base.Target(_pictures(), _watch_folder),
    "mix": lambda: base.Target(spoilt(base._TEXTS).map(lambda data: data.decode("utf-8", "replace")), _mix),
}
"""See `targets.targets`."""
