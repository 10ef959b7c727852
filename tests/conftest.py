"""What tests of all parts share: a small raw data set made without the renderer, the command lines in-process."""

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from rich.console import Console

from vdaprep import cli as prep_cli
from vdaprep.cli.views import output as prep_console
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import make_plan
from vdaprep.raw.frames import Frame, RgbImage
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import ClipMeta
from vdaprep.shards.records import DatasetRecord
from vdaprep.storage.output import LocalOutput
from vdaprep.synthetic import layouts
from vdaprep.synthetic.sample import unpack
from vdaprep.workers.local import LocalExecutor

# Before torch is imported: its threads wait for each other on tiny tensors, a hundredfold on a machine that is busy;
# and a copy of a process that has such threads waits for them for ever.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# Who starts the tests in the background of a script starts them deaf to Ctrl-C, and so all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines are busy at times, so no clock decides; nor does chance. `--hypothesis-profile=search` looks for more.
BUSY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("here", derandomize=True, **BUSY)
settings.register_profile("search", max_examples=2000, **BUSY)
settings.load_profile("here")

WIDTH, HEIGHT = 64, 48


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that is for a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch  # which tests of vdaprep do without

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


def decode_shards(*tars: Path) -> Iterator[tuple[str, ClipMeta, dict[str, list[np.ndarray]]]]:
    """Decode all clips of shards: key, metadata, arrays by kind of member."""
    for clip in open_shards(tars).clips():
        values: dict[str, list[np.ndarray]] = {}
        for frame in clip.frames():
            for kind in frame.members:
                values.setdefault(kind, []).append(frame.decode(kind))
        yield clip.key, clip.meta, values


def toy_frame(trajectory: int, number: int, *, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    """A frame of smooth colours that drift with `number`, a slanted floor with a step, some sky and unknown pixels."""
    rng = np.random.default_rng([trajectory, number])
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.stack([np.sin((x + 3 * number) / (5 + c) + trajectory) + np.cos(y / (4 + c)) for c in range(3)], axis=-1)
    rgb = (127 + 50 * waves + rng.normal(0, 2, waves.shape)).clip(0, 255).astype(np.uint8)
    depth_m = (2 + trajectory + 0.1 * number + 8 * (height - y) / height + 0.02 * x).astype(np.float32)
    depth_m[10:20, 20:30] = 1.5
    depth_m[:4] = np.inf
    depth_m[-3:, :5] = np.nan
    pose = np.eye(4)
    angle = 0.02 * number
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = [0.1 * number, 0.01 * trajectory, 0.2 * number]
    intrinsics = layouts.load("tartanair").intrinsics(width=width, height=height)
    return Frame(number, RgbImage(rgb), depth_m, intrinsics, pose)


def pinhole(*, width: int, height: int, fov_deg: float = 80.0) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of a centred camera that is `fov_deg` wide."""
    focal_px = width / 2 / math.tan(math.radians(fov_deg) / 2)
    return focal_px, focal_px, (width - 1) / 2, (height - 1) / 2


@dataclass(frozen=True)
class RawTree:
    """A TartanAir tree: its root and the frames that were written, by trajectory."""

    root: Path
    frames: dict[str, list[Frame]]


def write_raw(root: Path, *, lengths: dict[str, int]) -> RawTree:
    layout = layouts.load("tartanair")
    frames = {name: [toy_frame(i, n) for n in range(count)] for i, (name, count) in enumerate(lengths.items())}
    for name, items in frames.items():
        unpack(root, layout.encode_files(name, ((item,) for item in items)))
    return RawTree(root, frames)


def make_shards(
    dataset: str,
    *,
    raw: Path,
    out: Path,
    settings: Settings | None = None,
    selection: Selection | None = None,
    workers: int = 1,
) -> DatasetRecord:
    """Convert a raw tree into OUT/DATASET, without the command line."""
    plan = make_plan(dataset, raw=raw, settings=settings or Settings(), selection=selection or Selection())
    return convert_plan(plan, output=LocalOutput(out / dataset), executor=LocalExecutor(workers))


@pytest.fixture
def raw(tmp_path: Path) -> RawTree:
    """Three trajectories, the last of which the default split holds out."""
    lengths = {"abandonedfactory/Easy/P000": 13, "abandonedfactory/Easy/P001": 6, "abandonedfactory/Easy/P011": 5}
    return write_raw(tmp_path / "raw", lengths=lengths)


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy data converted: two training trajectories and a held-out one. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("toy")
    lengths = {"abandonedfactory/Easy/P000": 13, "abandonedfactory/Easy/P001": 6, "abandonedfactory/Easy/P011": 7}
    tree = write_raw(folder / "raw", lengths=lengths)
    make_shards("tartanair", raw=tree.root, out=folder / "shards")
    return folder / "shards"


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """What every file below a folder holds, by its path there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def runner(
    main: Callable[[], None], console: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(console, "width", 160)
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def vdaprep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run vdaprep with arguments; returns its exit code and what it printed."""
    monkeypatch.setattr(prep_console, "LINE_S", 1e9)  # on a busy machine a short conversion is none
    yield runner(prep_cli.main, prep_console.console, monkeypatch, capsys)


@pytest.fixture
def vdatrain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run vdatrain with arguments; returns its exit code and what it printed."""
    from vdatrain import cli
    from vdatrain.cli.views import output

    yield runner(cli.main, output.console, monkeypatch, capsys)
