"""Text from outside (JSON, TOML, lines), read and checked once: a surprise is a sentence.

    document = parse_json(data, where=str(path))
    name, scale = document.name("dataset"), document.number("scale", 0, 10)
    sizes = [item.integer("bytes", 0, 2**40) for item in document.mappings("shards", at_most=10_000)]

A document that was parsed has no repeated key, no nesting beyond MAX_DEPTH, and no number that a float64 cannot hold,
so that what is passed on unread is safe to compare, to write and to show. Accessors check type, range and length, and
name the document and the field. Names (of data sets, splits, tars, trajectories) become parts of paths: `name` and
`path_name` refuse whatever would lead out of a folder, or is no text to show.
"""

import codecs
import itertools
import json
import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, cast

import numpy as np

from vdaprep.errors import VdakitError
from vdaprep.storage.limits import MAX_DOCUMENT_BYTES, MAX_SMALL_DOCUMENT_BYTES, check_document

MAX_DEPTH = 32
"""Levels of lists and objects within each other."""
MAX_CONTAINERS = 2**22
"""Lists and objects of a document; an empty one takes 64 bytes of memory for its 2 bytes of text."""
MAX_NAME_BYTES = 200
"""Bytes of a name in UTF-8: a file system takes 255, and names of files are made of names."""
MAX_PART_BYTES = 255
"""Bytes of one part of a trajectory's name."""
MAX_PATH_BYTES = 1000
"""Bytes of a trajectory's name, which may have several parts."""
MAX_TEXT_LENGTH = 10_000
"""Characters of other text."""
# Control characters, ends of lines, surrogates, marks that turn the order of what is shown.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NUMBERS = {int, float}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class DocumentError(VdakitError):
    """A document from outside is not as it should be; `reason` lacks the document's name."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple[type["DocumentError"], tuple[str, str]]:
        return DocumentError, (self.where, self.reason)


def name_problem(text: str, *, at_most: int = MAX_NAME_BYTES) -> str | None:
    """Say what keeps a text from being a name, one part of a path; None if nothing does."""
    if found := _UNSAFE.search(text):
        return f"holds the character U+{ord(found[0]):04X}, which no name may have"
    if not text:
        return "is empty"
    if len(text.encode()) > at_most:
        return f"has {len(text.encode())} bytes, more than {at_most}"
    return "leads to another folder" if "/" in text or "\\" in text or text in (".", "..") else None


def path_problem(text: str) -> str | None:
    """Say what keeps a text from being a trajectory's name, parts joined by `/`, or None."""
    if text.startswith("/"):
        return "leads to another folder"
    if found := next(
        (found for part in text.split("/") if (found := name_problem(part, at_most=MAX_PART_BYTES))), None
    ):
        return found
    size = len(text.encode())
    return f"has {size} bytes, more than {MAX_PATH_BYTES}" if size > MAX_PATH_BYTES else None


def stand_in(head: bytes) -> str:
    """Tell by first bytes what came instead of a file; empty if that is not known.

    Returns:
        `nothing` (an empty file), `zeros`, `web page`, `XML` or `git-lfs pointer`.
    """
    if not head.strip(b"\0"):
        return "zeros" if head else "nothing"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for kind, beginnings in _STAND_INS.items() if text.startswith(beginnings)), "")


