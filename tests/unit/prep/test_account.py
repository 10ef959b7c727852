"""Every file of a raw tree is used, known, or named: extra files, second files, copies as people have them."""

import itertools
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome, Run, write_raw
from tests.unit.prep.consuming import pack
from vdaprep import sources
from vdaprep.conversion.account import EXAMPLES, grouped
from vdaprep.raw.frames import SourceOptions
from vdaprep.raw.tree import Location, Tree
from vdaprep.shards.names import MAX_KEY_LENGTH, clip_key, clip_keys, find_alike
from vdaprep.shards.records import Rejection

NAME = "abandonedfactory/Easy/P000"
IMAGE, DEPTH = f"{NAME}/image_left", f"{NAME}/depth_left"


def done(outcome: Outcome) -> dict[str, Any]:
    """The summary of a conversion with --json."""
    [found] = (event for event in map(json.loads, outcome.out.splitlines()) if event["event"] == "done")
    return found


# --------------------------------------------------------------------------------------------- what lies beside frames

NOT_NEEDED = [
    f"{NAME}/flow/000000_000001_flow.npy",
    f"{NAME}/seg_left/000000_left_seg.npy",
    f"{NAME}/image_right/000000_right.png",
    f"{NAME}/depth_right/000000_right_depth.npy",
    f"{NAME}/pose_right.txt",
    ".DS_Store",
    f"{IMAGE}/.DS_Store",
    f"{IMAGE}/Thumbs.db",
    f"{IMAGE}/._000000_left.png",
    f"__MACOSX/{IMAGE}/._000000_left.png",
    "README.md",
    "LICENSE",
    "abandonedfactory/desktop.ini",
    "md5sum.txt",
    "@eaDir/abandonedfactory/index",
]
UNKNOWN = [
    f"{IMAGE}/frame_0001.png",
    f"{IMAGE}/000004.png",
    f"{IMAGE}/000004_left.jpg",
    f"{IMAGE}/000004_left.png.part",
    f"{IMAGE}/000004_left (1).png",
    f"{IMAGE}/1234567890_left.png",
    f"{DEPTH}/000004_left.npy",
    f"{DEPTH}/000004_left_depth.png",
    f"{NAME}/pose.txt",
    f"{NAME}/Image_left/000004_left.png",
    "abandonedfactory/easy/P000/image_left/000004_left.png",
    "abandonedfactory/Easy/P00/image_left/000004_left.png",
    "notes.docx",
    "video.mp4",
]


@pytest.mark.parametrize("where", ["loose", "zip"])
@pytest.mark.parametrize("path", [*NOT_NEEDED, *UNKNOWN])
def test_a_file_beside_the_frames_is_known_or_named(path: str, where: str, vdaprep: Run, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={NAME: 2}).root
    if where == "loose":
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_bytes(b"x" * 10)
    else:
        with zipfile.ZipFile(raw / "more.zip", "w") as file:
            file.writestr(path, b"x" * 10)
    found = vdaprep(
        "convert", "tartanair", "--raw", raw, "--out", tmp_path / "out", "--workers", "1", "--strict", "--json"
    )
    account = done(found)["account"]
    assert isinstance(account, dict)
    unknown = path in UNKNOWN
    assert (account["found"], account["used"], account["left_out"], account["repeated"]) == (6, 5, 0, 0)
    assert (account["not_needed"], account["not_recognised"]) == ((0, 1) if unknown else (1, 0))
    assert account["not_recognised_bytes"] == (10 if unknown else 0)
    assert found.code == (1 if unknown else 0), found.err
    if unknown:
        shown = path if where == "loose" else f"more.zip: {path}"
        assert account["examples"] == [shown]
        assert f"1 of 6 files (10 B) are none of the data set's, for example {shown}, and --strict" in found.err


