"""Intrinsics of another image size: scaled where the size they are for is known, refused where it is not."""

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run, decode_shards

FX = FY = 725.0087
KITTI = f"{FX} {FY} 620.5 187"


def sample(dataset: str, size: str, out: Path, vdaprep: Run, *, frames: int = 2) -> Path:
    options = ("--trajectories", "1", "--frames", str(frames), "--size", size)
    assert vdaprep("sample", dataset, "--out", out, *options).code == 0
    return out


def with_table(name: str, numbers: str, *, keyed: bool) -> Callable[[Path], None]:
    def change(raw: Path) -> None:
        [file] = raw.rglob(name)
        lines = file.read_text().splitlines()
        if keyed:
            lines[1:] = [" ".join([*line.split()[:2], numbers]) for line in lines[1:]]
        else:
            lines = [numbers]
        file.write_text("\n".join(lines) + "\n")

    return change


vkitti = functools.partial(with_table, "intrinsic.txt", keyed=True)
custom = functools.partial(with_table, "intrinsics.txt", keyed=False)
HALF = [FX / 2, FY * 188 / 375, 310.0, 93.497]

CASES: dict[str, tuple[str, str, Callable[[Path], None], list[float] | str]] = {
    "Virtual KITTI, halved": ("vkitti", "621x188", vkitti(KITTI), HALF),
    "Virtual KITTI, a third": ("vkitti", "414x125", vkitti(KITTI), [FX / 3, FY / 3, 206.5, 62.0]),
    "Virtual KITTI, a quarter": ("vkitti", "310x94", vkitti(KITTI), [FX * 310 / 1242, FY * 94 / 375, 154.5, 46.5]),
    "Virtual KITTI, doubled": ("vkitti", "2484x750", vkitti(KITTI), [FX * 1788 / 1242, FY * 1.44, 893.5, 269.5]),
    "Virtual KITTI, cut": (
        "vkitti",
        "1216x352",
        vkitti(KITTI),
        "is 1216x352 pixels, the data set's camera",
    ),
    "Virtual KITTI, squeezed": ("vkitti", "640x480", vkitti(KITTI), "is 640x480 pixels, the data set's camera has"),
    "Virtual KITTI, its own of another": ("vkitti", "64x48", vkitti("36 36 310 93"), "principal point .* at 310, 93"),
    "the sensor's size": ("custom", "64x48", custom("1600 1600 960 720"), "is 64x48 pixels, .* at 960, 720"),
    "half the size": ("custom", "64x48", custom("50 50 15 11"), "principal point of its intrinsics is at 15, 11"),
    "twice the size": ("custom", "64x48", custom("50 50 64 48"), "principal point of its intrinsics is at 64, 48"),
    "width and height swapped": ("custom", "64x36", custom("50 50 18 32"), "principal point .* at 18, 32"),
    "in parts of the image": ("custom", "64x48", custom("0.8 0.8 0.5 0.5"), r"its focal lengths are 0\.8, 0\.8: they"),
    "its middle in parts": ("custom", "64x48", custom("50 50 0.5 0.5"), r"principal point .* at 0\.5, 0\.5"),
    "focal length in parts": (
        "custom",
        "64x48",
        custom("0.8 1.1 32 24"),
        r"its focal lengths are 0\.8, 1\.1: they look",
    ),
    "focal length in metres": ("custom", "64x48", custom("0.035 0.035 32 24"), r"focal lengths are 0\.035, 0\.035"),
    "one focal length in parts": ("custom", "64x48", custom("50 0.8 32 24"), r"focal lengths are 50, 0\.8: they look"),
    "very wide": ("custom", "64x48", custom("7 7 32 24"), [7, 7, 32, 24]),
    "before the image": ("custom", "64x48", custom("50 50 -32 24"), "principal point .* at -32, 24"),
    "in the middle": ("custom", "64x48", custom("50 50 32 24"), [50, 50, 32, 24]),
    "a little off": ("custom", "64x48", custom("50 50 26 29"), [50, 50, 26, 29]),
    "no focal length": ("custom", "64x48", custom("0 50 32 24"), "a focal length in .* is not positive"),
    "a huge focal length": (
        "custom",
        "64x48",
        custom("1e300 50 32 24"),
        "has no usable intrinsics: they are no",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_intrinsics_of_another_size_are_scaled_or_refused(name: str, vdaprep: Run, tmp_path: Path) -> None:
    dataset, size, change, expected = CASES[name]
    raw = sample(dataset, size, tmp_path / "raw", vdaprep)
    change(raw)
    found = vdaprep("convert", dataset, "--raw", raw, "--out", tmp_path / "out", "--workers", "1")
    if isinstance(expected, str):
        assert found.code == 1
        assert "none of 2 frames can be used" in found.err
        assert re.search(expected, found.err), found.err
        return
    assert found.code == 0, found.err
    [(_, meta, _)] = decode_shards(*(tmp_path / "out").rglob("*.tar"))
    assert np.allclose(meta.intrinsics, [expected] * 2, atol=0.01)


def test_intrinsics_that_the_user_says_may_be_off_the_middle(vdaprep: Run, tmp_path: Path) -> None:
    raw = sample("custom", "64x48", tmp_path / "raw", vdaprep)
    chosen = ("--raw", raw, "--out", tmp_path / "out", "--intrinsics", "50,50,10,24")
    assert vdaprep("convert", "custom", *chosen).code == 0


# ---------------------------------------------------------------------------------------------- old copies of MVS-Synth

F_X = {"f_x as given": 1.0, "f_x times 810/1920": 1920 / 810, "f_x times 2 x 810/1920": 1920 / 810 / 2}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trajectory of MVS-Synth at its smallest size."""
    from vdaprep.synthetic.sample import SampleSpec, write_sample

    out = tmp_path_factory.mktemp("mvs")
    spec = SampleSpec(trajectories=1, frames=8, width=960, height=540)
    write_sample("mvs-synth", out=out, spec=spec, archives=False, on_frame=lambda: None)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("c_x", [405.0, 404.6])
@pytest.mark.parametrize("name", F_X)
def test_warp_errors_decide_which_intrinsics_of_an_old_copy_are_meant(
    name: str, c_x: float, rendered: Path, vdaprep: Run, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(rendered, raw)
    right = 0.0
    for file in raw.rglob("poses/*.json"):
        camera = json.loads(file.read_text())
        right = camera["f_x"]
        file.write_text(json.dumps({**camera, "f_x": right * F_X[name], "c_x": c_x}))
    found = vdaprep("convert", "mvs-synth", "--raw", raw, "--out", tmp_path / "out", "--workers", "1")
    assert found.code == 0
    assert f"intrinsics of an old copy; {name} fits best" in found.err
    [(_, meta, _)] = decode_shards(*(tmp_path / "out").rglob("*.tar"))
    assert np.allclose(np.array(meta.intrinsics)[:, [0, 2]], [right, c_x * 960 / 810])
