"""Trees as people have them: archives with the same paths inside, links, odd names, places that tell what they hold."""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.unit.prep.test_archive_cases import zip_bytes
from tests.unit.prep.test_archive_tars import tar_bytes
from vdaprep.conversion.options import Selection
from vdaprep.conversion.plan import find_raw
from vdaprep.errors import DataError
from vdaprep.raw.archives import parts
from vdaprep.raw.files import Files, Location, Numbered
from vdaprep.raw.frames import Frames, SourceOptions
from vdaprep.raw.tree import Reader, open_tree

Contents = dict[str, bytes]


def scene(letter: str, *, kind: str = "rgb/{}.png", count: int = 3, table: str = "") -> Contents:
    """Return the files of a scene: their content is a letter and their number."""
    files = {kind.format(i): f"{letter}{i}".encode() for i in range(count)}
    return files | ({"intrinsics.txt": table.encode()} if table else {})


def below(folder: str, files: Contents) -> Contents:
    return {f"{folder}/{name}": data for name, data in files.items()}


ONE, TWO, DEPTH_K, DEPTH_O = (
    scene("k"),
    scene("o"),
    scene("d", kind="depth/{}.npy"),
    scene("e", kind="depth/{}.npy"),
)
MANY = scene("m", count=9)
SCENES = below("kitchen", ONE) | below("office", TWO)

MERGED: dict[str, tuple[dict[str, Contents | bytes], Contents, str]] = {
    "one zip a scene": ({"kitchen.zip": ONE, "office.zip": TWO}, SCENES, ""),
    "listed the other way": ({"z.zip": ONE, "b.zip": TWO}, below("b", TWO) | below("z", ONE), ""),
    "one tar a scene": ({"kitchen.tar": ONE, "office.tar": TWO}, SCENES, ""),
    "a zip and a tar": ({"kitchen.zip": ONE, "office.tar": TWO}, SCENES, ""),
    "one folder a scene": ({"kitchen/data.zip": ONE, "office/data.zip": TWO}, SCENES, ""),
    "two zips a folder": (
        {"k/rgb.zip": ONE, "k/depth.zip": DEPTH_K, "o/rgb.zip": TWO, "o/depth.zip": DEPTH_O},
        below("k", ONE | DEPTH_K) | below("o", TWO | DEPTH_O), "",
    ),
    "one of two has depth": (
        {"k/rgb.zip": ONE, "k/depth.zip": DEPTH_K, "o/rgb.zip": TWO}, below("k", ONE | DEPTH_K) | below("o", TWO), "",
    ),
    "in folders and beside each other": (
        {"x/kitchen.zip": ONE, "x/office.zip": TWO}, below("x/kitchen", ONE) | below("x/office", TWO), "",
    ),
    "equal sizes, other bytes": (
        {"a.tar": {"rgb/0.png": b"1"}, "b.tar": {"rgb/0.png": b"2"}}, {"a/rgb/0.png": b"1", "b/rgb/0.png": b"2"}, "",
    ),
    "cameras of their own": (
        {"kitchen.zip": scene("k", table="1"), "office.zip": scene("o", table="2")},
        below("kitchen", scene("k", table="1")) | below("office", scene("o", table="2")), "",
    ),
    "only the cameras differ": (
        {"a.zip": ONE | {"intrinsics.txt": b"1"}, "b.zip": DEPTH_O | {"intrinsics.txt": b"2"}},
        below("a", ONE | {"intrinsics.txt": b"1"}) | below("b", DEPTH_O | {"intrinsics.txt": b"2"}),
        "b.zip: intrinsics.txt is another file than that of this path in a.zip; both are kept, apart",
    ),
    "images and depth": ({"rgb.zip": ONE, "depth.zip": DEPTH_K}, ONE | DEPTH_K, ""),
    "the same camera in both": (
        {"rgb.zip": scene("k", table="1"), "depth.zip": DEPTH_K | {"intrinsics.txt": b"1"}},
        scene("k", table="1") | DEPTH_K, "",
    ),
    "a README in both": (
        {"rgb.zip": ONE | {"README.md": b"1"}, "depth.zip": DEPTH_K | {"README.md": b"2"}},
        ONE | DEPTH_K | {"README.md": b"2"}, "",
    ),
    "a copy": ({"a.zip": ONE, "b.zip": ONE}, ONE, "b.zip repeats 3 files of a.zip; the first is used"),
    "a copy as a tar": ({"a.zip": ONE, "b.tar": ONE}, ONE, "b.tar repeats 3 files of a.zip; the first is used"),
    "a copy of one of two": (
        {"kitchen.zip": ONE, "office.zip": TWO, "older.zip": TWO}, SCENES,
        "older.zip repeats 3 files of office.zip; the first is used",
    ),
    "a damaged copy": (
        {"a.zip": MANY, "b.zip": MANY | {"rgb/4.png": b"bad"}},
        below("a", MANY) | below("b", MANY | {"rgb/4.png": b"bad"}),
        "b.zip differs from the files of a.zip in 1 of 9 that both hold; both are kept, apart",
    ),
    "unpacked beside": (
        {"a.zip": ONE, "rgb/0.png": b"k0", "rgb/1.png": b"k1", "rgb/2.png": b"k2"}, ONE,
        "a.zip repeats 3 files that lie beside it; those are used",
    ),
    "another scene beside": ({"a.zip": ONE, "rgb/0.png": b"other"}, below("a", ONE) | {"rgb/0.png": b"other"}, ""),
    "letter case": (
        {"a.zip": {"Rgb/0.png": b"1"}, "b.zip": {"rgb/0.png": b"2"}}, {"Rgb/0.png": b"1", "rgb/0.png": b"2"}, "",
    ),
    "accents": (
        {"a.zip": {"caf\u00e9/0.png": b"1"}, "b.zip": {"cafe\u0301/0.png": b"2"}},
        {"a/caf\u00e9/0.png": b"1", "b/caf\u00e9/0.png": b"2"}, "",
    ),
}  # fmt: skip


