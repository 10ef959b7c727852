"""`vdatrain benchmark` on two ranks: each measures scenes of its own, and the first has the table of all."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.distributed.forked import fork, free_port
from tests.scenes import Shot, write_scenes
from vdatrain import cli
from vdatrain.evaluation.benchmark import table  # noqa: F401 - seconds, here rather than in every child
from vdatrain.models import variants


@pytest.fixture
def argv(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return a function that returns the command's words for an output folder."""
    torch.manual_seed(3)
    torch.save(variants.build("basic", encoder="tiny").state_dict(), tmp_path / "tiny.pth")
    write_scenes(
        tmp_path / "shards" / "bonn",
        [Shot(name, range(4)) for name in ("balloon2", "crowd2", "crowd3", "synchronous")],
    )
    given = ["--checkpoint", tmp_path / "tiny.pth", "--encoder", "tiny", "--size", 28, "--sets", "bonn"]
    given += ["--shards", tmp_path / "shards", "--allow-missing", "--device", "cpu"]
    return lambda out: ["vdatrain", "benchmark", *map(str, given), "--out", str(tmp_path / out)]


def command(words: list[str]) -> Callable[[], None]:
    def work() -> None:
        sys.argv = words
        cli.main()

    return work


def test_two_ranks_measure_what_one_does(argv: Callable[[str], list[str]], tmp_path: Path) -> None:
    alone = fork(command(argv("one")), tmp_path, "alone", {})
    assert alone.wait() == 0, alone.err.read_text()
    meeting = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [fork(command(argv("two")), tmp_path, rank, {"RANK": rank, **meeting}) for rank in range(2)]
    for child in ranks:
        assert child.wait() == 0, child.err.read_text()
    figures = [
        {
            scene["scene"]: scene["figures"]
            for scene in json.loads((tmp_path / out / "table.json").read_text())["scenes"]
        }
        for out in ("one", "two")
    ]
    assert figures[0] == figures[1]
    lines = [(tmp_path / "two" / f"scenes-{rank}.jsonl").read_text().splitlines() for rank in range(2)]
    assert [len(found) for found in lines] == [2, 2]
    assert "tiny" in ranks[0].out.read_text()
    assert ranks[1].out.read_text() == ""
