"""The public API of `vdaprep`: every name is there, and what the documentation shows runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import vdaprep
from tests.conftest import write_raw

LIGHT = "import sys, vdaprep; sys.exit(bool({'numpy', 'cv2', 'typer', 'rich'} & set(sys.modules)))"


def test_every_name_is_there_and_documented() -> None:
    for name in vdaprep.__all__:
        assert name in dir(vdaprep)
        value = getattr(vdaprep, name)
        assert name == "__version__" or value.__doc__, name
    assert sorted(vdaprep.__all__) == list(vdaprep.__all__)


def test_the_import_is_light() -> None:
    assert subprocess.run([sys.executable, "-c", LIGHT], check=False).returncode == 0


def test_raw_data_to_arrays(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={"abandonedfactory/Easy/P000": 9, "abandonedfactory/Easy/P011": 9})
    plan = vdaprep.plan("tartanair", raw=raw.root, short_side=24)
    events: list[vdaprep.ProgressEvent] = []
    record = vdaprep.convert(plan, out=tmp_path / "shards", workers=1, on_progress=events.append)
    assert record.totals["frames"] == 18
    assert events
    report = vdaprep.verify(tmp_path / "shards", deep=True)
    assert report.whole
    assert report.frames == 18
    clip = vdaprep.open_shards(tmp_path / "shards").clips(split="val")[0]
    frames = clip.read(first=0, count=4, stride=2)
    assert frames.rgb.shape == (4, 24, 32, 3)
    assert frames.depth_m.shape == (4, 24, 32)
    assert frames.differences is not None
    assert frames.differences.shape == (4, 3, 6, 8)
    assert frames.intrinsics.shape == (4, 4)
    assert frames.camera_to_world is not None
    assert np.allclose(frames.camera_to_world[1], raw.frames["abandonedfactory/Easy/P011"][2].camera_to_world)
    names = vdaprep.export(tmp_path / "shards", tmp_path / "frames")
    assert names == ["abandonedfactory/Easy/P000", "abandonedfactory/Easy/P011"]
    broken = tmp_path / "shards" / "tartanair" / "val" / "shard-0001.tar"
    data = broken.read_bytes()
    broken.write_bytes(data[:-700])
    assert not vdaprep.verify(tmp_path / "shards").whole
    vdaprep.repair("tartanair", raw=str(raw.root), out=tmp_path / "shards", workers=1)
    assert broken.read_bytes() == data