def lay_out(root: Path, places: dict[str, Contents | bytes]) -> None:
    for place, held in places.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        pack = tar_bytes if path.suffix == ".tar" else zip_bytes
        path.write_bytes(held if isinstance(held, bytes) else pack(held))


@pytest.mark.parametrize("case", MERGED)
def test_archives_with_the_same_paths_inside(case: str, tmp_path: Path) -> None:
    places, files, sentence = MERGED[case]
    lay_out(tmp_path, places)
    tree = open_tree(tmp_path)
    with Reader(tree.root) as reader:
        assert {path: reader.read(location) for path, location in tree.files.items()} == files
        assert {path: reader.read(tree.files[path]) for path in files} == files
    assert "; ".join(f"{item.file} {item.reason}" for item in tree.problems) == sentence


def test_one_zip_a_trajectory_is_converted_whole(tmp_path: Path, vdaprep: Run) -> None:
    assert vdaprep("sample", "custom", "--out", tmp_path / "raw", "--trajectories", 2, "--frames", 3).code == 0
    zips = tmp_path / "zips"
    zips.mkdir()
    names: list[str] = []
    for folder in sorted(path.parent for path in (tmp_path / "raw").rglob("rgb")):
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
        names.append("-".join(folder.relative_to(tmp_path / "raw").parts))
        (zips / f"{names[-1]}.zip").write_bytes(zip_bytes(files))
    result = vdaprep("convert", "custom", "--raw", zips, "--out", tmp_path / "out", "--workers", 1, "--strict")
    assert (result.code, result.err) == (0, "")
    found = find_raw("custom", raw=zips, options=SourceOptions())
    assert [item.name for item in found.trajectories] == names
    assert [len(item.frames) for item in found.trajectories] == [3, 3]


