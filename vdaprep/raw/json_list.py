"""JSON lists of any length in gzip: their objects, one by one.

A whole list may be larger than memory."""

import codecs
import json
import re
import zlib
from collections.abc import Generator, Iterator
from typing import Any, cast

from vdaprep.errors import FrameError
from vdaprep.raw.deflate import InflateError, Inflater
from vdaprep.raw.images import wrong_kind
from vdaprep.raw.tree import Location

_GZIP_BITS = 16 + zlib.MAX_WBITS
_PIECE = 1 << 16  # compressed bytes at a time
_MAX_OBJECT = 1 << 20  # characters
_MAX_TEXT = 1 << 32  # characters of all
_DECODER = json.JSONDecoder()
_BETWEEN = re.compile(r"[\s,]*")


def parse_gzipped_list(data: bytes, location: Location) -> Iterator[dict[str, Any]]:
    """Yield the objects of a gzipped JSON list; raises FrameError if it is none or is damaged."""
    if not data.startswith(b"\x1f\x8b"):
        raise wrong_kind("a gzip", data, location)
    pieces = _inflate(data, location)
    waiting = next(pieces, "").lstrip()
    if not waiting.startswith("["):
        raise FrameError(str(location), f"begins with {waiting[:20]!r}, expected a JSON list in gzip")
    waiting, seen = waiting[1:], 0
    while True:
        waiting = yield from _objects(waiting, location)
        if waiting.startswith("]"):
            break
        piece = next(pieces, "")
        seen += len(piece)
        if not piece or len(waiting) > _MAX_OBJECT or seen > _MAX_TEXT:
            raise FrameError(str(location), "is cut short, or is no JSON list; get it again")
        waiting += piece
    for _ in pieces:  # so that the checksum at the end is compared
        pass


def _objects(text: str, location: Location) -> Generator[dict[str, Any], None, str]:
    """Yield the whole objects that a text begins with; returns the rest."""
    position = 0
    while True:
        position = cast("re.Match[str]", _BETWEEN.match(text, position)).end()
        start = text[position : position + 1]
        if start not in ("{", "", "]"):
            raise FrameError(str(location), f"holds {text[position : position + 20]!r}, expected JSON objects")
        try:
            found, position = _DECODER.raw_decode(text, position) if start == "{" else (None, position)
        except RecursionError as error:
            raise FrameError(str(location), "holds JSON that is nested too deep, expected objects") from error
        except ValueError:  # it may go on in the next piece
            found = None
        if found is None:
            return text[position:]
        yield cast("dict[str, Any]", found)


def _inflate(data: bytes, location: Location) -> Iterator[str]:
    inflater, decoder = Inflater(_GZIP_BITS), codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), _PIECE):
            text = decoder.decode(inflater.inflate(data[start : start + _PIECE]))
            if text:
                yield text
    except (InflateError, UnicodeDecodeError) as error:
        raise FrameError(str(location), f"is damaged ({error}); get it again") from error
    if not inflater.is_done:
        raise FrameError(str(location), f"is cut short after {len(data)} bytes; get it again")
