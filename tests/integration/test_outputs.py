"""Every command that writes, and places that it cannot write to: a sentence before the work, and nothing left there."""

import resource
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.conftest import RawTree, tree_bytes
from tests.disks import full_disk

GOLDEN = Path(__file__).parents[1] / "golden" / "shard_v1"
PNG, MP4, NPZ, HTML, WEIGHTS = ".png", ".mp4", ".npz", ".html", ".safetensors"
WRITERS: dict[str, tuple[str, str]] = {
    "convert": ("vdaprep convert tartanair --raw {raw} --workers 1 --out {out}", ""),
    "convert --json": ("vdaprep convert tartanair --raw {raw} --workers 1 --json --out {out}", ""),
    "plan": ("vdaprep plan tartanair --raw {raw} --workers 1 --out {out}", ""),
    "repair": ("vdaprep repair tartanair --raw {raw} --workers 1 --out {out}", ""),
    "sample": ("vdaprep sample tartanair --trajectories 1 --frames 1 --size 40x30 --out {out}", ""),
    "sample --archives": (
        "vdaprep sample tartanair --trajectories 1 --frames 1 --size 40x30 --archives --out {out}",
        "",
    ),
    "export": ("vdaprep export {shards} --out {out}", ""),
    "inspect, a sheet": ("vdaprep inspect {shard} --preview {out}", PNG),
    "inspect, a film": ("vdaprep inspect {shard} --preview {out}", MP4),
    "stats": ("vdaprep stats {shards} --plot {out}", PNG),
    "run": ("vdatrain run --shards {shards} --encoder tiny --steps 1 --frames 4 --size 28 --out {out}", ""),
    "infer, a film": ("vdatrain infer {video} --checkpoint {missing} --out {out}", MP4),
    "infer, an array": ("vdatrain infer {video} --checkpoint {missing} --out {out}", NPZ),
    "infer, a folder": ("vdatrain infer {video} --checkpoint {missing} --out {out}", ""),
    "compare": ("vdatrain compare {missing} --report {out}", HTML),
    "vdatrain export": ("vdatrain export --checkpoint {missing} --out {out}", WEIGHTS),
}
"""A command line and the ending of the file that it writes; no ending where it is a folder."""


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    return path