# -------------------------------------------------------------------------------------------------------------- links


def _into(folder: Path, outside: Path) -> None:
    (folder / "env").symlink_to(outside)


def _circle(folder: Path, outside: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "0.png").write_bytes(b"")
    for name, target in (("a/up", folder), ("a/self", folder / "a"), ("dot", Path()), ("a/over", outside.parent)):
        (folder / name).symlink_to(target)


def _mutual(folder: Path, _: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (folder / name).mkdir()
        (folder / name / "0.png").write_bytes(b"")
        (folder / name / other).symlink_to(f"../{other}")


def _twice(folder: Path, outside: Path) -> None:
    (folder / "a").symlink_to(outside)
    (folder / "b").symlink_to(outside)


def _real_first(folder: Path, _: Path) -> None:
    (folder / "z").mkdir()
    (folder / "z" / "0.png").write_bytes(b"")
    (folder / "a").symlink_to("z")


def _archive(folder: Path, outside: Path) -> None:
    (folder / "a.zip").symlink_to(outside / "k.zip")


def _archive_twice(folder: Path, _: Path) -> None:
    (folder / "z.zip").write_bytes(zip_bytes({"k/0.png": b""}))
    (folder / "a.zip").symlink_to("z.zip")


def _pool(folder: Path, outside: Path) -> None:
    for number in range(2):
        (folder / f"{number}.png").symlink_to(outside / "0.png")


def _nowhere(folder: Path, _: Path) -> None:
    for name, target in (("0.png", "/nowhere/0.png"), ("env", "/nowhere"), ("loop", "loop"), ("a.zip", "gone.zip")):
        (folder / name).symlink_to(target)


LINKS: dict[str, tuple[Callable[[Path, Path], None], list[str], list[str]]] = {
    "to a folder": (_into, ["env/0.png", "env/k.zip: k/0.png"], []),
    "in circles": (_circle, ["a/0.png", "a/over/outside/0.png", "a/over/outside/k.zip: k/0.png"], []),
    "to each other": (_mutual, ["a/0.png", "b/0.png"], []),
    "twice to a folder": (_twice, ["a/0.png", "a/k.zip: k/0.png"], []),
    "to what is listed": (_real_first, ["z/0.png"], []),
    "to an archive": (_archive, ["a.zip: k/0.png"], []),
    "to an archive that is listed": (_archive_twice, ["z.zip: k/0.png"], []),
    "to files of a pool": (_pool, ["0.png", "1.png"], []),
    "to nowhere": (_nowhere, [], ["0.png", "a.zip", "env", "loop"]),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_are_followed_once(case: str, tmp_path: Path) -> None:
    make, files, named = LINKS[case]
    outside, folder = tmp_path / "other" / "outside", tmp_path / "raw"
    outside.mkdir(parents=True)
    folder.mkdir()
    (outside / "0.png").write_bytes(b"")
    (outside / "k.zip").write_bytes(zip_bytes({"k/0.png": b""}))
    make(folder, outside)
    tree = open_tree(folder)
    assert sorted(map(str, tree.files.values())) == files
    assert sorted(item.file for item in tree.problems) == named
    assert all(item.reason.startswith("is a link that leads nowhere (") for item in tree.problems)


STRANGE: dict[str, tuple[str, str]] = {
    "to the root": ("/", "is a link to /, in which this raw data itself lies; left out: link to the folders that are"),
    "to the folder above": ("..", "in which this raw data itself lies"),
    "to processes": ("/proc", "leads into /proc of the system (/proc); left out"),
    "to one process": ("/proc/self", "leads into /proc of the system (/proc/"),
    "to a file of a process": ("/proc/self/environ", "leads into /proc of the system (/proc/"),
    "to devices": ("/sys/class", "leads into /sys of the system (/sys/class); left out"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_links_to_a_whole_machine_are_named_and_not_followed(case: str, tmp_path: Path) -> None:
    target, reason = STRANGE[case]
    if not Path(target).exists():
        pytest.skip(f"there is no {target} here")
    folder = tmp_path / "raw"
    (folder / "env").mkdir(parents=True)
    (folder / "env" / "0.png").write_bytes(b"")
    (folder / "link").symlink_to(target)
    tree = open_tree(folder)
    assert list(tree.files) == ["env/0.png"]
    [problem] = tree.problems
    assert problem.file == "link"
    assert reason in problem.reason


# ------------------------------------------------------------------------------------------------- no files, no folders


def _bind(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end, contextlib.chdir(place.parent):  # its address is short
        end.bind(place.name)


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "a pipe"),
    "socket": (_bind, "a socket"),
    "link to a device": (lambda place: place.symlink_to("/dev/zero"), "a device"),
}


@pytest.mark.parametrize("name", ["rgb/0.png", "a.zip", "a.tar.gz", "intrinsics.txt"])
@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_neither_file_nor_folder_is_named_and_never_opened(case: str, name: str, tmp_path: Path) -> None:
    make, kind = NO_FILES[case]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    (tmp_path / "1.png").write_bytes(b"")
    tree = open_tree(tmp_path)
    assert list(tree.files) == ["1.png"]
    assert [(item.file, item.reason) for item in tree.problems] == [(name, f"is {kind}, not a file; left out")]


# -------------------------------------------------------------------------------------------------------------- names

NAMES = {
    b"caf\xe9.png": r"caf\xe9.png",
    "cafe\u0301.png".encode(): "caf\u00e9.png",
    b"rgb\\0.png": "rgb/0.png",
    b"a:b.png": "a:b.png",
    b"d\xe9/0.png": r"d\xe9/0.png",
    b"with space, comma.png": "with space, comma.png",
}


@pytest.mark.parametrize("name", NAMES)
def test_files_of_odd_names_are_read(name: bytes, tmp_path: Path) -> None:
    place = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - bytes
    os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
    with open(place, "wb") as file:  # noqa: PTH123
        file.write(b"data")
    tree = open_tree(tmp_path)
    assert list(tree.files) == [NAMES[name]]
    with Reader(tree.root) as reader:
        assert reader.read(tree.files[NAMES[name]]) == b"data"
    str(tree.files[NAMES[name]]).encode()  # it can be shown


def test_a_name_with_control_characters_is_named(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[1m.png").write_bytes(b"")
    [problem] = open_tree(tmp_path).problems
    assert (problem.file, problem.reason) == (r"a\x0a\x1b[1m.png", "has control characters in its name; left out")


UNNAMABLE = {
    b"v\xe9": r"v\xe9/rgb/0.png is of a trajectory whose name is not UTF-8; rename its folder",
    "a\u202egnp".encode(): "is of a trajectory whose name holds the character U+202E, which no name may have; rename",
}


@pytest.mark.parametrize("name", UNNAMABLE)
def test_a_trajectory_whose_name_no_shard_can_hold_is_named(name: bytes, tmp_path: Path) -> None:
    place = os.path.join(os.fsencode(tmp_path), name, b"rgb")  # noqa: PTH118 - bytes
    os.makedirs(place)  # noqa: PTH103
    with open(os.path.join(place, b"0.png"), "wb"):  # noqa: PTH118, PTH123
        pass
    with pytest.raises(DataError) as caught:
        find_raw("custom", raw=tmp_path, options=SourceOptions())
    assert UNNAMABLE[name] in str(caught.value)
    (tmp_path / "good" / "rgb").mkdir(parents=True)
    (tmp_path / "good" / "rgb" / "0.png").write_bytes(b"")
    [problem] = find_raw("custom", raw=tmp_path, options=SourceOptions()).problems
    assert UNNAMABLE[name] in f"{problem.file} {problem.reason}"


def test_an_archive_that_may_not_be_read_is_not_to_be_got_again(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.zip").write_bytes(zip_bytes(ONE))

    def refuse(name: str) -> None:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(parts, "open_ranges", refuse)
    [problem] = open_tree(tmp_path).problems
    assert problem.reason == (
        "cannot be opened as an archive (Permission denied); let this user read it, for example by chmod u+r"
    )


# ------------------------------------------------------------------------------------------------------------- select

SELECTED = {
    ("ocean/Easy/P001",): {"ocean/Easy/image_left.zip", "elsewhere/x.zip"},
    ("ocean/*",): {"ocean/Easy/image_left.zip", "elsewhere/x.zip", "flat/ocean_Hard_image_left.zip"},
    ("*/P000",): {"ocean/Easy/image_left.zip", "elsewhere/x.zip", "forest/Easy/P000.zip", "lies/Easy/image_left.zip",
                  "flat/ocean_Hard_image_left.zip", "new/Data_easy/image_lcam_front.zip"},
    ("new/*/P000",): {"new/Data_easy/image_lcam_front.zip", "elsewhere/x.zip"},
    ("house/*",): {"lies/Easy/image_left.zip", "elsewhere/x.zip"},
}  # fmt: skip


def tartanair(env: str, level: str, number: int, camera: str = "left") -> Contents:
    return {f"{env}/{level}/P{number:03d}/image_{camera}/000000_{camera}.png": b""}


@pytest.mark.parametrize("select", SELECTED)
def test_only_archives_that_may_hold_what_is_selected_are_opened(select: tuple[str, ...], tmp_path: Path) -> None:
    places: dict[str, Contents | bytes] = {
        "ocean/Easy/image_left.zip": tartanair("ocean", "Easy", 0) | tartanair("ocean", "Easy", 1),
        "forest/Easy/P000.zip": tartanair("forest", "Easy", 0),
        "forest/Easy/P001.zip": tartanair("forest", "Easy", 1),
        "flat/ocean_Hard_image_left.zip": tartanair("ocean", "Hard", 0),
        "new/Data_easy/image_lcam_front.zip": tartanair("new", "Data_easy", 0, "lcam_front"),
        "lies/Easy/image_left.zip": tartanair("house", "Easy", 0),
        "elsewhere/x.zip": tartanair("cave", "Easy", 0),
    }
    lay_out(tmp_path, places)
    found = find_raw("tartanair", raw=tmp_path, options=SourceOptions(), selection=Selection(select=select))
    assert set(found.archives) == SELECTED[select] | {"lies/Easy/image_left.zip"}
    assert found.unopened == len(places) - len(found.archives)
    everything = find_raw("tartanair", raw=tmp_path, options=SourceOptions())
    assert set(everything.archives) == {*places}


# -------------------------------------------------------------------------------------------------------------- files


def test_a_mapping_of_files_is_one(tmp_path: Path) -> None:
    files = Files()
    files.add("a.zip", ["x", "y"], ["x", "y"], None)
    files.add("", ["z\udce9"], ["z"], None)
    assert (len(files), list(files), [str(item) for item in files.values()]) == (
        3, ["x", "y", "z"], ["a.zip: x", "a.zip: y", r"z\xe9"],
    )  # fmt: skip
    assert "y" in files
    assert "w" not in files
    files.drop(files["x"].row)
    assert list(files.items()) == [("y", Location("a.zip", "y")), ("z", Location("", "z\udce9"))]
    numbered = Numbered(files)
    for number, location in ((7, files["z"]), (3, files["y"]), (5, Location("", "other"))):
        numbered[number] = location
    assert dict(numbered) == {3: files["y"], 5: Location("", "other"), 7: files["z"]}
    del numbered[5]
    frames = Frames(numbered, {3: Location("", "d"), 4: Location("", "e")})
    assert [(item.frame_id, item.rgb is None, item.depth is None) for item in frames] == [
        (3, False, False), (4, True, False), (7, False, True),
    ]  # fmt: skip