def test_plan_and_convert_end_with_the_account(vdaprep: Run, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={NAME: 4, "abandonedfactory/Easy/P001": 3}).root
    (raw / DEPTH / "000003_left_depth.npy").unlink()
    for number in range(5):
        (raw / IMAGE / f"img{number}.png").write_bytes(b"")
    chosen = ["tartanair", "--raw", raw, "--out", tmp_path / "out", "--select", NAME]
    lines = [
        "20 files found: 8 used, 7 of trajectories that are not converted, 5 not recognised",
        "of 4 frames 1 have no depth map",
        f"5 of 20 files are none of the data set's, for example {', '.join(f'{IMAGE}/img{i}.png' for i in range(3))}",
    ]
    assert "\n".join(lines) in vdaprep("plan", *chosen).out
    assert "\n".join(lines) in vdaprep("convert", *chosen).out
    planned = json.loads(vdaprep("plan", *chosen, "--json").out)
    assert planned["account"]["not_recognised"] == 5
    assert len(planned["account"]["examples"]) == EXAMPLES


# ------------------------------------------------------------------------------------------------ one slot, one file

LOCATIONS: dict[str, tuple[str, list[str], dict[int, tuple[str | None, str | None]], str]] = {
    "fewer zeros": (
        "custom",
        ["a/rgb/000.png", "a/rgb/001.png", "a/rgb/0.png", "a/depth/000.npy", "a/depth/001.npy"],
        {0: ("a/rgb/000.png", "a/depth/000.npy"), 1: ("a/rgb/001.png", "a/depth/001.npy")},
        "a/rgb/0.png is a second rgb file of a frame of a; for frame 0 a/rgb/000.png is used",
    ),
    "a jpg beside a png": (
        "custom",
        ["a/rgb/0.png", "a/rgb/1.png", "a/rgb/1.jpg", "a/depth/0.npy", "a/depth/1.npy"],
        {0: ("a/rgb/0.png", "a/depth/0.npy"), 1: ("a/rgb/1.png", "a/depth/1.npy")},
        "a/rgb/1.jpg is a second rgb file of a frame of a; for frame 1 a/rgb/1.png is used",
    ),
    "all frames twice": (
        "custom",
        ["a/rgb/0.png", "a/rgb/1.png", "a/rgb/0.jpg", "a/rgb/1.jpg", "a/depth/0.npy", "a/depth/1.npy"],
        {0: ("a/rgb/0.jpg", "a/depth/0.npy"), 1: ("a/rgb/1.jpg", "a/depth/1.npy")},
        "a/rgb/0.png is a second rgb file of a frame of a, and 1 more like it; for frame 0 a/rgb/0.jpg is used",
    ),
    "endings in capitals": (
        "custom",
        ["a/rgb/0.png", "a/rgb/1.png", "a/rgb/1.PNG", "a/depth/0.npy", "a/depth/1.npy"],
        {0: ("a/rgb/0.png", "a/depth/0.npy"), 1: ("a/rgb/1.png", "a/depth/1.npy")},
        "a/rgb/1.PNG is a second rgb file",
    ),
    "depth with fewer zeros": (
        "custom",
        ["a/rgb/00.png", "a/rgb/01.png", "a/depth/00.npy", "a/depth/01.npy", "a/depth/1.npy"],
        {0: ("a/rgb/00.png", "a/depth/00.npy"), 1: ("a/rgb/01.png", "a/depth/01.npy")},
        "a/depth/1.npy is a second depth file of a frame of a; for frame 1 a/depth/01.npy is used",
    ),
    "two tables": (
        "custom",
        ["a/rgb/0.png", "a/depth/0.npy", "a/intrinsics.txt", "a/Intrinsics.TXT"],
        {0: ("a/rgb/0.png", "a/depth/0.npy")},
        "a/intrinsics.txt is a second file of its kind for a; a/Intrinsics.TXT is used",
    ),
    "two copies": (
        "tartanair",
        [
            f"{copy}/{place}"
            for copy in ("a", "b")
            for place in (f"{IMAGE}/000000_left.png", f"{IMAGE}/000001_left.png")
        ],
        {0: (f"a/{IMAGE}/000000_left.png", None), 1: (f"a/{IMAGE}/000001_left.png", None)},
        f"b/{IMAGE}/000000_left.png is one of 2 rgb files of another copy of {NAME}; those below a are used",
    ),
    "a copy that has more": (
        "tartanair",
        [f"{copy}/{IMAGE}/{i:06d}_left.png" for copy, count in (("a", 1), ("b", 2)) for i in range(count)],
        {0: (f"b/{IMAGE}/000000_left.png", None), 1: (f"b/{IMAGE}/000001_left.png", None)},
        f"a/{IMAGE}/000000_left.png is one of 1 rgb files of another copy",
    ),
    "halves of frames in two copies": (
        "tartanair",
        [f"a/{IMAGE}/000000_left.png", f"b/{IMAGE}/000001_left.png"],
        {0: (f"a/{IMAGE}/000000_left.png", None)},
        f"b/{IMAGE}/000001_left.png is one of 1 rgb files of another copy",
    ),
    "one copy whole, one of images": (
        "tartanair",
        [f"a/{IMAGE}/000000_left.png", f"b/{IMAGE}/000000_left.png", f"b/{DEPTH}/000000_left_depth.npy"],
        {0: (f"b/{IMAGE}/000000_left.png", f"b/{DEPTH}/000000_left_depth.npy")},
        f"a/{IMAGE}/000000_left.png is one of 1 rgb files of another copy",
    ),
    "another copy at the top": (
        "tartanair",
        [f"{IMAGE}/000000_left.png", f"old/{IMAGE}/000000_left.png"],
        {0: (f"{IMAGE}/000000_left.png", None)},
        f"old/{IMAGE}/000000_left.png is one of 1 rgb files of another copy of {NAME}; those at the top are used",
    ),
    "Virtual KITTI, two endings": (
        "vkitti",
        [f"Scene01/clone/frames/rgb/Camera_0/rgb_{end}" for end in ("00000.jpg", "00001.jpg", "00001.jpeg")],
        {i: (f"Scene01/clone/frames/rgb/Camera_0/rgb_0000{i}.jpg", None) for i in range(2)},
        "rgb_00001.jpeg is a second rgb file of a frame of Scene01/clone",
    ),
    "MVS-Synth, fewer zeros": (
        "mvs-synth",
        [f"GTAV_540/0000/images/{name}" for name in ("0000.png", "0001.png", "1.png")],
        {i: (f"GTAV_540/0000/images/000{i}.png", None) for i in range(2)},
        "GTAV_540/0000/images/1.png is a second rgb file of a frame of ",
    ),
}


