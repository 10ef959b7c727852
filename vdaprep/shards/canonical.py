"""JSON documents of the contract: one spelling, versioned, some with a checksum."""

import contextlib
import hashlib
import json
from collections.abc import Generator, Mapping
from typing import Any, cast

from isal import isal_zlib

from vdaprep.errors import ShardError
from vdaprep.storage import documents
from vdaprep.storage.documents import Document, DocumentError, shown
from vdaprep.storage.limits import MAX_DOCUMENT_BYTES, LimitError

SCHEMA_VERSION = 2
"""Version that is written, unless a conversion of an earlier one is continued."""
READABLE_VERSIONS = (1, 2)
"""Versions that are read: all there ever were."""


def canonical_json(value: object) -> bytes:
    """Serialise so that equal values are equal bytes: sorted, no spaces, ASCII, finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(data: bytes, *, where: str, limit: int = MAX_DOCUMENT_BYTES) -> Document:
    """Parse a JSON object as `documents.parse_json` does; raises ShardError for any other."""
    with contract(where):
        return documents.parse_json(data, where=where, limit=limit)


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Serialise as `canonical_json` does, with a `checksum`: the SHA-256 of all else."""
    return canonical_json({**value, "checksum": hashlib.sha256(canonical_json(value)).hexdigest()})


def parse_sealed_json(data: bytes, *, where: str) -> Document:
    """Undo `sealed_json`; raises ShardError if it is of no known version, or was changed."""
    document = parse_json(data, where=where)
    check_version(document)
    values = {name: value for name, value in document.values.items() if name != "checksum"}
    if hashlib.sha256(canonical_json(values)).hexdigest() != document.values.get("checksum"):
        raise ShardError(f"{where}: differs from the checksum that it holds; it was changed or damaged.")
    return Document(values, where=where)


def check_version(document: Document) -> int:
    """Return the version of a document; raises ShardError if it is none that this program reads."""
    found = document.values.get("schema_version")
    if type(found) is not int or found not in READABLE_VERSIONS:
        raise ShardError(
            f"{document.where}: schema version {shown(found)}, this program reads versions 1 and 2; "
            "use the release that wrote it, or a later one."
        )
    return found


@contextlib.contextmanager
def contract(where: str) -> Generator[None]:
    """Raise ShardError for what a document of the contract fails at in the block."""
    try:
        yield
    except DocumentError as error:
        raise ShardError(str(error)) from error
    except LimitError as error:
        raise ShardError(str(error) if error.where else f"{where}: {error}") from error
    except ShardError as error:  # of a value that refuses to be made
        raise ShardError(f"{where}: {error}") from error


def crc32(data: bytes | memoryview, start: int = 0) -> int:
    """Return the CRC-32 of data that follows data whose CRC-32 is `start`."""
    return cast(int, cast(Any, isal_zlib).crc32(data, start))
