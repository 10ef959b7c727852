"""Raw data goes when its shards were read back, and only what a plan used up: archives, folders, links, rejections."""

import os
import zipfile
from pathlib import Path

import pytest

from tests.conftest import tree_bytes
from tests.unit.prep.consuming import ALL, EASY, consumed, on_shard, pack, plain, prepared, run, same, sample, surveyed
from vdaprep.analysis.verify import verify
from vdaprep.conversion import consume
from vdaprep.conversion.options import Selection
from vdaprep.errors import UsageError


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

    def look() -> None:
        left.append(sorted(path.name for path in (raw.root / EASY).iterdir()))

    run(raw.root, tmp_path / "out", on_progress=on_shard(look))
    assert left[0] == ["P000", "P001", "P011"]
    assert left[-1] == ["P011"], "the held-out trajectory comes last by its name"


STAYS = {
    "other frames": "this run does not use abandonedfactory/Easy/P002/image_right/a.png in it; --consume-unused del",
    "a link in it": "is a symbolic link; left out",
    "not selected": "this run does not use 5 files like abandonedfactory/Easy/P011/image_left/000000_left.png in it; ",
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
    assert f"{raw.root / EASY / 'P000'}: kept: frames of it were rejected." in said
    assert said[-1].endswith("; 2 archives and folders are kept")
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

    def swap() -> None:
        folder = raw.root / EASY / "P011"
        if not folder.is_symlink():
            folder.rename(moved)
            folder.symlink_to(moved)

    _, said = run(raw.root, tmp_path / "out", on_progress=on_shard(swap))
    assert len(tree_bytes(moved)) == 11
    assert any("P011" in line and "kept: it has changed since it was listed" in line for line in said)


def test_a_file_that_has_changed_stays(raw, tmp_path: Path) -> None:
    zips = pack(raw.root, tmp_path / "zips")

    def touch() -> None:
        os.utime(zips / EASY / "depth_left.zip", ns=(1, 1))

    _, said = run(zips, tmp_path / "out", on_progress=on_shard(touch))
    assert list(tree_bytes(zips)) == [f"{EASY}/depth_left.zip"]
    assert any("depth_left.zip: kept: it has changed since it was listed" in line for line in said)


def test_of_a_trajectory_with_a_changed_file_nothing_goes(raw, tmp_path: Path) -> None:
    image = raw.root / EASY / "P000" / "image_left" / "000012_left.png"
    whole = {name for name in tree_bytes(raw.root) if "P000" in name}

    def touch() -> None:
        os.utime(image, ns=(1, 1))

    run(raw.root, tmp_path / "out", on_progress=on_shard(touch))
    assert set(tree_bytes(raw.root)) == whole


def test_urls_are_refused(raw, tmp_path: Path) -> None:
    ready = prepared(raw.root, tmp_path / "out")
    import dataclasses

    far = dataclasses.replace(ready, plan=dataclasses.replace(ready.plan, raw="https://example.org/raw"))
    with pytest.raises(UsageError, match="--consume: deletes raw data of this machine; https://example.org/raw is a U"):
        consume.survey(far)


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
    reasons = [line for line in said if "kept: this run does not use 6 files like " in line]
    assert len(reasons) == 2
    assert all("/Camera_1/" in line and line.endswith("; --consume-unused deletes it all the same") for line in reasons)
    assert tree_bytes(raw) == before


@pytest.mark.parametrize("archives", [False, True])
@pytest.mark.parametrize("dataset", ["mvs-synth", "custom"])
def test_other_data_sets_go_whole(dataset: str, archives: bool, tmp_path: Path) -> None:
    raw = sample(dataset, tmp_path / "raw", archives=archives)
    consumed(dataset, raw, tmp_path / "out")
    assert tree_bytes(raw) == {}
    assert verify([tmp_path / "out"], deep=True, on_frames=lambda count: None).findings == ()
