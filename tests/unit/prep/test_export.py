"""Exported frames are those of the source, within what the shards promise; folders are whole or not there."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import RawTree, make_shards
from vdaprep.analysis import export as exporting
from vdaprep.analysis.export import export
from vdaprep.conversion.options import Settings
from vdaprep.errors import OutputError, ShardError, UsageError
from vdaprep.shards import depth_codes
from vdaprep.shards.dataset import find_shards
from vdaprep.shards.metadata import DepthSpec

TRAJECTORY = "abandonedfactory/Easy/P000"


def shards_of(raw: RawTree, out: Path, *, clip_frames: int = 4, frames_per_shard: int = 8) -> Path:
    settings = Settings(clip_frames=clip_frames, frames_per_shard=frames_per_shard)
    make_shards("tartanair", raw=raw.root, out=out, settings=settings)
    return out / "tartanair"


def test_an_export_is_the_source_within_the_stated_error(raw: RawTree, tmp_path: Path) -> None:
    shards = shards_of(raw, tmp_path / "shards")
    assert len(find_shards(shards)) > 2  # clips of a trajectory come together from several shards
    count: list[int] = []
    names = export(shards, out=tmp_path / "out", on_frame=lambda: count.append(1))
    assert names == sorted(raw.frames)
    assert len(count) == 24
    for name, frames in raw.frames.items():
        folder = tmp_path / "out" / name
        assert sorted(path.name for path in folder.iterdir()) == [
            "camera_to_world.txt", "depth", "intrinsics.txt", "rgb",
        ]  # fmt: skip
        assert len(list(folder.rglob("*.*"))) == 2 * len(frames) + 2
        poses = np.loadtxt(folder / "camera_to_world.txt").reshape(-1, 4, 4)
        assert np.allclose(np.loadtxt(folder / "intrinsics.txt"), [frame.intrinsics for frame in frames])
        for frame in frames:
            assert np.allclose(poses[frame.frame_id], frame.camera_to_world, atol=1e-12)
            rgb = cv2.cvtColor(cv2.imread(str(folder / "rgb" / f"{frame.frame_id:06d}.png")), cv2.COLOR_BGR2RGB)
            assert np.abs(rgb.astype(int) - frame.rgb.pixels).mean() < 4
            depth_m = np.load(folder / "depth" / f"{frame.frame_id:06d}.npy")
            assert depth_m.dtype == np.float32
            known = np.isfinite(frame.depth_m)
            assert np.array_equal(np.isnan(depth_m), np.isnan(frame.depth_m))
            assert np.array_equal(np.isinf(depth_m), np.isinf(frame.depth_m))
            assert np.abs(depth_m[known] / frame.depth_m[known] - 1).max() <= 0.0005


def test_a_shard_alone_gives_its_frames(raw: RawTree, tmp_path: Path) -> None:
    tar = find_shards(shards_of(raw, tmp_path / "shards"))[1]
    export([tar], out=tmp_path / "out", on_frame=lambda: None)
    numbers = [path.stem for path in sorted((tmp_path / "out" / TRAJECTORY / "rgb").iterdir())]
    assert numbers[0] != "000000"
    assert len(np.loadtxt(tmp_path / "out" / TRAJECTORY / "camera_to_world.txt")) == len(numbers)


def test_nothing_is_overwritten(raw: RawTree, tmp_path: Path) -> None:
    tars = find_shards(shards_of(raw, tmp_path / "shards"))
    (tmp_path / "out" / "abandonedfactory" / "Easy" / "P011").mkdir(parents=True)
    with pytest.raises(UsageError, match="P011: is there already; choose another --out"):
        export(tars, out=tmp_path / "out", on_frame=lambda: None)
    assert [path.name for path in (tmp_path / "out" / "abandonedfactory" / "Easy").iterdir()] == ["P011"]


def test_a_folder_is_whole_or_not_there(raw: RawTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars = find_shards(shards_of(raw, tmp_path / "shards"))
    left = tmp_path / "out" / f"{TRAJECTORY}.vdaprep-tmp"
    left.mkdir(parents=True)
    (left / "rest").write_text("of a run that was killed")

    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_write_table", full)
        with pytest.raises(OutputError, match="no space"):
            export(tars, out=tmp_path / "out", on_frame=lambda: None)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    export(tars, out=tmp_path / "out", on_frame=lambda: None)
    assert sorted(path.name for path in left.parent.iterdir()) == ["P000", "P001", "P011"]


def test_damaged_shards_are_refused(raw: RawTree, tmp_path: Path) -> None:
    tar = find_shards(shards_of(raw, tmp_path / "shards"))[0]
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ShardError, match="its SHA-256 is not the one in its record"):
        export([tar], out=tmp_path / "out", on_frame=lambda: None)


def test_two_data_sets_are_not_mixed(toy_shards: Path, raw: RawTree, tmp_path: Path) -> None:
    export(toy_shards, out=tmp_path / "frames", on_frame=lambda: None)
    make_shards("custom", raw=tmp_path / "frames", out=tmp_path / "shards")
    both = [*find_shards(toy_shards), *find_shards(tmp_path / "shards")]
    with pytest.raises(UsageError, match="these are shards of custom, tartanair; export one data set at a time"):
        export(both, out=tmp_path / "out", on_frame=lambda: None)


def test_the_farthest_depth_comes_back_as_itself() -> None:
    spec = DepthSpec("log", 0.0005, near_m=0.1, far_m=1000.0)
    depth_m = np.linspace(990, 1000, 4000, dtype=np.float32).reshape(40, 100)
    codes, _ = depth_codes.code_depth(depth_m, spec)
    exported = depth_codes.within_range(depth_codes.depth_table(spec).take(codes), spec)
    again, clamped = depth_codes.code_depth(exported, spec)
    assert np.array_equal(codes, again)
    assert clamped == 0
    assert exported.max() <= 1000


def test_every_code_of_every_kind_comes_back_as_itself() -> None:
    for spec in (
        DepthSpec("log", 0.0005, near_m=0.1, far_m=1000.0),
        DepthSpec("linear", 0.0, unit_m=0.001),
        DepthSpec("half", 0.0, unit_m=0.1),
    ):
        table = depth_codes.depth_table(spec)
        used = np.isfinite(table)
        codes = np.arange(65536, dtype=np.uint16)[used]
        metres = depth_codes.within_range(table[used][None], spec)
        assert np.array_equal(depth_codes.code_depth(metres, spec)[0][0], codes)
