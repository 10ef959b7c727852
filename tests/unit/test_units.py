"""Sizes and durations as people write them, and an even choice of some of many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdaprep.errors import UsageError
from vdaprep.units import format_bytes, parse_bytes, parse_duration, spread_evenly


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("5GB", 5 * 10**9),
        ("500mb", 5 * 10**8),
        ("2 GiB", 2 << 30),
        ("40GiB", 40 << 30),
        ("1.5K", 1500),
        ("1.5t", 15 * 10**11),
        ("4096", 4096),
        ("12B", 12),
        (" 1 tib ", 1 << 40),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text, "--min-free") == count


@pytest.mark.parametrize("text", ["", "GB", "5 PB", "-5GB", "1,5GB", "5 GB or so", "1e9", "nan", "٥GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--min-free .*: expected a size, for example 5GB, 500MB or 2GiB\.$"):
        parse_bytes(text, "--min-free")


def test_sizes_for_people() -> None:
    shown = [format_bytes(count) for count in (0, 1023, 1024, 5 << 20, 3 << 40)]
    assert shown == ["0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 TiB"]


@given(st.integers(0, 1 << 50))
def test_sizes_come_back_as_they_are_shown(count: int) -> None:
    assert parse_bytes(format_bytes(count), "") == pytest.approx(count, rel=0.06)


@pytest.mark.parametrize(
    ("text", "seconds"), [("3600", 3600), ("90m", 5400), ("11h30m", 41400), ("1h0m5s", 3605), ("45s", 45)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text, "--time-limit") == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "1d", "-5", "5m5h", "1.5h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--time-limit .*: expected a time such as 11h30m, 90m or 3600 .seconds.\.$"):
        parse_duration(text, "--time-limit")


@given(st.integers(0, 200), st.integers(0, 200))
def test_an_even_choice_is_sorted_and_without_repeats(total: int, count: int) -> None:
    chosen = spread_evenly(total, count)
    assert len(chosen) == min(total, count)
    assert chosen == sorted(set(chosen))
    gaps = {after - before for before, after in zip(chosen, chosen[1:], strict=False)}
    assert len(gaps) <= 2
    assert all(0 <= position < total for position in chosen)
