"""What a user is asked and told before raw data goes, and archives that go though not all of them was converted."""

import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import tree_bytes
from tests.unit.prep.consuming import EASY, consumed, on_shard, pack, plain, prepared, run, same, sample
from vdaprep.analysis.verify import verify
from vdaprep.cli.views import output, progress
from vdaprep.conversion import consume
from vdaprep.conversion.options import Selection


def test_what_was_not_selected_goes_if_the_user_says_so(raw, tmp_path: Path) -> None:
    selection = Selection(select=("*/P00?",))
    clean = plain(raw.root, tmp_path / "clean", selection=selection)
    zips = pack(raw.root, tmp_path / "zips")
    whole = set(tree_bytes(zips))
    left: list[set[str]] = []

    def look() -> None:
        left.append(set(tree_bytes(zips)))

    _, said = run(zips, tmp_path / "out", selection=selection, unused=True, on_progress=on_shard(look))
    assert left == [whole] * len(left), "each was needed until the last shard was whole"
    assert tree_bytes(zips) == {}
    assert said[-1].endswith("of raw data freed")
    same(tmp_path / "out", clean)
    _, said = run(zips, tmp_path / "out", selection=selection, unused=True)
    assert said == [f"{zips}: 0 B of raw data freed"]


@pytest.mark.parametrize("kind", ["a link in it", "a link to it", "a rejected frame", "a change"])
def test_what_else_keeps_an_archive_that_holds_more_keeps_it_still(kind: str, raw, tmp_path: Path) -> None:
    if kind == "a rejected frame":
        image = raw.root / EASY / "P000" / "image_left" / "000004_left.png"
        image.write_bytes(image.read_bytes()[:-30])
    zips = pack(raw.root, tmp_path / "zips", more={f"{EASY}/P002/image_right/a.png": b"png"})
    archive = zips / EASY / "image_left.zip"
    if kind == "a link in it":
        with zipfile.ZipFile(archive, "a") as file:
            info = zipfile.ZipInfo(f"{EASY}/P000/link.png")
            info.external_attr = 0o120777 << 16
            file.writestr(info, "elsewhere")
    elif kind == "a link to it":
        archive = archive.rename(tmp_path / "elsewhere.zip")
        (zips / EASY / "image_left.zip").symlink_to(archive)

    def touch() -> None:
        if kind == "a change":
            os.utime(archive, ns=(1, 1))

    before = archive.read_bytes()
    run(zips, tmp_path / "out", unused=True, on_progress=on_shard(touch))
    assert archive.read_bytes() == before
    assert (zips / EASY / "image_left.zip").exists()
    assert (zips / EASY / "depth_left.zip").exists() == (kind == "a rejected frame")


def test_archives_of_two_cameras_go_if_the_user_says_so(tmp_path: Path) -> None:
    raw = sample("vkitti", tmp_path / "raw", archives=True)
    names = set(tree_bytes(raw))
    consumed("vkitti", sample("vkitti", tmp_path / "copy", archives=True), tmp_path / "kept")
    said = consumed("vkitti", raw, tmp_path / "out", unused=True)
    warned = [line for line in said if "and with it frames that are not converted: it also holds 6 files" in line]
    assert [line.split(" in ")[0].rpartition("like ")[2].count("/Camera_1/") for line in warned] == [1, 1]
    gone = names - set(tree_bytes(raw))
    assert len(gone) == 2
    assert all(f"{raw / name}: " in "".join(warned) for name in gone)
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "kept")
    assert verify([tmp_path / "out"], deep=True, on_frames=lambda count: None).findings == ()
    said = consumed("vkitti", raw, tmp_path / "out", unused=True)  # its tables are there yet, and no frame
    assert said == []


def test_a_user_is_asked_or_must_have_said_yes(raw, vdaprep, tmp_path: Path) -> None:
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1)
    before = tree_bytes(raw.root)
    result = vdaprep(*arguments, "--consume")
    assert result.code == 2
    assert f"{raw.root / EASY / 'P000'}: " in result.err
    assert f"of raw data below {raw.root}; say --yes to allow it" in result.err
    assert "leave --part and --finish out" in vdaprep(*arguments, "--consume", "--yes", "--part", "1/2").err
    assert tree_bytes(raw.root) == before
    result = vdaprep(*arguments, "--consume", "--yes")
    assert result.code == 0
    assert "of raw data freed" in result.err
    assert tree_bytes(raw.root) == {}
    again = vdaprep(*arguments, "--no-check")  # poses are made up
    assert (again.code, again.err) == (0, "")


@pytest.mark.slow
def test_a_user_is_told_what_goes_that_was_not_converted(raw, vdaprep, tmp_path: Path) -> None:
    zips = pack(raw.root, tmp_path / "zips")
    convert = ("convert", "tartanair", "--raw", zips, "--out", tmp_path / "out", "--workers", 1, "--select", "*/P00?")
    alone = vdaprep(*convert, "--consume-unused", "--yes")
    assert (alone.code, alone.err) == (2, "vdaprep: --consume-unused: needs --consume, too.\n")
    asked = vdaprep(*convert, "--consume", "--consume-unused")
    assert asked.code == 2
    for kind in ("image", "depth"):
        assert f"{zips / EASY / kind}_left.zip: " in asked.err
    assert asked.err.count("and with it frames that are not converted: it also holds 5 files like ") == 2
    assert " of raw data (some of it not converted) below " in asked.err
    kept = vdaprep(*convert, "--consume", "--yes")
    assert kept.code == 0
    assert kept.err.count("kept: this run does not use 5 files like ") == 2
    assert len(tree_bytes(zips)) == 2
    result = vdaprep(*convert, "--consume", "--consume-unused", "--yes")
    assert result.code == 0
    assert tree_bytes(zips) == {}


def test_a_long_list_is_cut_but_not_what_was_not_converted(
    raw, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = prepared(raw.root, tmp_path / "out").plan
    items = [consume.RawItem(f"{kind}{i}", frozenset(), (), unused=kind) for kind in ("", "more") for i in range(99)]
    consumption = consume.Consumption(tmp_path, plan, tuple(items), tuple((f"kept{i}", "a link") for i in range(99)))
    progress.confirm_deletion(consumption, yes=True)
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.count(": will be deleted, 0 B ") == 40
    assert said.count("it also holds more") == 99
    assert said.count("kept: a link") == 40
    assert said.count("and 59 more to delete") == said.count("and 59 more kept") == 1


@pytest.mark.parametrize("answer", [True, False])
def test_the_answer_counts(answer: bool, raw, vdaprep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stdin=terminal, stderr=terminal, stdout=sys.stdout))
    monkeypatch.setattr(output, "confirm", lambda text: (asked.append(text), answer)[1])
    arguments = ("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "out", "--workers", 1, "--consume")
    result = vdaprep(*arguments)
    assert result.code == (0 if answer else 1)
    [question] = asked
    assert question.startswith("Delete ")
    assert question.endswith(" of raw data, each part when its shards were read back?")
    assert (tree_bytes(raw.root) == {}) == answer
    assert ("nothing was done; without --consume raw data is kept" in result.err) != answer
