"""`vdaprep verify`, `export`, `datasets` and the video preview through the command line."""

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from vdaprep import sources

KEY = "tartanair-abandonedfactory-easy-p000-000000"
SHARD = "tartanair/train/shard-0001.tar"


@pytest.fixture
def shards(toy_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_shards, tmp_path / "shards"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered sample, converted."""
    from vdaprep.conversion.convert import convert_plan
    from vdaprep.conversion.options import Selection, Settings
    from vdaprep.conversion.plan import make_plan
    from vdaprep.storage.output import LocalOutput
    from vdaprep.synthetic.sample import SampleSpec, write_sample
    from vdaprep.workers.local import LocalExecutor

    folder = tmp_path_factory.mktemp("rendered")
    spec = SampleSpec(trajectories=2, frames=12, width=96, height=72)
    write_sample("custom", out=folder / "raw", spec=spec, archives=False, on_frame=lambda: None)
    plan = make_plan("custom", raw=folder / "raw", settings=Settings(), selection=Selection())
    convert_plan(plan, output=LocalOutput(folder / "shards" / plan.dataset), executor=LocalExecutor(1))
    return folder


def test_verify_says_that_all_is_well(shards: Path, vdaprep) -> None:
    result = vdaprep("verify", shards)
    assert (result.code, result.err) == (0, "")
    assert "2 shards, 3 clips, 26 frames, " in result.out
    assert "all is well (sizes and SHA-256 compared, --deep decodes every member)" in result.out
    result = vdaprep("verify", shards / SHARD, shards / "tartanair", "--deep")
    assert (result.code, result.err) == (0, "")
    assert "all is well (every member decoded)" in result.out


def test_verify_names_what_is_wrong_and_exits_1(shards: Path, vdaprep) -> None:
    tar = shards / SHARD
    data = bytearray(tar.read_bytes())
    data[20_000] ^= 8
    tar.write_bytes(data)
    (shards / "tartanair" / "val" / "shard-0001.tar").unlink()
    result = vdaprep("verify", shards, "--deep", "--geometry")
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[0] == f"{tar}: its SHA-256 is not the one in its record; the shard is damaged."
    assert f"{tar}: frame " in lines[1]
    assert f"of clip {KEY} differs from its checksum" in lines[1]
    assert "val/shard-0001.tar: is missing, though its record is there" in lines[2]
    assert result.err == "vdaprep: 3 things are wrong (--geometry waits until they are gone).\n"
    report = json.loads(vdaprep("verify", shards, "--deep", "--json").out)
    assert report["whole"] is False
    assert [item["file"] for item in report["findings"]][:2] == [str(tar)] * 2


def test_verify_of_nothing(vdaprep, tmp_path: Path) -> None:
    result = vdaprep("verify", tmp_path)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"vdaprep: {tmp_path}: there are no shards here; vdaprep convert makes them.\n"


def test_geometry_prints_a_line_a_trajectory(rendered: Path, vdaprep) -> None:
    result = vdaprep("verify", rendered / "shards", "--geometry")
    assert (result.code, result.err) == (0, "")
    first, second, end = result.out.splitlines()
    assert first.startswith("train/scene-000: 12 frames, median warp error 0.0")
    assert second.startswith("val/scene-001: 12 frames, median warp error 0.0")
    assert "all is well" in end
    report = json.loads(vdaprep("verify", rendered / "shards", "--geometry", "--json").out)
    assert [item["trajectory"] for item in report["geometry"]] == ["train/scene-000", "val/scene-001"]
    assert report["geometry"][0]["error"] < 0.005


@pytest.mark.slow
def test_geometry_recognises_poses_the_other_way_round(rendered: Path, vdaprep, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(rendered / "raw", tmp_path / "raw"))
    for path in raw.rglob("camera_to_world.txt"):
        inverse = np.linalg.inv(np.loadtxt(path).reshape(-1, 4, 4))
        inverse[:, 3] = [0, 0, 0, 1]
        np.savetxt(path, inverse.reshape(-1, 16), fmt="%.17g")
    vdaprep("convert", "custom", "--raw", raw, "--out", tmp_path / "shards", "--workers", 1)
    result = vdaprep("verify", tmp_path / "shards", "--geometry")
    assert result.code == 1
    assert result.err == "vdaprep: 2 things are wrong.\n"
    assert result.out.count("the poses look like world-to-camera: inverted, they fit clearly better") == 2


def test_export_and_convert_again(shards: Path, vdaprep, tmp_path: Path) -> None:
    result = vdaprep("export", shards / "tartanair", "--out", tmp_path / "frames")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{tmp_path / 'frames'}: 26 frames of 3 trajectories\n"
    again = vdaprep("export", shards / SHARD, "--out", tmp_path / "frames")
    assert again.code == 2
    assert "is there already; choose another --out, or delete it first" in again.err
    for arguments in ((), ("--intrinsics", "32,32,31.5,23.5")):
        out = tmp_path / f"again{len(arguments)}"
        result = vdaprep("convert", "custom", "--raw", tmp_path / "frames", "--out", out, "--workers", 1, *arguments)
        assert (result.code, result.err) == (0, "")
        assert vdaprep("verify", out, "--deep").code == 0


def test_a_unit_of_depth_where_none_is_needed(rendered: Path, vdaprep, tmp_path: Path) -> None:
    arguments = ("convert", "custom", "--raw", rendered / "raw", "--out", tmp_path / "out")
    result = vdaprep(*arguments, "--depth-unit", 0.001)
    assert result.code == 2
    assert "its metres need no --depth-unit" in result.err
    assert "--depth-unit: expected metres of a unit" in vdaprep(*arguments, "--depth-unit", -1).err


@pytest.mark.slow
def test_a_video_of_a_clip(shards: Path, vdaprep, tmp_path: Path) -> None:
    path = tmp_path / "new" / "clip.mp4"
    result = vdaprep("inspect", shards / SHARD, "--preview", path)
    assert f"clip.mp4: video of {KEY}" in result.err
    assert [item.name for item in path.parent.iterdir()] == ["clip.mp4"]
    video = iio.imread(path, plugin="pyav")
    width, gap, top, height = 200, 6, 2 * 20, 150  # of a picture, scaled up so that its name fits above it
    assert video.shape[::3] == (13, 3)
    assert video.shape[2] == 3 * (width + gap)
    video = video[:, top : top + height]
    assert iio.immeta(path, plugin="pyav")["codec"] == "h264"
    rgb, depth, diff = (video[:, :, i * (width + gap) :][:, :, :width].astype(int) for i in range(3))
    sky = depth[:, 1:8, 1:-1].mean((0, 1, 2))
    assert np.abs(sky - [135, 180, 235]).max() < 12
    assert np.abs(diff[0, 2:-2, 2:-2] - 128).max() < 12
    assert rgb.std() > 20


def test_datasets_lists_every_source(vdaprep) -> None:
    result = vdaprep("datasets")
    assert result.code == 0
    for name in sources.names():
        assert f"{name}: " in result.out
    assert (
        "1: 305,000 frames, 210 GB to download, as shards about 32 GB standard, 9.1 GB small, 5.0 GB tiny" in result.out
    )
    rows = json.loads(vdaprep("datasets", "--json").out)
    assert {row["dataset"] for row in rows} == {*sources.names()}
    assert all(row["licence"] and row["home"] for row in rows)
    [first] = [row for row in rows if row["dataset"] == "tartanair" and row["version"] == "1"]
    assert (first["frames"], first["shards_gb"]["tiny"]) == (305_000, pytest.approx(5.0, abs=0.1))


INSPECTED = [  # what of the toy shards, its exit code, a part of what is said
    ("tartanair/val", 0, "shard-0001.tar"),
    ("tartanair", 2, "tartanair: is a folder of 2 shards, expected a shard; name one, for example"),
    ("", 2, "expected a shard; name one, for example"),
    ("none", 2, "none: is a folder of 0 shards, expected a shard."),
]


@pytest.mark.parametrize(("folder", "code", "said"), INSPECTED)
def test_inspect_takes_a_folder_of_one_shard(folder: str, code: int, said: str, shards: Path, vdaprep) -> None:
    (shards / "none").mkdir()
    result = vdaprep("inspect", shards / folder)
    assert (result.code, said in " ".join((result.err if code else result.out).split())) == (code, True), result