@pytest.mark.parametrize("name", LOCATIONS)
def test_two_files_for_one_slot_are_a_finding_in_any_order(name: str) -> None:
    dataset, paths, frames, sentence = LOCATIONS[name]
    orders = [*itertools.permutations(paths)][:24] + [random.Random(i).sample(paths, len(paths)) for i in range(24)]
    for order in orders:
        tree = Tree(Path("root"), {path: Location("", path) for path in order}, ())
        found = sources.load(dataset).find_trajectories(tree, SourceOptions())
        [trajectory] = found.trajectories
        there = {
            item.frame_id: tuple(place and str(place) for place in (item.rgb, item.depth)) for item in trajectory.frames
        }
        assert there == frames
        assert any(sentence in f"{item.file} {item.reason}" for item in trajectory.problems), trajectory.problems
        used = sum(place is not None for item in trajectory.frames for place in (item.rgb, item.depth))
        assert used + len(trajectory.shared) + len(trajectory.unused) == len(paths)
        assert found.others == ()


@pytest.mark.parametrize("prefixes", [("", ""), ("image_left/", "depth_left/"), ("a/b/", "c/"), ("left/", "left/")])
def test_each_archive_in_a_folder_of_its_own_is_one_trajectory(prefixes: tuple[str, str]) -> None:
    image, depth = prefixes
    paths = {
        f"{image}{IMAGE}/000000_left.png", f"{depth}{DEPTH}/000000_left_depth.npy",
        f"{image}{NAME}/pose_left.txt", f"{depth}{NAME}/pose_left.txt",
    }  # fmt: skip
    tree = Tree(Path("root"), {path: Location("", path) for path in paths}, ())
    [trajectory] = sources.load("tartanair").find_trajectories(tree, SourceOptions()).trajectories
    assert trajectory.problems == ()
    assert str(trajectory.shared["pose"]) == f"{image}{NAME}/pose_left.txt"
    assert None not in (trajectory.frames[0].rgb, trajectory.frames[0].depth)