def link(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


EVERYWHERE: dict[str, tuple[Callable[[Path, str], Path], int]] = {
    "under a file": (lambda at, end: made(at / "file") / f"new{end}", 1),
    "deep under a file": (lambda at, end: made(at / "file") / "a" / "b" / f"new{end}", 1),
    "where nothing can be made": (lambda at, end: Path(f"/proc/new{end}"), 1),
    "below a link to nowhere": (lambda at, end: link(at / "l", "nowhere") / f"new{end}", 1),
    "below a circle of links": (lambda at, end: link(at / "l", "l") / f"new{end}", 1),
    "a name that is too long": (lambda at, end: at / ("x" * 300 + end), 1),
    "a URL": (lambda at, end: Path(f"s3:/bucket/new{end}"), 2),
}
"""How a place that is no good is made, and the exit code; convert and repair write to URLs."""
FOR_FILES: dict[str, tuple[Callable[[Path, str], Path], int]] = {
    "a folder": (lambda at, end: made(at / f"new{end}" / "file").parent, 2),
    "a link to a folder": (lambda at, end: (made(at / "d" / "file"), link(at / f"new{end}", "d"))[1], 2),
}
FOR_FOLDERS: dict[str, tuple[Callable[[Path, str], Path], int]] = {
    "a file": (lambda at, end: made(at / "new"), 2),
    "a link to a file": (lambda at, end: (made(at / "f"), link(at / "new", "f"))[1], 2),
    "a device": (lambda at, end: Path("/dev/full"), 2),
}
CASES = [
    pytest.param(command, end, make, 1 if into_dataset else code, id=f"{name}: {where}")
    for name, (command, end) in WRITERS.items()
    for where, (make, code) in (EVERYWHERE | (FOR_FILES if end else FOR_FOLDERS)).items()
    if where not in EVERYWHERE or where in ("under a file", "a URL") or name in ("convert", "sample", "stats")
    for into_dataset in [name.startswith(("convert", "plan", "repair")) and where != "a URL"]
]
"""Every command meets a place of each sort, one of each kind meets all; more are in `test_check_output.py`."""


@pytest.fixture
def command_line(tmp_path: Path, raw: RawTree, toy_shards: Path, request) -> Callable[..., tuple]:
    """Run a line in-process; returns the exit code and the sentence on stderr: its only one, `meanwhile` the last."""
    shards = tmp_path / "in" / "shards"
    shutil.copytree(toy_shards, shards)
    inputs = {
        "raw": raw.root,
        "shards": shards,
        "shard": sorted(GOLDEN.rglob("shard-*.tar"))[0],
        "video": next(raw.root.rglob("image_left")),
        "missing": tmp_path / "missing",
    }

    def run(line: str, out: Path | str, *, meanwhile: bool = False) -> tuple[int, str]:
        program, *words = line.split()
        result = request.getfixturevalue(program)(*(word.format(out=out, **inputs) for word in words))
        said = [line for line in result.err.splitlines() if not line.startswith("no GPU")]
        assert len(said) == 1 or meanwhile, result.err
        assert said[-1].startswith(f"{program}: ")
        return result.code, said[-1]

    return run


@pytest.mark.parametrize(("line", "end", "make", "code"), CASES)
def test_what_cannot_be_written_is_said_before_the_work(
    line: str, end: str, make: Callable[[Path, str], Path], code: int, command_line, tmp_path: Path
) -> None:
    at = tmp_path / "at"
    at.mkdir()
    out = make(at, end)
    before = tree_bytes(tmp_path)
    found, sentence = command_line(line, out)
    assert (found, str(out) in sentence) == (code, True), sentence
    assert tree_bytes(tmp_path) == before


@pytest.fixture
def full(tmp_path: Path) -> Generator[Path]:
    with full_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_said_before_the_work(name: str, command_line, full: Path) -> None:
    line, end = WRITERS[name]
    code, sentence = command_line(line, full / f"new{end}")
    assert (code, "No space left on device" in sentence, "free some space" in sentence) == (1, True, True), sentence
    assert [path.name for path in full.iterdir()] == ["filling"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in WRITERS if "{missing}" not in WRITERS[name][0] and name not in ("plan", "repair")]
)
def test_a_disk_that_fills_up_meanwhile_is_a_sentence(name: str, command_line, tmp_path: Path) -> None:
    """Files there cannot grow beyond a few kilobytes, so the trial succeeds and the work does not."""
    line, end = WRITERS[name]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4500, before[1]))
    try:
        code, sentence = command_line(line.replace("40x30", "80x60"), tmp_path / f"new{end}", meanwhile=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, "File too large" in sentence) == (1, True), sentence
    assert not end or not (tmp_path / f"new{end}").exists()


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ("vdaprep convert tartanair --raw {out}/tartanair --out {out}", "in"),
        ("vdaprep plan tartanair --raw {out}/tartanair --out {out}", "in"),
        ("vdaprep repair tartanair --raw {out}/tartanair --out {out}", "in"),
        ("vdaprep export {shards} --out {out}", "in/shards"),
        ("vdaprep export {shards} --out {out}", "in/shards/tartanair/frames"),
        ("vdaprep export {shards} --out {out}", "in/../in/shards/new"),
        ("vdatrain run --shards {shards} --out {out}", "in/shards/tartanair"),
        ("vdatrain infer {out} --checkpoint {missing} --out {out}", "film.mp4"),
        ("vdatrain infer {out} --checkpoint {missing} --out {out}", "in/shards"),
        ("vdatrain export --checkpoint {out} --out {out}", "weights.safetensors"),
        ("vdatrain export --checkpoint {out}.json --out {out}", "weights.safetensors"),
    ],
)
def test_an_output_is_no_input(line: str, out: str, command_line, tmp_path: Path) -> None:
    """Nor does a link to its folder make it another one."""
    (tmp_path / "in" / "tartanair").mkdir()
    for name in ("film.mp4", "weights.safetensors", "weights.safetensors.json"):
        made(tmp_path / name)
    (tmp_path / "other").symlink_to(".")
    line = line.replace("--out {out}", f"--out {tmp_path}/other/{out}")
    before = tree_bytes(tmp_path)
    code, sentence = command_line(line, tmp_path / out)
    assert (code, "input" in sentence) == (2, True), sentence
    assert tree_bytes(tmp_path) == before