_STAND_INS = {
    "web page": (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--"),
    "XML": (b"<?xml", b"<!doctype"),
    "git-lfs pointer": (b"version https://git-lfs",),
}


# ------------------------------------------------------------------------------------------------------------- fields


class Fields:
    """A document's fields, or an object's in it; accessors raise DocumentError.

    Accessors refuse a field that is missing; those called `optional_...` return None for one that is missing or null.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str, path: str = "") -> None:
        self.values = values
        """What the fields hold, by name."""
        self.where = where
        """Name of the document."""
        self._path = path

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def fail(self, key: str, reason: str) -> NoReturn:
        """Raise DocumentError for a field: `reason` says what was found and what was expected."""
        raise DocumentError(self.where, f"{self._path}{_bare(key)} {reason}.")

    def get(self, key: str, kind: type, expected: str) -> Any:
        """Return a field of exactly this type."""
        value = self.values.get(key)
        if type(value) is not kind:
            self.fail(key, f"is {shown(value) if key in self.values else 'missing'}, expected {expected}")
        return value

    def text(self, key: str, *, at_most: int = MAX_TEXT_LENGTH) -> str:
        """Return any text: show it through `vdaprep.cli.views.output`, make no path of it."""
        value = self.get(key, str, "text")
        if len(value) > at_most:
            self.fail(key, f"has {len(value)} characters, expected at most {at_most}")
        return value

    def name(self, key: str) -> str:
        """Return a name, which is safe as one part of a path and to show."""
        return self._checked(key, name_problem)

    def path_name(self, key: str) -> str:
        """Return a name of parts joined by `/`, as trajectories have, that stays in its folder."""
        return self._checked(key, path_problem)

    def sha256(self, key: str) -> str:
        """Return a SHA-256 in hexadecimal."""
        value = self.get(key, str, "a SHA-256 in hexadecimal")
        if _SHA256.fullmatch(value) is None:
            self.fail(key, f"is {shown(value)}, expected a SHA-256: 64 hexadecimal digits")
        return value

    def choice(self, key: str, choices: Collection[str]) -> str:
        """Return one of several texts."""
        value = self.get(key, str, f"one of {', '.join(choices)}")
        if value not in choices:
            self.fail(key, f"is {shown(value)}, expected one of {', '.join(choices)}")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        value = self.get(key, int, "a whole number")
        if not low <= value <= high:
            self.fail(key, f"is {shown(value)}, expected {low} to {high}")
        return value

    def number(self, key: str, low: float | int = -math.inf, high: float | int = math.inf) -> float:
        """Return a finite number from `low` to `high`, both included."""
        value = self.values.get(key)
        number = _as_float(value)
        if number is None:
            self.fail(key, f"is {shown(value) if key in self.values else 'missing'}, expected a number")
        if not low <= number <= high:
            self.fail(key, f"is {shown(value)}, expected {low:g} to {high:g}")
        return number

    def numbers(self, key: str, shape: Sequence[int | None], *, at_most: float = math.inf) -> np.ndarray:
        """Return an array of finite numbers, float64, of the shape; None stands for any length.

        No number is farther from zero than `at_most`.
        """
        value = self.values.get(key)
        expected = "x".join("n" if length is None else str(length) for length in shape) + " finite numbers"
        found = _as_array(value, shape)
        if found is None:
            self.fail(key, f"is {shown(value) if key in self.values else 'missing'}, expected {expected}")
        if found.size and np.abs(found).max() > at_most:
            self.fail(key, f"holds {shown(float(np.abs(found).max()))}, expected numbers of at most {at_most:g}")
        return found

    def integers(self, key: str, low: int, high: int, *, at_most: int) -> tuple[int, ...]:
        """Return a list of whole numbers from `low` to `high`."""
        values = self.list(key, at_most=at_most)
        if values and (set(map(type, values)) != {int} or min(values) < low or max(values) > high):
            wrong = next(item for item in values if type(item) is not int or not low <= item <= high)
            self.fail(key, f"holds {shown(wrong)}, expected whole numbers from {low} to {high}")
        return tuple(values)

    def booleans(self, key: str, *, at_most: int) -> tuple[bool, ...]:
        """Return a list of true and false."""
        return tuple(self._all_of(key, bool, "true and false", at_most))

    def texts(self, key: str, *, at_most: int) -> tuple[str, ...]:
        """Return a list of texts, whatever their characters."""
        return tuple(self._all_of(key, str, "texts", at_most))

    def path_names(self, key: str, *, at_most: int) -> "list[str]":
        """Return a list of names as `path_name` takes them."""
        for name in self.texts(key, at_most=at_most):
            if problem := path_problem(name):
                self.fail(key, f"holds {shown(name)}, expected names: it {problem}")
        return self.list(key, at_most=at_most)

    def names(self, of: str, *, problem_of: Callable[[str], str | None] = name_problem) -> "list[str]":
        """Return all fields' names, each `of` something; `problem_of` says what is no name."""
        for key in self.values:
            if problem := problem_of(key):
                self.fail(key, f"is no name of {of}: it {problem}")
        return list(self.values)

    def list(self, key: str, *, at_most: int) -> "list[Any]":
        """Return a list of anything."""
        value = self.get(key, list, "a list")
        if len(value) > at_most:
            self.fail(key, f"has {len(value)} entries, expected at most {at_most}")
        return value

    def mapping(self, key: str) -> "Fields":
        """Return the fields of an object."""
        return Fields(self.get(key, dict, "an object"), where=self.where, path=f"{self._path}{_bare(key)}.")

    def mappings(self, key: str, *, at_most: int) -> "list[Fields]":
        """Return the fields of each object of a list."""
        found = self._all_of(key, dict, "objects", at_most)
        name = f"{self._path}{_bare(key)}"
        return [Fields(item, where=self.where, path=f"{name}[{number}].") for number, item in enumerate(found)]

    def all_texts(self) -> dict[str, str]:
        """Return all fields, each of which is text."""
        return {key: self.text(key) for key in self.values}

    def optional_text(self, key: str, *, at_most: int = MAX_TEXT_LENGTH) -> str | None:
        """Return text or None."""
        return self.text(key, at_most=at_most) if key in self else None

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """Return a whole number or None."""
        return self.integer(key, low, high) if key in self else None

    def optional_number(self, key: str, low: float | int = -math.inf, high: float | int = math.inf) -> float | None:
        """Return a finite number or None."""
        return self.number(key, low, high) if key in self else None

    def optional_numbers(
        self, key: str, shape: Sequence[int | None], *, at_most: float = math.inf
    ) -> np.ndarray | None:
        """Return an array of finite numbers or None."""
        return self.numbers(key, shape, at_most=at_most) if key in self else None

    def optional_mapping(self, key: str) -> "Fields | None":
        """Return the fields of an object or None."""
        return self.mapping(key) if key in self else None

    def expect_only(self, keys: Collection[str]) -> None:
        """Raise DocumentError, naming one, if there are fields of other names."""
        for key in self.values:
            if key not in keys:
                self.fail(key, "is not known here")

    def _checked(self, key: str, problem_of: Callable[[str], str | None]) -> str:
        value = self.get(key, str, "a name")
        if problem := problem_of(value):
            self.fail(key, f"is {shown(value)}, expected a name: it {problem}")
        return value

    def _all_of(self, key: str, kind: type, expected: str, at_most: int) -> "list[Any]":
        values = self.list(key, at_most=at_most)
        for item in values if set(map(type, values)) - {kind} else ():
            if type(item) is not kind:
                self.fail(key, f"holds {shown(item)}, expected {expected}")
        return values


Document = Fields


def shown(value: object, *, at_most: int = 60) -> str:
    """Return a value as a sentence names it: in JSON's spelling, ASCII, cut short; never fails."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, Mapping | list | tuple):
        kind = "an object" if isinstance(value, Mapping) else "a list"
        return f"{kind} of {len(cast(Collection[object], value))}"
    text = json.dumps(value if isinstance(value, str | int | float | None) else str(value))
    return text if len(text) <= at_most else f"{text[: at_most - 3]}..."


def _bare(key: str) -> str:
    """Return a field's name as a sentence has it, without quotes where it is plain."""
    return key if re.fullmatch(r"[\w.-]{1,60}", key, re.ASCII) else shown(key)


def _as_float(value: object) -> float | None:
    """Return a finite number of JSON as a float; None for anything else."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(cast(float, value))
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _as_array(value: object, shape: Sequence[int | None]) -> np.ndarray | None:
    """Return nested lists of finite numbers as an array of the shape; None for anything else."""
    level: list[object] = [value]
    found: list[int] = []
    for (
        wanted
    ) in shape:  # lists within lists, so that numpy, which takes text and truth for numbers, sees numbers alone
        if set(map(type, level)) - {list}:
            return None
        lengths = set(map(len, cast("list[list[object]]", level)))
        if len(lengths) > 1 or (wanted is not None and lengths - {wanted}):
            return None
        found.append(lengths.pop() if lengths else wanted or 0)
        level = list(itertools.chain.from_iterable(cast("list[list[object]]", level)))
    if set(map(type, level)) - {int, float}:
        return None
    try:
        array = np.array(level, np.float64).reshape(found)
    except OverflowError:
        return None
    return array if np.isfinite(array).all() else None


# ------------------------------------------------------------------------------------------------------------ parsing


def parse_json(data: bytes, *, where: str, limit: int = MAX_DOCUMENT_BYTES) -> Document:
    """Parse a JSON object.

    Args:
        data: UTF-8, with or without a byte order mark.
        where: The document, for errors.
        limit: Bytes that it may have.

    Returns:
        Its fields.

    Raises:
        DocumentError: It is anything else than one JSON object as the module's docstring has it.
        LimitError: It has more bytes.
    """
    value = parse_json_value(data, where=where, limit=limit)
    if not isinstance(value, dict):
        raise DocumentError(where, f"holds {_kind(value)}, expected a JSON object.")
    return Fields(cast(dict[str, Any], value), where=where)


def parse_json_value(data: bytes, *, where: str, limit: int = MAX_DOCUMENT_BYTES) -> Any:
    """Parse JSON of any type; raises as `parse_json` does."""
    check_document(len(data), where=where, limit=limit)
    text = decode_text(data, where=where)
    if data.count(b"[") + data.count(b"{") > MAX_CONTAINERS:
        raise DocumentError(where, f"holds more than {MAX_CONTAINERS} lists and objects.")
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError as error:
        raise DocumentError(where, f"is nested deeper than {MAX_DEPTH} levels.") from error
    except ValueError as error:
        raise DocumentError(where, f"is not valid JSON ({_first_line(error)}).") from error
    _check_values(value, where=where)
    return value


def parse_toml(data: bytes, *, where: str, limit: int = MAX_SMALL_DOCUMENT_BYTES) -> Document:
    """Parse TOML; arguments, result and errors are those of `parse_json`."""
    check_document(len(data), where=where, limit=limit)
    text = decode_text(data, where=where)
    try:
        value = tomllib.loads(text)
    except RecursionError as error:
        raise DocumentError(where, f"is nested deeper than {MAX_DEPTH} levels.") from error
    except ValueError as error:
        raise DocumentError(where, f"is not valid TOML ({_first_line(error)}).") from error
    _check_values(value, where=where)
    return Fields(value, where=where)


def read_text_lines(data: bytes, *, where: str, limit: int = MAX_DOCUMENT_BYTES) -> list[str]:
    r"""Return a text file's lines, which `\n`, `\r\n` and `\r` end, without these.

    Raises:
        DocumentError: The file is not UTF-8, with or without a byte order mark.
        LimitError: It has more bytes.
    """
    check_document(len(data), where=where, limit=limit)
    lines = re.split(r"\r*\n|\r", decode_text(data, where=where))
    return lines if lines[-1] else lines[:-1]


def decode_text(data: bytes, *, where: str) -> str:
    """Decode UTF-8 without its byte order mark; DocumentError for others and for zeros.

    Also for what came instead of a file: a web page, a message of a server, a pointer of git-lfs.
    """
    if instead := _INSTEAD.get(stand_in(data[:512])):
        raise DocumentError(where, f"is {instead}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data.startswith(_UTF16) else f"not UTF-8 (byte {error.start})"
        raise DocumentError(where, f"is {kind}, expected text in UTF-8.") from error
    if "\0" in text:
        raise DocumentError(where, "holds bytes of zero, expected text; it was not written or downloaded whole.")
    return text


_INSTEAD = {
    "web page": "a web page, which a server sent instead of the file; get it again",
    "XML": "a message of a server, not the file; get it again",
    "git-lfs pointer": "a pointer of git-lfs, not the file: git lfs pull gets that",
}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{_bare(twice)} is there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_values(value: object, *, where: str) -> None:
    """Raise DocumentError for deep nesting, and for numbers that no float64 can hold."""
    level: list[Collection[object]] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        below: list[Collection[object]] = []
        for items in level:
            kinds = set(map(type, items))
            if not kinds.isdisjoint(_NUMBERS):
                numbers = items if kinds <= _NUMBERS else [item for item in items if type(item) in _NUMBERS]
                _check_numbers(cast("Collection[float | int]", numbers), where=where)
            if not kinds.isdisjoint((dict, list)):
                below += [_items(cast(Any, item)) for item in items if isinstance(item, dict | list)]
        level = below
    if level:
        raise DocumentError(where, f"is nested deeper than {MAX_DEPTH} levels.")


def _items(container: "dict[str, object] | list[object]") -> Collection[object]:
    return container.values() if isinstance(container, dict) else container


def _check_numbers(numbers: Collection[float | int], *, where: str) -> None:
    try:
        if all(map(math.isfinite, numbers)):
            return
    except OverflowError:
        pass
    wrong = next(item for item in numbers if _as_float(item) is None)
    raise DocumentError(where, f"holds {shown(wrong)}, which is no finite number of float64.")


def _kind(value: object) -> str:
    return "a JSON list" if isinstance(value, list) else f"JSON's {shown(value)}"


def _first_line(error: ValueError) -> str:
    return str(error).partition("\n")[0].partition("; use sys.")[0][:200]