COPIES: dict[str, Callable[[Path], object]] = {
    "the folder, again": lambda raw: shutil.copytree(raw / "abandonedfactory", raw / "old/abandonedfactory"),
    "an image, with more zeros": lambda raw: shutil.copy(
        raw / IMAGE / "000000_left.png", raw / IMAGE / "0000000_left.png"
    ),
    "an image, with another ending": lambda raw: shutil.copy(
        raw / IMAGE / "000000_left.png", raw / IMAGE / "000000_left.PNG"
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_second_copy_fails_strict_and_is_not_mixed_in(name: str, vdaprep: Run, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={NAME: 3}).root
    COPIES[name](raw)
    found = vdaprep("convert", "tartanair", "--raw", raw, "--out", tmp_path / "out", "--strict", "--workers", "1")
    assert found.code == 1
    assert "another copy" in found.err or "is a second rgb file" in found.err
    assert "3 frames in 1 clips" in found.out


# ---------------------------------------------------------------------------------------------------------------- keys

KEYS = [
    ("视频", "影片"),
    ("a.b", "a/b"),
    ("a b", "a-b"),
    ("My Video", "my-video"),
    ("A/x", "a/x"),
    ("a-b", "a/b"),
    ("a/b-c", "a-b/c"),
    ("é", "e"),
    ("a--b", "a-b"),
    ("-a", "a"),
    ("a!", "a"),
    ("a+b", "a b"),
    ("a_b", "a-b"),
    ("1.0", "10"),
    ("Straße", "strasse"),
]


@pytest.mark.parametrize("names", KEYS)
def test_names_that_differ_have_keys_that_differ(names: tuple[str, str], vdaprep: Run, tmp_path: Path) -> None:
    alike = find_alike("custom", names)
    keys = {clip_key("custom", name, 0, alike=name in alike) for name in names}
    assert len(keys) == 2
    for name in names:
        assert keys & clip_keys("custom", name, 0)
        shutil.copytree(exported(tmp_path, vdaprep), tmp_path / "raw" / name)
    assert vdaprep("convert", "custom", "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--strict").code == 0
    assert vdaprep("verify", tmp_path / "out", "--deep").code == 0
    assert vdaprep("repair", "custom", "--raw", tmp_path / "raw", "--out", tmp_path / "out").code == 0


def exported(folder: Path, vdaprep: Run) -> Path:
    """A video of two frames, rendered once a test."""
    if not (folder / "sample").exists():
        made = ("--trajectories", "1", "--frames", "2", "--size", "64x48")
        assert vdaprep("sample", "custom", "--out", folder / "sample", *made).code == 0
    [found] = {path.parent.parent for path in (folder / "sample").rglob("rgb/*")}
    return found


@pytest.mark.parametrize(
    "name", ["a", "a/b", "abandonedfactory/Easy/P000", "Scene01/15-deg-left", "0001/clone", "a_b-c"]
)
def test_names_that_lose_nothing_keep_their_keys(name: str) -> None:
    assert clip_key("tartanair", name, 7) == f"tartanair-{name.lower().replace('/', '-')}-000007"


@pytest.mark.parametrize("number", [0, 999_999, 1_000_000, 999_999_999])
def test_keys_are_never_too_long(number: int) -> None:
    assert len(clip_key("custom", "x" * 100, number)) == MAX_KEY_LENGTH
    assert clip_key("custom", "x", number).endswith(f"-{number:06d}")


# ------------------------------------------------------------------------------------------------------ many of a kind


def test_many_rejections_are_few_sentences() -> None:
    many = [Rejection(f"a.zip: x/{i:05d}.png", "cannot be read (bad bytes)") for i in range(20_000)]
    cut = [Rejection(f"b.zip: x/{i:05d}.png", f"is cut short after {i} bytes") for i in range(500)]
    one = [Rejection("c/0.png", "is 3x4 pixels")]
    lines = grouped([*many, *cut, *one])
    assert (
        lines[0]
        == "a.zip: x/00000.png and 19,999 more there (x/00001.png, x/00002.png, ...): cannot be read (bad bytes)"
    )
    assert lines[1:4] == [f"b.zip: x/{i:05d}.png: is cut short after {i} bytes" for i in range(3)]
    assert lines[4:] == ["b.zip: 497 more like these, for example b.zip: x/00003.png", "c/0.png: is 3x4 pixels"]
    assert grouped([]) == []


# ------------------------------------------------------------------------------------------------------------- consume

ACCOUNTED: dict[str, tuple[dict[str, bytes], str, str, str]] = {
    "nothing more": ({}, "", "deleted", "deleted"),
    "flow": ({f"{NAME}/flow/000000_000001_flow.npy": b"x"}, "this run does not use", "kept", "deleted"),
    "frames of another camera": ({f"{NAME}/image_right/0_right.png": b"x"}, "this run does not use", "kept", "deleted"),
    "tables of another camera": ({f"{NAME}/pose_right.txt": b"x"}, "", "deleted", "deleted"),
    "a readme": ({"README.md": b"x"}, "", "deleted", "deleted"),
    "a frame of another form": ({f"{IMAGE}/frame1.png": b"x"}, "nothing recognises", "kept", "kept"),
    "notes": ({"notes.csv": b"x"}, "nothing recognises", "kept", "kept"),
    "a text": ({f"{NAME}/times.txt": b"x"}, "nothing recognises", "kept", "kept"),
    "a json": ({f"{NAME}/camera.json": b"{}"}, "nothing recognises", "kept", "kept"),
    "another video": ({"extra/video.mp4": b"x"}, "nothing recognises", "kept", "kept"),
    "another archive": ({"inner.zip": b"PK"}, "kept: ", "kept", "kept"),
    "an image twice": ({f"{IMAGE}/0000000_left.png": b"x"}, "is a second rgb file", "kept", "kept"),
}


@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("name", ACCOUNTED)
def test_nothing_is_consumed_that_is_not_accounted_for(name: str, unused: bool, vdaprep: Run, tmp_path: Path) -> None:
    more, sentence, *expected = ACCOUNTED[name]
    raw = pack(write_raw(tmp_path / "made", lengths={NAME: 2}).root, tmp_path / "raw", more=more)
    options = ["--consume", "--yes", *(["--consume-unused"] if unused else [])]
    found = vdaprep("convert", "tartanair", "--raw", raw, "--out", tmp_path / "out", "--workers", "1", *options)
    assert found.code == 0, found.err
    there = (raw / "abandonedfactory/Easy/image_left.zip").exists()
    assert ("kept" if there else "deleted") == expected[unused]
    assert sentence in found.err or not there


@pytest.mark.parametrize("tail", [b"\0" * 100_000, b"more", b"PK\3\4"])
def test_an_archive_with_bytes_of_no_member_is_not_consumed(tail: bytes, vdaprep: Run, tmp_path: Path) -> None:
    raw = pack(write_raw(tmp_path / "made", lengths={NAME: 2}).root, tmp_path / "raw")
    archive = raw / "abandonedfactory/Easy/image_left.zip"
    archive.write_bytes(archive.read_bytes() + tail)
    options = ("--consume", "--yes", "--consume-unused")
    assert vdaprep("convert", "tartanair", "--raw", raw, "--out", tmp_path / "out", *options).code == 0
    assert archive.exists()
    assert not (raw / "abandonedfactory/Easy/depth_left.zip").exists()
