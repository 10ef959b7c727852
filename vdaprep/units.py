"""Numbers as people write and read them: sizes, durations; an even choice of some of many."""

import re

from vdaprep.errors import UsageError

_UNITS = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([a-z]*)", re.ASCII)
_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", re.ASCII)


def parse_bytes(text: str, option: str) -> int:
    """Return the bytes of 5GB (10^9), 1.5 GiB (2^30) or 4096; else UsageError naming the option."""
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"{option} {text}: expected a size, for example 5GB, 500MB or 2GiB.")
    return round(float(found[1]) * _UNITS[found[2]])


def format_bytes(count: int | float) -> str:
    """Return a size for people: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def parse_duration(text: str, option: str) -> int:
    """Return the seconds of `11h30m`, `90m`, `45s`, `3600`; else UsageError naming the option.

    0 is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if total == 0:
        raise UsageError(f"{option} {text}: expected a time such as 11h30m, 90m or 3600 (seconds).")
    return total


def spread_evenly(total: int, count: int) -> list[int]:
    """Return the middles of `count` equal stretches of `range(total)`; all if no more."""
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]
