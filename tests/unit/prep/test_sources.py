"""What every raw data set must do, whichever modules the folder holds."""

import pytest

from vdaprep import sources
from vdaprep.errors import UsageError
from vdaprep.sources import _manifest

NAMES = sources.names()
SIZES = ((64, 48), (64, 36))  # a data set may insist on its own aspect


def test_there_are_data_sets_and_each_has_its_facts() -> None:
    assert NAMES
    for name in NAMES:
        facts = _manifest.load(name)
        assert facts.title
        assert facts.home
        assert facts.depth_spec(relative_error=0.001).kind in ("linear", "half", "log")


@pytest.mark.parametrize("name", NAMES)
def test_no_trajectory_is_in_two_splits(name: str) -> None:
    facts = _manifest.load(name)
    for splits in facts.splits.values():
        globs = [glob for of_split in splits.values() for glob in of_split]
        assert len(globs) == len(set(globs))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=f"no data set 'kitty'; known: .*{NAMES[0]}"):
        sources.load("kitty")
    with pytest.raises(UsageError, match=f"no data set 'kitty'; known: .*{NAMES[0]}"):
        _manifest.load("kitty")
    with pytest.raises(UsageError, match=r"--splits mine: .* has no such split set; known: default"):
        _manifest.load(NAMES[0]).split_of("a", splits="mine")
