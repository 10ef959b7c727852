"""Raw data goes when its shards were read back, and only what a plan used up: archives, folders, links, rejections."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import tree_bytes
from vdaprep import consent, consume, verified
from vdaprep.convert import Progress, convert
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.executors import LocalExecutor
from vdaprep.outputs import PLAN_FILE, LocalOutput
from vdaprep.plan import Selection, Settings
from vdaprep.sample import SampleSpec, write_sample
from vdaprep.saved_plan import LostTrajectory, Prepared, prepare
from vdaprep.schema import DatasetRecord
from vdaprep.verify import verify

SMALL = Settings(short_side=24, clip_frames=3, frames_per_shard=6)
EASY = "abandonedfactory/Easy"
ALL = Selection()


def pack(raw: Path, out: Path, *, more: dict[str, bytes] | None = None) -> Path:
    """Pack a raw tree as TartanAir's zips; `more` goes into the images' one."""
    for kind in ("image", "depth"):
        target = out / EASY / f"{kind}_left.zip"
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w") as file:
            for path in sorted(raw.rglob("*")):
                if path.is_file() and (kind in path.parent.name or path.suffix == ".txt"):
                    file.write(path, path.relative_to(raw).as_posix())
            for name, data in (more or {}).items() if kind == "image" else ():
                file.writestr(name, data)
    return out


def prepared(raw: Path, out: Path, *, selection: Selection = ALL, settings: Settings = SMALL) -> Prepared:
    output = LocalOutput(out / "tartanair")
    return prepare("tartanair", raw=str(raw), settings=settings, selection=selection, output=output)


def surveyed(raw: Path, out: Path, *, selection: Selection = ALL) -> consume.Consumption:
    return consume.survey(prepared(raw, out, selection=selection), LocalOutput(out / "tartanair"))


class Said(list[str]):
    """What a run told."""


def run(
    raw: Path, out: Path, *, selection: Selection = ALL, workers: int = 1, progress: Progress | None = None
) -> tuple[DatasetRecord, Said]:
    said = Said()
    output = LocalOutput(out / "tartanair")
    ready = prepared(raw, out, selection=selection)
    consumer = consume.Consumer(consume.survey(ready, output), said.append)
    record = verified.convert_and_consume(
        ready.plan, consumer, output=output, executor=LocalExecutor(workers), progress=progress or Progress()
    )
    said.append(consumer.summary())
    return record, said


def plain(raw: Path, out: Path, *, selection: Selection = ALL) -> dict[str, bytes]:
    ready = prepared(raw, out, selection=selection)
    convert(ready.plan, output=LocalOutput(out / "tartanair"), executor=LocalExecutor(1), progress=Progress())
    return tree_bytes(out)


def same(out: Path, clean: dict[str, bytes]) -> None:
    found = tree_bytes(out)
    assert f"tartanair/{PLAN_FILE}" in found
    assert {name: data for name, data in found.items() if name != f"tartanair/{PLAN_FILE}"} == clean
    assert verify([out], deep=True, on_frames=lambda count: None).findings == ()


@pytest.mark.parametrize("workers", [1, 2])
def test_folders_go_and_the_shards_are_those_of_a_run_that_keeps_them(workers: int, raw, tmp_path: Path) -> None:
    clean = plain(raw.root, tmp_path / "clean")
    (raw.root / "notes.txt").write_text("mine")
    (raw.root / EASY / "P001" / "flow").mkdir()
    (raw.root / EASY / "P001" / "flow" / "000000_000001_flow.npy").write_bytes(b"flow")
    size = sum(len(data) for name, data in tree_bytes(raw.root).items() if name.endswith(("png", "npy"))) - 4
    _, said = run(raw.root, tmp_path / "out", workers=workers)
    same(tmp_path / "out", clean)
    assert sorted(tree_bytes(raw.root)) == [
        f"{EASY}/P001/flow/000000_000001_flow.npy",
        f"{EASY}/P001/pose_left.txt",  # it may belong to what is left
        "notes.txt",
    ]
    assert len([line for line in said if "deleted, " in line and "its shards were read back" in line]) == 3
    assert f"{size / 1024:.1f} KiB of raw data freed" in said[-1]


def test_archives_go_and_another_kind_stays(raw, tmp_path: Path) -> None:
    clean = plain(raw.root, tmp_path / "clean")
    zips = pack(raw.root, tmp_path / "zips")
    (zips / EASY / "flow_flow.zip").write_bytes(_zip_of_flow())
    run(zips, tmp_path / "out")
    same(tmp_path / "out", clean)
    assert list(tree_bytes(zips)) == [f"{EASY}/flow_flow.zip"]


def _zip_of_flow() -> bytes:
    import io

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(f"{EASY}/P000/flow/000000_000001_flow.npy", b"flow")
    return stream.getvalue()


def test_raw_data_goes_as_soon_as_its_shards_are_whole(raw, tmp_path: Path) -> None:
    left: list[list[str]] = []

    def look(name: str, record: object, earlier: bool) -> None:
        left.append(sorted(path.name for path in (raw.root / EASY).iterdir()))

    run(raw.root, tmp_path / "out", progress=Progress(on_shard=look))
    assert left[0] == ["P000", "P001", "P011"]
    assert left[-1] == ["P011"], "the held-out trajectory comes last by its name"


STAYS = {
    "other frames": "this run does not use all that it holds, for example abandonedfactory/Easy/P002/image_right/a.png",
    "a link in it": "is a symbolic link; left out",
    "not selected": "this run does not use all that it holds, for example",
}


@pytest.mark.parametrize("kind", STAYS)
def test_an_archive_that_holds_more_stays(kind: str, raw, tmp_path: Path) -> None:
    more = {f"{EASY}/P002/image_right/a.png": b"png", f"{EASY}/readme.txt": b"text"} if kind == "other frames" else {}
    zips = pack(raw.root, tmp_path / "zips", more=more)
    if kind == "a link in it":
        with zipfile.ZipFile(zips / EASY / "image_left.zip", "a") as file:
            info = zipfile.ZipInfo(f"{EASY}/P000/link.png")
            info.external_attr = 0o120777 << 16
            file.writestr(info, "elsewhere")
    selection = Selection(select=("*/P00?",)) if kind == "not selected" else ALL
    found = surveyed(zips, tmp_path / "out", selection=selection)
    reasons = dict(found.kept)
    assert STAYS[kind] in reasons[f"{EASY}/image_left.zip"]
    run(zips, tmp_path / "out", selection=selection)
    assert f"{EASY}/image_left.zip" in tree_bytes(zips)
    assert (f"{EASY}/depth_left.zip" in tree_bytes(zips)) == (kind == "not selected")


def test_what_a_rejected_frame_concerns_stays(raw, tmp_path: Path) -> None:
    image = raw.root / EASY / "P000" / "image_left" / "000004_left.png"
    image.write_bytes(image.read_bytes()[:-30])
    (raw.root / EASY / "P011" / "image_left" / "000002_left.png").unlink()
    (raw.root / EASY / "P011" / "depth_left" / "000002_left_depth.npy").unlink()
    before = {name for name in tree_bytes(raw.root) if "P001" not in name}
    found = dict(surveyed(raw.root, tmp_path / "out").kept)
    assert found == {f"{EASY}/P011": f"{EASY}/P011 has no files of frames 2 to 2; clips are cut there"}
    _, said = run(raw.root, tmp_path / "out")
    assert f"{raw.root / EASY / 'P000'}: stays: frames of it were rejected." in said
    assert said[-1].endswith("; 2 archives and folders stay")
    assert set(tree_bytes(raw.root)) == before


def test_links_are_never_followed(raw, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    image = raw.root / EASY / "P000" / "image_left" / "000003_left.png"
    image.rename(elsewhere / "a.png")
    image.symlink_to(elsewhere / "a.png")
    reasons = dict(surveyed(raw.root, tmp_path / "out").kept)
    assert reasons == {f"{EASY}/P000": "a link leads there, or it is no plain file"}
    run(raw.root, tmp_path / "out")
    assert (elsewhere / "a.png").is_file()
    assert image.is_symlink()


def test_a_folder_swapped_for_a_link_meanwhile_is_not_entered(raw, tmp_path: Path) -> None:
    moved = tmp_path / "moved"

    def swap(name: str, record: object, earlier: bool) -> None:
        folder = raw.root / EASY / "P011"
        if not folder.is_symlink():
            folder.rename(moved)
            folder.symlink_to(moved)

    _, said = run(raw.root, tmp_path / "out", progress=Progress(on_shard=swap))
    assert len(tree_bytes(moved)) == 11
    assert any("P011" in line and "stays: it has changed since it was listed" in line for line in said)


def test_a_file_that_has_changed_stays(raw, tmp_path: Path) -> None:
    zips = pack(raw.root, tmp_path / "zips")

    def touch(name: str, record: object, earlier: bool) -> None:
        os.utime(zips / EASY / "depth_left.zip", ns=(1, 1))

    _, said = run(zips, tmp_path / "out", progress=Progress(on_shard=touch))
    assert list(tree_bytes(zips)) == [f"{EASY}/depth_left.zip"]
    assert any("depth_left.zip: stays: it has changed since it was listed" in line for line in said)


def test_of_a_trajectory_with_a_changed_file_nothing_goes(raw, tmp_path: Path) -> None:
    image = raw.root / EASY / "P000" / "image_left" / "000012_left.png"
    whole = {name for name in tree_bytes(raw.root) if "P000" in name}

    def touch(name: str, record: object, earlier: bool) -> None:
        os.utime(image, ns=(1, 1))

    run(raw.root, tmp_path / "out", progress=Progress(on_shard=touch))
    assert set(tree_bytes(raw.root)) == whole


def test_urls_are_refused(raw, tmp_path: Path) -> None:
    ready = prepared(raw.root, tmp_path / "out")
    import dataclasses

    far = dataclasses.replace(ready, plan=dataclasses.replace(ready.plan, raw="https://example.org/raw"))
    with pytest.raises(UsageError, match="--consume: deletes raw data of this machine; https://example.org/raw is a U"):
        consume.survey(far, LocalOutput(tmp_path / "out"))


def sample(dataset: str, out: Path, *, archives: bool) -> Path:
    spec = SampleSpec(trajectories=2, frames=3, width=64, height=36)
    write_sample(dataset, out=out, spec=spec, archives=archives, on_frame=lambda: None)
    return out


def consumed(dataset: str, raw: Path, out: Path) -> Said:
    said = Said()
    output = LocalOutput(out / dataset)
    ready = prepare(dataset, raw=str(raw), settings=SMALL, selection=ALL, output=output)
    consumption = consume.survey(ready, output)
    said += consumption.lines()
    run = {"output": output, "executor": LocalExecutor(1), "progress": Progress()}
    verified.convert_and_consume(ready.plan, consume.Consumer(consumption, said.append), **run)
    return said


def test_what_another_camera_needs_stays(tmp_path: Path) -> None:
    raw = sample("vkitti", tmp_path / "raw", archives=False)
    before = set(tree_bytes(raw))
    consumed("vkitti", raw, tmp_path / "out")
    gone = before - set(tree_bytes(raw))
    assert len(gone) == 2 * 2 * 3
    assert all("/Camera_0/" in name for name in gone)
    tables = {name for name in tree_bytes(raw) if name.endswith(".txt")}
    assert len(tables) == len({name for name in before if name.endswith(".txt")}) > 0


def test_archives_of_two_cameras_and_of_tables_stay(tmp_path: Path) -> None:
    raw = sample("vkitti", tmp_path / "raw", archives=True)
    before = tree_bytes(raw)
    said = consumed("vkitti", raw, tmp_path / "out")
    assert len([line for line in said if "stays: this run does not use all that it holds, for example " in line]) == 2
    assert tree_bytes(raw) == before


@pytest.mark.parametrize("archives", [False, True])
@pytest.mark.parametrize("dataset", ["mvs-synth", "custom"])
def test_other_data_sets_go_whole(dataset: str, archives: bool, tmp_path: Path) -> None:
    raw = sample(dataset, tmp_path / "raw", archives=archives)
    consumed(dataset, raw, tmp_path / "out")
    assert tree_bytes(raw) == {}
    assert verify([tmp_path / "out"], deep=True, on_frames=lambda count: None).findings == ()


def test_a_user_is_asked_or_must_have_said_yes(raw, vdaprep, tmp_path: Path) -> None:
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    before = tree_bytes(raw.root)
    result = vdaprep(*arguments, "--consume")
    assert result.code == 2
    assert f"{raw.root / EASY / 'P000'}: " in result.err
    assert f"of raw data below {raw.root}; say --yes to allow it" in result.err
    assert "--part or --finish" in vdaprep(*arguments, "--consume", "--yes", "--part", "1/2").err
    assert tree_bytes(raw.root) == before
    result = vdaprep(*arguments, "--consume", "--yes")
    assert result.code == 0
    assert "of raw data freed" in result.err
    assert tree_bytes(raw.root) == {}
    again = vdaprep(*arguments)
    assert (again.code, again.err) == (0, "")


@pytest.mark.parametrize("answer", [True, False])
def test_the_answer_counts(answer: bool, raw, vdaprep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(consent, "sys", SimpleNamespace(stdin=terminal, stderr=terminal))
    monkeypatch.setattr(consent.typer, "confirm", lambda text, err: (asked.append(text), answer)[1])
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1, "--consume")
    result = vdaprep(*arguments)
    assert result.code == (0 if answer else 1)
    [question] = asked
    assert question.startswith("Delete ")
    assert question.endswith(" of raw data, each part when its shards were read back?")
    assert (tree_bytes(raw.root) == {}) == answer
    assert ("nothing was done; without --consume raw data stays" in result.err) != answer


# ------------------------------------------------------------------------------------------- interruptions and damage


class StopError(Exception):
    pass


def stop_after(count: int) -> Progress:
    seen: list[str] = []

    def on_shard(name: str, record: object, earlier: bool) -> None:
        seen.append(name)
        if len(seen) == count:
            raise StopError

    return Progress(on_shard=on_shard)


@pytest.mark.parametrize("packed", [False, True])
def test_a_run_goes_on_though_raw_data_is_gone(packed: bool, raw, tmp_path: Path) -> None:
    clean = plain(raw.root, tmp_path / "clean")
    root = pack(raw.root, tmp_path / "zips") if packed else raw.root
    whole = len(tree_bytes(root))
    with pytest.raises(StopError):
        run(root, tmp_path / "out", progress=stop_after(4))
    assert packed or len(tree_bytes(root)) < whole
    with pytest.raises(StopError):
        run(root, tmp_path / "out", progress=stop_after(5))
    # Also without --consume: what is finished is taken over, what is not finds its frames.
    ready = prepared(root, tmp_path / "out")
    assert packed or any(isinstance(clip.trajectory, LostTrajectory) for s in ready.plan.shards for clip in s.clips)
    convert(ready.plan, output=LocalOutput(tmp_path / "out/tartanair"), executor=LocalExecutor(1), progress=Progress())
    same(tmp_path / "out", clean)
    _, said = run(root, tmp_path / "out")
    assert tree_bytes(root) == {}
    assert "freed" in said[-1]
    same(tmp_path / "out", clean)
    # All is done and nothing is left: again, with and without.
    _, said = run(root, tmp_path / "out")
    ready = prepared(root, tmp_path / "out")
    convert(ready.plan, output=LocalOutput(tmp_path / "out/tartanair"), executor=LocalExecutor(1), progress=Progress())
    same(tmp_path / "out", clean)
    shutil.rmtree(root)
    prepared(root, tmp_path / "out")


def test_what_is_left_of_a_deletion_that_was_cut_short_goes_too(raw, tmp_path: Path, monkeypatch) -> None:
    clean = plain(raw.root, tmp_path / "clean")
    deleted: list[str] = []
    real = consume.delete

    def die_midway(root: Path, file: object) -> bool:
        if len(deleted) == 7:
            raise StopError
        deleted.append(str(file))
        return real(root, file)

    monkeypatch.setattr(consume, "delete", die_midway)
    with pytest.raises(StopError):
        run(raw.root, tmp_path / "out")
    monkeypatch.undo()
    assert tree_bytes(raw.root)
    run(raw.root, tmp_path / "out")
    assert tree_bytes(raw.root) == {}
    same(tmp_path / "out", clean)


def test_raw_data_that_is_needed_and_gone_is_a_sentence(raw, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(raw.root, tmp_path / "out", progress=stop_after(4))
    shutil.rmtree(raw.root / EASY / "P011")
    before = tree_bytes(raw.root)
    match = (
        rf"does not hold trajectory {EASY}/P011 as it did when the conversion began, so \d shards cannot be made: val/"
    )
    with pytest.raises(DataError, match=match):
        run(raw.root, tmp_path / "out")
    assert tree_bytes(raw.root) == before
    with pytest.raises(DataError, match=match):
        ready = prepared(raw.root, tmp_path / "out")
        output = LocalOutput(tmp_path / "out/tartanair")
        convert(ready.plan, output=output, executor=LocalExecutor(1), progress=Progress())


def test_other_options_than_those_of_the_saved_plan_are_refused(raw, tmp_path: Path) -> None:
    run(raw.root, tmp_path / "out")
    with pytest.raises(UsageError, match=r"plan.json: was made with clip_frames = 3; this run has clip_frames = 4"):
        prepared(raw.root, tmp_path / "out", settings=Settings(short_side=24, clip_frames=4, frames_per_shard=6))


def test_a_shard_that_does_not_read_back_keeps_its_raw_data(raw, tmp_path: Path) -> None:
    plain(raw.root, tmp_path / "out")
    tar = tmp_path / "out" / "tartanair" / "train" / "shard-0002.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    before = tree_bytes(raw.root)
    with pytest.raises(ShardError, match=r"shard-0002.tar: .* Found when it was read back; vdaprep repair makes it"):
        run(raw.root, tmp_path / "out")
    assert tree_bytes(raw.root) == before


def test_a_damaged_plan_is_noticed(raw, tmp_path: Path) -> None:
    run(raw.root, tmp_path / "out")
    path = tmp_path / "out" / "tartanair" / PLAN_FILE
    value = json.loads(path.read_bytes())
    value["shards"][0]["clips"][0][2] += 1
    path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))
    [finding] = verify([tmp_path / "out"], deep=True, on_frames=lambda count: None).findings
    assert str(finding) == f"{path}: differs from the checksum that it holds; it was changed or damaged."
    with pytest.raises(ShardError, match=r"plan.json: differs from the checksum that it holds"):
        prepared(raw.root, tmp_path / "out")
