"""JSON documents of the contract: in one spelling, of a version, some sealed with a checksum."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from isal import isal_zlib

from vdaprep.errors import ShardError

SCHEMA_VERSION = 1

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    _Record = TypeVar("_Record", bound=DataclassInstance)
else:
    _Record = TypeVar("_Record")


def canonical_json(value: object) -> bytes:
    """Serialise so that equal values are equal bytes: sorted keys, no spaces, ASCII, finite numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(data: bytes, *, where: str) -> dict[str, Any]:
    """Parse a JSON object; raises ShardError naming `where` if the bytes are anything else."""
    try:
        value: object = json.loads(data)
    except ValueError as error:
        raise ShardError(f"{where}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ShardError(f"{where}: found a JSON {type(value).__name__}, expected an object.")
    return cast(dict[str, Any], value)


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Serialise as `canonical_json` does, with a `checksum`: the SHA-256 of all else, so that any change shows."""
    return canonical_json({**value, "checksum": hashlib.sha256(canonical_json(value)).hexdigest()})


def parse_sealed_json(data: bytes, *, where: str) -> dict[str, Any]:
    """Undo `sealed_json`; raises ShardError naming `where` if this is no JSON of this version, or was changed."""
    value = parse_json(data, where=where)
    check_version(value, where=where)
    checksum = value.pop("checksum", None)
    try:
        found = hashlib.sha256(canonical_json(value)).hexdigest()
    except ValueError as error:  # nan and infinity are no JSON, but Python reads them
        raise ShardError(f"{where}: not valid JSON ({error}).") from error
    if found != checksum:
        raise ShardError(f"{where}: differs from the checksum that it holds; it was changed or damaged.")
    return value


def check_version(value: Mapping[str, Any], *, where: str) -> None:
    """Raise ShardError naming `where` if a document is of another version than this program reads."""
    found = value.get("schema_version")
    if found != SCHEMA_VERSION:
        raise ShardError(
            f"{where}: schema version {found!r}, this program reads version {SCHEMA_VERSION}; "
            "convert again, or use the release that wrote it."
        )


@contextlib.contextmanager
def contract(what: str) -> Generator[None]:
    """Raise ShardError, saying that `what` breaks the schema, for all that a parsed value fails at in the block."""
    try:
        yield
    except (TypeError, KeyError, ValueError) as error:
        raise ShardError(f"{what} breaks schema version {SCHEMA_VERSION} ({error}).") from error


def build(cls: type[_Record], fields: Mapping[str, Any]) -> _Record:
    """Construct a record from parsed JSON; raises ValueError for numbers where text belongs and the other way round."""
    checked = dict(fields)
    for item in dataclasses.fields(cls):
        found = checked.get(item.name)
        if found is None:
            continue
        if item.type in (float, float | None) and isinstance(found, int) and not isinstance(found, bool):
            checked[item.name] = float(found)
        elif item.type in (int, str, float) and type(found) is not item.type:
            raise ValueError(f"{item.name} is {found!r}")
    return cls(**checked)


def crc32(data: bytes | memoryview, start: int = 0) -> int:
    """Return the CRC-32 of data that follows data whose CRC-32 is `start`."""
    return cast(int, cast(Any, isal_zlib).crc32(data, start))
