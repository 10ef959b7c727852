"""Rows belong to frames by position only where their count proves it: tables as people's copies have them."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run, decode_shards, write_raw
from vdaprep.errors import FrameError
from vdaprep.raw.tree import Location
from vdaprep.sources._rows import frame_rows, read_rows

HERE = Location("", "poses.txt")
ROWS = [f"{number} {number}.5" for number in range(5)]
PLAIN = "\n".join(ROWS)
BY_NUMBER = [0.0, 1.0, 2.0, 3.0, 4.0]

GOOD: dict[str, tuple[bytes, tuple[int, ...], list[float]]] = {
    "as it should be": (PLAIN.encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a comment first": (f"# tx ty\n{PLAIN}".encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a comment between": (PLAIN.replace("\n", "\n  # cut here\n", 1).encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a comment behind a row": (PLAIN.replace("2.5", "2.5 # slow").encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a header of words": (f"tx ty\n{PLAIN}".encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a header of words and commas": (f"t_x, q1[rad]\n{PLAIN}".encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "an empty line first": (f"\n{PLAIN}".encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "empty lines between": (PLAIN.replace("\n", "\n\n").encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "spaces on lines": (PLAIN.replace("\n", " \t\n   \n\t").encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "empty lines last": (f"{PLAIN}\n\n \n".encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "lines of Windows": (PLAIN.replace("\n", "\r\n").encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "lines of Windows, twice": (PLAIN.replace("\n", "\r\r\n").encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "lines of an old Mac": (PLAIN.replace("\n", "\r").encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a form feed on a line": (PLAIN.replace("\n", "\n\f\n", 1).encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a form feed between numbers": (PLAIN.replace("2 2.5", "2\f2.5").encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a vertical tab between numbers": (PLAIN.replace("2 2.5", "2\v2.5").encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a byte order mark": (b"\xef\xbb\xbf" + PLAIN.encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a byte order mark and a comment": (b"\xef\xbb\xbf#\r\n" + PLAIN.encode(), (0, 1, 2, 3, 4), BY_NUMBER),
    "a part of the frames, all rows": (PLAIN.encode(), (0, 2, 4), [0.0, 2.0, 4.0]),
    "a part of the frames, their rows": ("\n".join(ROWS[:3]).encode(), (0, 2, 4), [0.0, 1.0, 2.0]),
    "frames from 1": (PLAIN.encode(), (1, 2, 3, 4, 5), BY_NUMBER),
    "the last frames, all rows": (PLAIN.encode(), (3, 4), [3.0, 4.0]),
    "the last frames, their rows": ("\n".join(ROWS[:2]).encode(), (3, 4), [0.0, 1.0]),
    "the first frames of a long trajectory": ("\n".join(f"{i} 0" for i in range(90)).encode(), (0, 1, 2), [0, 1, 2]),
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_go_to_the_frames_they_are_of(name: str) -> None:
    data, ids, first_column = GOOD[name]
    rows, _ = frame_rows(data, HERE, columns=2, frame_ids=ids)
    assert rows[:, 0].tolist() == first_column


BAD: dict[str, tuple[bytes, tuple[int, ...], str]] = {
    "a row too many": (f"{PLAIN}\n5 5".encode(), (0, 1, 2, 3, 4), "has 6 rows, .* expected 5, one for each"),
    "a row too few": ("\n".join(ROWS[:4]).encode(), (0, 1, 2, 3, 4), "has 4 rows, .* expected 5, one for each"),
    "a header of numbers": (f"7 2\n{PLAIN}".encode(), (0, 1, 2, 3, 4), "has 6 rows"),
    "two headers": (f"x y\nm m\n{PLAIN}".encode(), (0, 1, 2, 3, 4), "has 6 rows"),
    "neither count": ("\n".join(ROWS[:4]).encode(), (0, 2, 4), r"has 4 rows, .* 5 \(the highest .* or 3 \(the frames"),
    "more than the frames from 1": (f"{PLAIN}\n6 6\n7 7".encode(), (1, 2, 3, 4, 5), "has 7 rows"),
    "a long table, later frames": ("\n".join(f"{i} 0" for i in range(90)).encode(), (7, 8), "has 90 rows"),
    "a row in two lines": (PLAIN.replace("2 2.5", "2\n2.5").encode(), (0, 1, 2, 3, 4), "has 6 rows"),
    "two rows in a line": (PLAIN.replace("2.5\n", "2.5 ").encode(), (0, 1, 2, 3, 4), "has 4 rows"),
    "decimal commas, a row too many": (PLAIN.replace(".", ",").encode(), (0, 1, 2, 3), "has 5 rows"),
    "commas between, a row too many": (PLAIN.replace(" ", ",").encode(), (0, 1, 2, 3), "has 5 rows"),
    "in brackets, a row too many": (b"[0, 1]\n[1, 2]\n[2, 3]", (0, 1), "has 3 rows"),
    "nothing known of the first": (b"nan, nan\n1 2\n2 3", (0, 1), "has 3 rows"),
    "nothing": (b"", (0, 1), "has 0 rows"),
    "comments alone": (b"# a\n# b\n", (0, 1), "has 0 rows"),
    "bytes of zero behind it": (PLAIN.encode() + b"\0" * 512, (0, 1, 2, 3, 4), "holds bytes of zero"),
    "UTF-16": (PLAIN.encode("utf-16"), (0, 1, 2, 3, 4), "is UTF-16, expected text in UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\xff", (0, 1, 2, 3, 4), "is not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_prove_nothing_are_refused(name: str) -> None:
    data, ids, sentence = BAD[name]
    with pytest.raises(FrameError, match=sentence):
        frame_rows(data, HERE, columns=2, frame_ids=ids)


@pytest.mark.parametrize("row", ["2", "2 2 2", "2 nan", "inf 2", "2 -inf", "2 x", "1e999 2", "1_0 2", "2,5 2", "0x2 2"])
def test_a_row_that_is_no_numbers_is_named_by_its_line(row: str) -> None:
    data = f"# first\n{PLAIN}".replace("2 2.5", row).encode()
    rows, lines = frame_rows(data, HERE, columns=2, frame_ids=(0, 1, 2, 3, 4))
    assert lines == [2, 3, 4, 5, 6]
    assert np.isnan(rows[2]).all()
    assert rows[[0, 1, 3, 4], 0].tolist() == [0, 1, 3, 4]


def test_one_row_stands_for_all_frames_where_that_is_meant() -> None:
    rows, lines = frame_rows(b"\n1 2\n", HERE, columns=2, frame_ids=(0, 5, 9), alike=True)
    assert (rows.tolist(), lines) == ([[1, 2]] * 3, [2, 2, 2])
    assert [row.line for row in read_rows(b"\n\n1 2\n", HERE)] == [3]


# --------------------------------------------------------------------------------------------- through the command line

POSES = "abandonedfactory/Easy/P000/pose_left.txt"
COPIES = {
    "comments and blanks": lambda text: "# tx ty tz\n\n" + text.replace("\n", "\n\n"),
    "a mark and a header": lambda text: "\ufefftx ty tz qx qy qz qw\n" + text,
    "lines of Windows, twice": lambda text: text.replace("\n", "\r\r\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_table_gives_the_same_poses(name: str, vdaprep: Run, tmp_path: Path) -> None:
    poses = {}
    for which in ("plain", "copy"):
        raw = write_raw(tmp_path / which, lengths={"abandonedfactory/Easy/P000": 4}).root
        if which == "copy":
            file = raw / POSES
            file.write_bytes(COPIES[name](file.read_text()).encode())
        assert vdaprep("convert", "tartanair", "--raw", raw, "--out", tmp_path / f"{which}-out").code == 0
        [(_, meta, _)] = decode_shards(*(tmp_path / f"{which}-out").rglob("*.tar"))
        poses[which] = meta.camera_to_world
    assert poses["plain"] == poses["copy"]


def test_a_table_of_other_length_refuses_its_trajectory_in_one_sentence(vdaprep: Run, tmp_path: Path) -> None:
    lengths = {"abandonedfactory/Easy/P000": 4, "abandonedfactory/Easy/P001": 4}
    raw = write_raw(tmp_path / "raw", lengths=lengths).root
    (raw / POSES).write_text((raw / POSES).read_text() + "0 0 0 0 0 0 1\n")
    found = vdaprep("convert", "tartanair", "--raw", raw, "--out", tmp_path / "out", "--strict")
    assert found.code == 1
    said = re.findall(r"rejected: .*P000.*", found.err)
    assert len(said) == 1, found.err
    assert "has 5 rows, and nothing tells which frame each is of" in said[0]
    [(_, meta, _)] = decode_shards(*(tmp_path / "out").rglob("*.tar"))
    assert meta.trajectory == "abandonedfactory/Easy/P001"
