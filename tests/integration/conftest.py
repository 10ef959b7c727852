"""What end-to-end tests share: how a command refuses what it is given."""

from tests.conftest import Outcome


def refused(result: Outcome, code: int, *sentence: str) -> None:
    """Expect `vdatrain` to have said one sentence, that has these parts, beside what it takes without a GPU."""
    assert result.code == code
    [line] = [line for line in result.err.splitlines() if not line.startswith("no GPU here")]
    assert line.startswith("vdatrain: ")
    for part in sentence:
        assert part in line
