"""Ways to spoil bytes, texts and JSON values, as strategies of hypothesis."""

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_NUMBERS = (0, 1, -1, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_WORDS = [number.to_bytes(width, order, signed=False) for number in _NUMBERS if number >= 0
          for width in (1, 2, 4, 8) if number < 256**width for order in ("little", "big")]  # fmt: skip
_TOKENS = [
    b"nan", b"inf", b"-inf", b"1e999", b"1e-999", b"9" * 400, b"\0", b"\xef\xbb\xbf", b"\r", b"\n", b"\x0c", b"#",
    b"../",
    b"/",
    b"\\", b"..\\", b"\xff\xfe", b"\xed\xa0\x80", b"[", b"]", b"{", b"}", b'"', b"," , b"1e308", b"-0", b"[" * 500,
    b"\x1b[31m", b"[/red]", b"True", b"None", b"null", b" " * 64, "视频".encode(), b"%2e%2e%2f", b"://", b"@",
    b"?", b"=",
]  # fmt: skip
WEIRD: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63, 10**15, 10**400, "", "x", "nan",
    "..",
    "../../../../../../escaped", "/escaped", "a/b", "a\\b", "a\0b", "\ud800", "\x1b[31m", "[/red]", "<script>",
    "x" * 5000,
    "视频", [], {}, [[]], [None], [1, 2, 3], {"a": {"b": {"c": 1}}}, [[0.0] * 4] * 4, [10**400], float("nan"),
    float("inf"),
    "ab" * 32, "shard-0001.tar", "train", [0] * 2000,
]  # fmt: skip


def spoilt(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes of a seed after one to six changes."""
    return st.builds(_apply, st.sampled_from(seeds), st.lists(_changes(), min_size=1, max_size=6))


def _changes() -> st.SearchStrategy[tuple[str, float, Any]]:
    place = st.floats(0, 1, width=32)
    return st.one_of(
        st.tuples(st.just("put"), place, st.sampled_from(_WORDS)),
        st.tuples(st.just("put"), place, st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), place, st.sampled_from(_TOKENS)),
        st.tuples(st.just("put"), place, st.sampled_from(_TOKENS)),
        st.tuples(st.just("bit"), place, st.integers(0, 7)),
        st.tuples(st.just("drop"), place, st.integers(1, 64)),
        st.tuples(st.just("cut"), place, st.just(None)),
        st.tuples(st.just("repeat"), place, st.integers(1, 600)),
        st.tuples(st.just("head"), st.floats(0, 1 / 64, width=32), st.sampled_from(_WORDS)),
    )


def _apply(seed: bytes, changes: Sequence[tuple[str, float, Any]]) -> bytes:
    data = bytearray(seed)
    for kind, place, value in changes:
        at = int(place * len(data))
        if kind in ("put", "head"):
            data[at : at + len(value)] = value
        elif kind == "insert":
            data[at:at] = value
        elif kind == "bit" and data:
            data[min(at, len(data) - 1)] ^= 1 << value
        elif kind == "drop":
            del data[at : at + value]
        elif kind == "cut":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + value]
    return bytes(data)


def spoilt_values(seeds: Sequence[Any]) -> st.SearchStrategy[Any]:
    """A JSON value of which one to three parts were replaced, dropped, doubled or joined by a strange one."""
    change = st.tuples(
        st.integers(0, 10**6), st.sampled_from(["put", "drop", "add", "double", "rename"]), st.sampled_from(WEIRD)
    )
    return st.builds(_apply_values, st.sampled_from(seeds), st.lists(change, min_size=1, max_size=3))


def _apply_values(seed: Any, changes: Sequence[tuple[int, str, Any]]) -> Any:
    top = [copy.deepcopy(seed)]
    for number, kind, weird in changes:
        places = list(_places(top))
        holder, key = places[number % len(places)]
        if kind == "put" or holder is top:
            holder[key] = copy.deepcopy(weird)
        elif kind == "drop":
            del holder[key]
        elif kind == "double" and isinstance(holder, list):
            holder.append(holder[key])
        elif isinstance(holder, dict):
            holder["../up" if kind == "rename" else "more"] = copy.deepcopy(weird)
    return top[0]


def _places(value: Any) -> Any:
    """Yield (container, key) of everything within a value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def as_json(value: Any) -> bytes:
    """Return JSON of a value, nan and infinity as Python spells them."""
    return json.dumps(value).encode()
