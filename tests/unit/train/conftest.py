"""Small shards for the tests of `vdatrain`, written by the converter's own writer from frames that a formula gives."""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from jaxtyping import Float32, UInt8, UInt16
from torch import Tensor, nn

from vdaprep.shards import codec, depth_codes
from vdaprep.shards.metadata import ClipMeta, DepthSpec, DiffSpec
from vdaprep.shards.names import DATASET_FILE, clip_key, record_name, shard_name
from vdaprep.shards.records import DatasetRecord, ShardRecord, ShardSummary
from vdaprep.shards.writer import EncodedClip, write_shard
from vdaprep.storage.output import LocalOutput
from vdatrain.models import variants

DIFF = DiffSpec(scale=4, step=2)
LINEAR = DepthSpec(kind="linear", unit_m=0.01, relative_error=0.0)
RELATIVE = DepthSpec(kind="relative", relative_error=0.0, packing="nibbles")
OPTIONS = {"jpeg_quality": 95}


def golden_entry(name: str, value: Tensor) -> Tensor:
    """Make the weight that the golden outputs were computed with, from its name and shape."""
    if name.endswith(".pe"):
        return value
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(value.shape).astype(np.float32)
    if name.endswith(".gamma") or (noise.ndim == 1 and name.endswith(".weight")):
        noise = 1 + np.float32(0.1) * noise
    elif name.endswith(".bias"):
        noise = np.float32(0.05) * noise
    elif name.rpartition(".")[2] in ("pos_embed", "cls_token", "mask_token"):
        noise = np.float32(0.02) * noise
    else:
        noise = noise / np.float32(np.sqrt(np.prod(noise.shape[1:])))
    return torch.from_numpy(noise + np.float32(2 if name == "head.scratch.output_conv2.2.bias" else 0))


@pytest.fixture(scope="session")
def golden_model() -> nn.Module:
    """The published model with the weights that the golden outputs were computed with; leave it in eval mode."""
    model = variants.build("basic", encoder="vits")
    model.load_state_dict({name: golden_entry(name, value) for name, value in model.state_dict().items()})
    return model.eval()


