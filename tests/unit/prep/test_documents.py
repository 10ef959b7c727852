"""Text from outside: whatever is wrong with a document is one sentence that names it and the field."""

import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vdaprep.errors import VdakitError
from vdaprep.storage.documents import (
    MAX_DEPTH,
    DocumentError,
    Fields,
    name_problem,
    parse_json,
    parse_toml,
    path_problem,
    read_text_lines,
)
from vdaprep.storage.limits import MAX_FRAME_PIXELS, MAX_WINDOW_BYTES, LimitError, check_pixels, check_window


def _deep(levels: int) -> bytes:
    return b'{"a":' + b"[" * levels + b"]" * levels + b"}"


BAD_JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not valid JSON"),
    "cut": (b'{"a": 1', "is not valid JSON"),
    "a list": (b"[]", "holds a JSON list"),
    "a text": (b'"a"', 'holds JSON\'s "a", expected a JSON object'),
    "null": (b"null", "holds JSON's null"),
    "nan": (b'{"a": NaN}', "NaN is no number of JSON"),
    "infinity": (b'{"a": [-Infinity]}', "-Infinity is no number of JSON"),
    "a float beyond float64": (b'{"a": {"b": 1e999}}', "holds Infinity, which is no finite number"),
    "an integer beyond float64": (b'{"a": [0, 1' + b"0" * 400 + b"]}", "a whole number of 1329 bits"),
    "an integer of 5000 digits": (b'{"a": 1' + b"0" * 5000 + b"}", "is not valid JSON"),
    "deep": (_deep(40), f"nested deeper than {MAX_DEPTH} levels"),
    "deeper than the interpreter": (_deep(200_000), f"nested deeper than {MAX_DEPTH} levels"),
    "a key twice": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "c is there twice"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is UTF-16, expected text in UTF-8"),
    "latin-1": ('{"a": "é"}'.encode("latin-1"), "is not UTF-8 \\(byte 7\\)"),
    "zeros": (bytes(512), "holds bytes of zero"),
    "a page": (b"<!DOCTYPE html><html></html>", "is a web page, which a server sent instead of the file; get it again"),
    "a message": (b"<?xml version='1.0'?><Error/>", "is a message of a server, not the file"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\nsize 3\n", "is a pointer of git-lfs, not the file"),
    "many lists": (b'{"a": [' + b"[]," * (2**22 + 1) + b"0]}", "holds more than 4194304 lists"),
    "after the end": (b'{"a": 1} {"b": 2}', "is not valid JSON"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_one_sentence(case: str) -> None:
    data, sentence = BAD_JSON[case]
    with pytest.raises(DocumentError, match=f"^the file: .*{sentence}") as found:
        parse_json(data, where="the file")
    assert "\n" not in str(found.value)
    assert str(found.value).isascii()


BAD_TOML: dict[str, tuple[bytes, str]] = {
    "deep lists": (b"a = " + b"[" * 5000 + b"]" * 5000, "nested deeper"),
    "deep tables": (b"[" + b".".join([b"a"] * 500) + b"]\n", "nested deeper"),
    "deep keys": (b".".join([b"a"] * 500) + b" = 1\n", "nested deeper"),
    "nan": (b"a = nan", "which is no finite number"),
    "infinity": (b"a = [1, -inf]", "which is no finite number"),
    "an integer beyond float64": (b"a = 1" + b"0" * 400, "a whole number of 1329 bits"),
    "twice": (b"a = 1\na = 2\n", "is not valid TOML"),
    "JSON": (b'{"a": 1}', "is not valid TOML"),
    "not UTF-8": (b"a = '\xff'", "is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_TOML)
def test_bad_toml_is_one_sentence(case: str) -> None:
    data, sentence = BAD_TOML[case]
    with pytest.raises(DocumentError, match=f"^the file: .*{sentence}"):
        parse_toml(data, where="the file")


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', where="x").integer("a", 0, 1) == 1
    assert parse_toml(b"\xef\xbb\xbfa = 1", where="x").integer("a", 0, 1) == 1
    assert read_text_lines(b"\xef\xbb\xbf1 2\r\r\n3\x0c4\r\n\n5", where="x") == ["1 2", "3\x0c4", "", "5"]
    assert read_text_lines(b"", where="x") == []


def test_a_document_has_a_budget() -> None:
    for parse in (parse_json, parse_toml, read_text_lines):
        with pytest.raises(LimitError, match="^the file: has more than 10 bytes"):
            parse(b" " * 11, where="the file", limit=10)


_DOCUMENT = {
    "text": "a\x00b", "name": "kitchen", "up": "..", "trajectory": "a/b", "escape": "a/../../b", "int": 3, "flag": True,
    "float": 0.5, "ints": [1, 2], "mixed": [1, "2"], "rows": [[1, 2.5], [3, 4]], "ragged": [[1], [2, 3]],
    "texts": [["1"], ["2"]], "flags": [True, False], "object": {"inner": {"x": 1}}, "objects": [{"x": 1}, {"x": "y"}],
    "null": None, "huge": 10**300, "hash": "ab" * 32, "empty": [], "secret": "\ud800",
}  # fmt: skip

RIGHT: dict[str, tuple[Callable[[Fields], Any], Any]] = {
    "text": (lambda f: f.text("text"), "a\x00b"),
    "name": (lambda f: f.name("name"), "kitchen"),
    "trajectory": (lambda f: f.path_name("trajectory"), "a/b"),
    "integer": (lambda f: f.integer("int", 0, 3), 3),
    "number": (lambda f: f.number("int"), 3.0),
    "a large number": (lambda f: f.number("huge"), 1e300),
    "numbers": (lambda f: f.numbers("rows", (None, 2)).tolist(), [[1, 2.5], [3, 4]]),
    "no numbers": (lambda f: f.numbers("empty", (None, 2)).shape, (0, 2)),
    "integers": (lambda f: f.integers("ints", 1, 2, at_most=2), (1, 2)),
    "booleans": (lambda f: f.booleans("flags", at_most=2), (True, False)),
    "within": (lambda f: f.mapping("object").mapping("inner").integer("x", 0, 1), 1),
    "sha256": (lambda f: f.sha256("hash"), "ab" * 32),
    "choice": (lambda f: f.choice("name", ("kitchen", "office")), "kitchen"),
    "optional": (lambda f: (f.optional_text("null"), f.optional_integer("none", 0, 1)), (None, None)),
    "optional and there": (lambda f: f.optional_number("float", 0, 1), 0.5),
}


@pytest.mark.parametrize("case", RIGHT)
def test_fields_of_the_right_type(case: str) -> None:
    read, expected = RIGHT[case]
    assert read(Fields(_DOCUMENT, where="x")) == expected


WRONG: dict[str, tuple[Callable[[Fields], Any], str]] = {
    "missing": (lambda f: f.text("none"), "none is missing, expected text"),
    "a number for text": (lambda f: f.text("int"), "int is 3, expected text"),
    "long text": (lambda f: f.text("text", at_most=2), "text has 3 characters, expected at most 2"),
    "a name with a folder": (lambda f: f.name("trajectory"), 'trajectory is "a/b", expected a name'),
    "a name that leads up": (lambda f: f.name("up"), "leads to another folder"),
    "a path that leads up": (lambda f: f.path_name("escape"), "leads to another folder"),
    "a name with a surrogate": (lambda f: f.name("secret"), "U\\+D800"),
    "truth for an integer": (lambda f: f.integer("flag", 0, 1), "flag is true, expected a whole number"),
    "a float for an integer": (lambda f: f.integer("float", 0, 1), "float is 0.5, expected a whole number"),
    "out of range": (lambda f: f.integer("int", 4, 9), "int is 3, expected 4 to 9"),
    "a huge integer": (lambda f: f.integer("huge", 0, 9), "huge is a whole number of 997 bits, expected 0 to 9"),
    "truth for a number": (lambda f: f.number("flag"), "flag is true, expected a number"),
    "text for numbers": (lambda f: f.numbers("texts", (2, 1)), "texts is a list of 2, expected 2x1 finite numbers"),
    "ragged numbers": (lambda f: f.numbers("ragged", (None, None)), "ragged is a list of 2, expected nxn"),
    "numbers of another shape": (lambda f: f.numbers("rows", (3, 2)), "rows is a list of 2, expected 3x2"),
    "truth for numbers": (lambda f: f.numbers("flags", (2,)), "flags is a list of 2, expected 2 finite"),
    "a number for numbers": (lambda f: f.numbers("int", (2,)), "int is 3, expected 2 finite"),
    "mixed integers": (lambda f: f.integers("mixed", 0, 9, at_most=9), 'mixed holds "?2"?, expected whole'),
    "too many": (lambda f: f.list("ints", at_most=1), "ints has 2 entries, expected at most 1"),
    "an object for a list": (lambda f: f.list("object", at_most=1), "object is an object of 1, expected a list"),
    "a list for an object": (lambda f: f.mapping("ints"), "ints is a list of 2, expected an object"),
    "no objects": (lambda f: f.mappings("ints", at_most=9), "ints holds 1, expected objects"),
    "within objects": (
        lambda f: [item.integer("x", 0, 1) for item in f.mappings("objects", at_most=9)],
        "objects\\[1\\].x is .y., expected a whole number",
    ),
    "no hash": (lambda f: f.sha256("name"), "name is .kitchen., expected a SHA-256"),
    "no choice": (lambda f: f.choice("name", ("a", "b")), "name is .kitchen., expected one of a, b"),
    "an unknown field": (lambda f: f.mapping("object").expect_only(("outer",)), "object.inner is not known here"),
}


@pytest.mark.parametrize("case", WRONG)
def test_fields_that_are_wrong_are_named(case: str) -> None:
    read, sentence = WRONG[case]
    with pytest.raises(DocumentError, match=f"^x: .*{sentence}") as found:
        read(Fields(_DOCUMENT, where="x"))
    assert str(found.value).isascii()
    assert isinstance(found.value, VdakitError)
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)


@pytest.mark.parametrize("name", ["a", "视频", "env one", "a.b", "...", "x" * 200, "-rf", "a..b", "é", "[bold]", "<b>"])
def test_names_that_are_safe(name: str) -> None:
    assert name_problem(name) is None
    assert path_problem(f"{name}/{name}") is None


UNSAFE = (
    "", ".", "..", "a/b", "a\\b", "../a", "/a", "a\0b", "a\nb", "\x1b[31m", "\x9b31m", "\ud800", "x" * 256, "视" * 90,
    "a\u202eb", "a\u2028b", "\r", "\x7f", "C:\\x",
)  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lead_elsewhere_or_cannot_be_shown(name: str) -> None:
    assert name_problem(name) is not None
    if name != "a/b":
        assert path_problem(name) is not None
        assert path_problem(f"a/{name}/b") is not None


@pytest.mark.parametrize("path", ["a//b", "a/", "/a", "a/./b", "a/..", "\\\\host/x", "/".join(["a" * 250] * 5)])
def test_paths_that_lead_elsewhere(path: str) -> None:
    assert path_problem(path) is not None


def test_sizes_of_headers_are_checked_before_decoding() -> None:
    check_pixels(8192, 8192)
    check_window(MAX_WINDOW_BYTES)
    for width, height in [(8193, 8192), (2**31, 2**31), (0, 5), (5, -1), (MAX_FRAME_PIXELS + 1, 1)]:
        with pytest.raises(LimitError, match=re.escape(f"a.png: is {width}x{height} pixels")) as found:
            check_pixels(width, height, where="a.png")
        assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)
    with pytest.raises(LimitError, match="^asks for 512 MiB of frames"):
        check_window(MAX_WINDOW_BYTES + 1)


def test_numbers_are_those_that_numpy_makes_of_the_lists() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 4, 4))
    found = Fields({"rows": rows.tolist()}, where="x").numbers("rows", (5, 4, 4))
    assert (found == rows).all()
    assert found.dtype == np.float64
