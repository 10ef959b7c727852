"""Deflate and Adler-32 by ISA-L, which decompresses three times as fast as zlib."""

from typing import Any, cast

from isal import isal_zlib

_isal: Any = isal_zlib  # its stubs leave the arguments' types open
ZLIB_BITS: int = isal_zlib.MAX_WBITS
RAW_BITS = -ZLIB_BITS  # deflate alone, as in a zip
InflateError = cast("type[Exception]", isal_zlib.error)
"""What damaged data raises; ISA-L has an error of its own."""


class Inflater:
    """Decompressor for data in pieces; `bits` is ZLIB_BITS or RAW_BITS."""

    def __init__(self, bits: int = ZLIB_BITS) -> None:
        self._state = _isal.decompressobj(bits)

    @property
    def is_done(self) -> bool:
        """Tell whether the stream is complete, its checksum included, and nothing follows it."""
        return bool(self._state.eof and not self._state.unused_data)

    def inflate(self, data: bytes | memoryview, *, limit: int = 0) -> bytes:
        """Return what more data decompresses to, `limit` bytes unless 0; raises InflateError."""
        return cast(bytes, self._state.decompress(data, limit))


def adler32(data: bytes | memoryview, start: int = 1) -> int:
    """Return the Adler-32 of data that follows data whose Adler-32 is `start`."""
    return cast(int, _isal.adler32(data, start))
