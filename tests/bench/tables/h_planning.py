"""What it costs to plan a conversion as data sets grow: listing zips, finding trajectories, cutting clips."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.table import Table

from tests.bench.rendered import Rendered
from tests.bench.timing import new_table

TRAJECTORIES = 2000
COLUMNS = ("zips", "s CPU", "peak MiB", "bytes a frame", "of one trajectory: s CPU", "peak MiB", "zips opened")
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_DATE, _VERSION, _MODE = 33, 20, 0o100644 << 16

_PLAN = """
import json, sys, time
from tests.memory import peak_kib
from vdaprep.conversion.account import take_account
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import find_raw
from vdaprep.raw.frames import SourceOptions
at_first = peak_kib()
select = tuple(sys.argv[2:])
before = time.process_time()
raw = find_raw("tartanair", raw=sys.argv[1], options=SourceOptions(), selection=Selection(select=select))
plan = raw.plan(Settings(), Selection(select=select))
account = take_account(raw, plan)
assert account.not_recognised == 0
peak = peak_kib()
print(json.dumps([plan.num_frames, time.process_time() - before, peak / 1024, at_first / 1024, len(raw.archives)]))
"""


def tables(rendered: Rendered, scratch: Path) -> Iterator[Table]:
    table = new_table("(h) scale of a plan", "frames", COLUMNS, caption=_CAPTION)
    for frames in rendered.scale.indexed_frames:
        raw = scratch / f"raw-{frames}"
        trajectories = min(TRAJECTORIES, frames // 5)
        write_raw(raw, trajectories=trajectories, frames=frames // trajectories)
        planned, seconds, peak, at_first, zips = measure(raw)
        one, select_s, select_peak, _, opened = measure(raw, "env0000/Easy/P000")
        assert (planned, one) == (frames, frames // trajectories)
        growth = f"{(peak - at_first) * 2**20 / frames:.0f}"
        table.add_row(
            f"{frames:,}", f"{zips:,.0f}", f"{seconds:.1f}", f"{peak:.0f}", growth,
            f"{select_s:.2f}", f"{select_peak:.0f}", f"{opened:.0f}",
        )  # fmt: skip
    yield table


_CAPTION = (
    f"TartanAir of up to {TRAJECTORIES:,} trajectories, a zip of images and one of depth each, all files empty: "
    "listing, finding trajectories, cutting clips, accounting for every file, in a process of its own; the same with "
    "--select of one trajectory."
)


def measure(raw: Path, *select: str) -> tuple[float, float, float, float, float]:
    """Plan in a new process: frames, seconds of the processor, peak MiB, MiB before, zips that were opened."""
    command = [sys.executable, "-c", _PLAN, str(raw), *select]
    return tuple(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def write_raw(folder: Path, *, trajectories: int, frames: int) -> None:
    """Write the zips of a TartanAir of empty files."""
    for number in range(trajectories):
        env, trajectory = f"env{number // 10:04d}", f"P{number % 10:03d}"
        inside = f"{env}/Easy/{trajectory}"
        (folder / env / "Easy").mkdir(parents=True, exist_ok=True)
        for kind, ending in (("image", "_left.png"), ("depth", "_left_depth.npy")):
            names = (f"{inside}/{kind}_left/{frame:06d}{ending}" for frame in range(frames))
            data = empty_zip([*names, f"{inside}/pose_left.txt"])
            (folder / env / "Easy" / f"{kind}_left_{trajectory}.zip").write_bytes(data)


def empty_zip(names: Iterable[str]) -> bytes:
    """Return a zip of files without bytes, a hundred times as fast as `zipfile` makes one."""
    members, directory = bytearray(), bytearray()
    encoded = [name.encode() for name in names]
    for name in encoded:
        offset, length = len(members), len(name)
        members += _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, 0, 0, 0, length, 0) + name
        entry = (b"PK\1\2", _VERSION, _VERSION, 0, 0, 0, _DATE, 0, 0, 0, length, 0, 0, 0, 0, _MODE, offset)
        directory += _ENTRY.pack(*entry) + name
    count = len(encoded)
    end = _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), len(members), 0)
    return bytes(members + directory) + end
