"""JSON lists in gzip are read object by object, within bounds."""

import gzip
import json

import pytest

from vdaprep.errors import FrameError
from vdaprep.raw import json_list
from vdaprep.raw.json_list import parse_gzipped_list
from vdaprep.raw.tree import Location

HERE = Location("", "x.jgz")
MANY = [{"number": i, "text": '}]{"\u00e9' * (i % 3), "list": [[1.5, i]]} for i in range(5000)]


@pytest.mark.parametrize("piece", [1, 100, 1 << 16])
@pytest.mark.parametrize("objects", [[], [{}], MANY[:50], MANY])
def test_objects_come_out_as_they_went_in(
    objects: list[dict[str, object]], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_list, "_PIECE", piece)
    data = gzip.compress(json.dumps(objects, indent=1, ensure_ascii=False).encode())
    assert list(parse_gzipped_list(data, HERE)) == objects


WHOLE = gzip.compress(json.dumps(MANY).encode())
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is not a gzip \(it is empty\)"),
    "a page": (b"<!DOCTYPE html>", "is not a gzip"),
    "cut": (WHOLE[:-200], "is cut short"),
    "without its end": (WHOLE[:-6], "is cut short after"),
    "damaged": (WHOLE[:-8] + b"sumsum12", "is damaged"),
    "an object": (gzip.compress(b"{}"), "begins with '{}', expected a JSON list"),
    "numbers": (gzip.compress(b"[1, 2]"), "holds '1, 2]', expected JSON objects"),
    "no end": (gzip.compress(b'[{"a": 1}, {"b'), "is cut short, or is no JSON list"),
    "no JSON": (gzip.compress(b'[{"a": 1}, {b: 2}]'), "is cut short, or is no JSON list"),
    "no text": (gzip.compress(b'[{"a": "\xff"}]'), "is damaged"),
    "deep": (gzip.compress(b'[{"a": ' + b"[" * 500_000), "is nested too deep"),
    "a huge object": (gzip.compress(b'[{"a": "' + b"x" * (1 << 26)), "is cut short, or is no JSON list"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_list_is_refused(kind: str) -> None:
    data, sentence = BAD[kind]
    with pytest.raises(FrameError, match=sentence):
        list(parse_gzipped_list(data, HERE))