def toy_frame(
    clip: int, frame: int, size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Return a smooth image and depth in metres, both moving; the top rows are sky, one corner is unknown."""
    height, width = size
    y, x = np.mgrid[:height, :width] / width
    phases = np.array([0.0, 2.1, 4.2]) + clip
    waves = np.sin(7 * x[..., None] + 4 * y[..., None] + 0.25 * frame + phases)
    rgb = np.rint(127.5 + 110 * waves).astype(np.uint8)
    depth_m = np.round(5 + clip + 4 * y + 2 * np.sin(5 * x + 0.1 * frame), 2).astype(np.float32)
    depth_m[: height // 10] = np.inf
    depth_m[-3:, -3:] = np.nan
    return rgb, depth_m


@pytest.fixture(scope="session", name="toy_frame")
def toy_frame_fixture() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return toy_frame


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """Return a function that writes a finished data set; see `_write_dataset`."""
    return _write_dataset


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two data sets, one of them without differences and poses and of another size; do not write to it."""
    folder = tmp_path_factory.mktemp("shards")
    _write_dataset(folder / "alpha", lengths=(9, 3, 12, 8, 17), size=(60, 80))
    _write_dataset(folder / "beta", lengths=(10, 8), size=(48, 52), diff=None, poses=False)
    return folder


def _write_dataset(
    folder: Path,
    *,
    lengths: Sequence[int],
    size: tuple[int, int] = (60, 80),
    split: str = "train",
    diff: DiffSpec | None = DIFF,
    poses: bool = True,
    depth: DepthSpec | None = LINEAR,
    clips_per_shard: int = 2,
    source: Mapping[str, object] = MappingProxyType({}),
) -> Path:
    """Write clips of the given lengths; of every clip but the first the first difference is valid."""
    clips = [
        _clip(folder.name, number, length, split=split, size=size, diff=diff, poses=poses, depth=depth)
        for number, length in enumerate(lengths)
    ]
    records = [
        write_shard(
            LocalOutput(folder),
            f"{split}/{shard_name(1 + start // clips_per_shard)}",
            clips[start : start + clips_per_shard],
            options=OPTIONS if depth == LINEAR else {"depth": None, "rgb": "jpeg:95"},
            plan="toy",
            rejected=[],
        )
        for start in range(0, len(clips), clips_per_shard)
    ]
    dataset = DatasetRecord(
        dataset=folder.name,
        source=dict(source),
        options=OPTIONS,
        splits={split: [clip.meta.trajectory for clip in clips]},
        totals={},
        shards=tuple(_summary(folder, split, record) for record in records),
        rejected=(),
    )
    (folder / DATASET_FILE).write_bytes(dataset.to_bytes())
    return folder


def _summary(folder: Path, split: str, record: ShardRecord) -> ShardSummary:
    data = (folder / split / record_name(record.tar_name)).read_bytes()
    return ShardSummary(
        split=split,
        name=record.tar_name,
        bytes=record.tar_bytes,
        sha256=record.tar_sha256,
        record_sha256=hashlib.sha256(data).hexdigest(),
        clips=len(record.clips),
        frames=record.num_frames,
    )


def _clip(
    dataset: str,
    number: int,
    length: int,
    *,
    split: str,
    size: tuple[int, int],
    diff: DiffSpec | None,
    poses: bool,
    depth: DepthSpec | None,
) -> EncodedClip:
    height, width = size
    frames: list[tuple[tuple[str, bytes], ...]] = []
    ranges: list[tuple[float, float]] = []
    before = codec.shrink(toy_frame(number, -1, size)[0], diff) if diff and number else None
    for frame in range(length):
        rgb, depth_m = toy_frame(number, frame, size)
        members = [("rgb.jpg", codec.encode_rgb(rgb, quality=95))]
        if depth is not None:
            codes = _codes(depth_m, depth)
            members.append(("depth.zst", codec.pack_codes(codes, depth)))
            ranges.append(depth_codes.disparity_range(codes, depth) or (0.0, 0.0))
        if diff:
            shrunk = codec.shrink(rgb, diff)
            members.append(("diff.zst", codec.encode_diff(shrunk, before, diff)))
            before = shrunk
        frames.append(tuple(members))
    meta = ClipMeta(
        dataset=dataset,
        split=split,
        trajectory=f"walk/{number:02d}",
        frame_ids=tuple(range(length)),
        height=height,
        width=width,
        intrinsics=tuple((0.9 * width, 0.9 * width, width / 2 - 0.5, height / 2 + frame) for frame in range(length)),
        camera_to_world=tuple(_pose(number, frame) for frame in range(length)) if poses else None,
        depth=depth,
        disparity_min=min((low for low, _ in ranges), default=0.0),
        disparity_max=max((high for _, high in ranges), default=0.0),
        teacher_disparity=None if depth is None or depth.is_metric else (0.0, 1.0),
        diff=diff,
        diff_valid=tuple(diff is not None and (frame > 0 or number > 0) for frame in range(length)),
    )
    return EncodedClip(clip_key(dataset, meta.trajectory, 0), meta, tuple(frames), 0)


def _codes(depth_m: Float32[np.ndarray, "h w"], depth: DepthSpec) -> UInt16[np.ndarray, "h w"]:
    """Code depth, of kind `relative` as a teacher whose disparity is 1/m."""
    if depth.is_metric:
        return depth_codes.code_depth(depth_m, depth)[0]
    return depth_codes.code_disparity(1 / depth_m, least=0.0, greatest=1.0)


def _pose(clip: int, frame: int) -> tuple[tuple[float, ...], ...]:
    """Turn about the vertical axis while moving forward."""
    angle = 0.02 * frame + clip
    c, s = float(np.cos(angle)), float(np.sin(angle))
    return (c, 0.0, s, 0.1 * frame), (0.0, 1.0, 0.0, -0.5), (-s, 0.0, c, 0.2 * frame), (0.0, 0.0, 0.0, 1.0)


class Toy(nn.Module):
    """A model that compiles in no time; its name for its weight is a part that every preset trains."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(3, 1)

    def forward(self, frames: Tensor, differences: Tensor | None, diff_valid: Tensor) -> Tensor:
        return self.branch(frames.movedim(2, -1)).squeeze(-1)
