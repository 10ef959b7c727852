"""`vdatrain` on shards behind URLs, by range and through a cache: as from the folder."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import refused
from tests.serving import CRAWL, STALL, Server, serve
from vdaprep.storage import retry
from vdaprep.storage.retry import RetryPolicy

SMALL = (
    "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 3, "--warmup", 2, "--ema", 0.5,
    "--log-every", 1, "--eval-every", 3, "--workers", 1, "--track", "none",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(toy_shards: Path) -> Iterator[Server]:
    with serve(toy_shards) as running:
        yield running


@pytest.fixture(autouse=True)
def well(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """The server is asked itself, not a proxy, and does as it should."""
    monkeypatch.setenv("no_proxy", "*")
    server.asked.clear()
    server.faults.clear()


def figures(folder: Path) -> list[dict[str, object]]:
    """What a run's log says of losses and metrics, without what depends on time."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    kept = ("step", "total", "spatial", "temporal", "gradient_norm", "evaluation")
    return [{name: line[name] for name in kept if name in line} for line in lines]


@pytest.fixture(scope="module")
def local(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the folder itself."""
    import sys

    from vdatrain import cli

    folder = tmp_path_factory.mktemp("runs") / "local"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["vdatrain", "run", "--shards", str(toy_shards), "--out", str(folder), *map(str, SMALL)]
        )
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert not exit_.value.code
    return folder


@pytest.mark.slow
def test_a_run_by_range_has_the_same_losses(server: Server, local: Path, vdatrain, tmp_path: Path) -> None:
    result = vdatrain("run", "--shards", f"{server.url}/tartanair", "--out", tmp_path / "run", *SMALL)
    assert result.code == 0
    assert figures(tmp_path / "run") == figures(local)
    assert server.asked["shard-0001.tar whole"] == 0


@pytest.mark.slow
def test_a_sequential_run_asks_for_whole_tars(server: Server, toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    sequential = ("--order", "sequential", "--shuffle-buffer", 3, *SMALL)
    for name, shards in (("here", toy_shards), ("there", f"{server.url}/tartanair")):
        result = vdatrain("run", "--shards", shards, "--out", tmp_path / name, *sequential)
        assert result.code == 0, result.err
    assert figures(tmp_path / "there") == figures(tmp_path / "here")
    assert server.asked["shard-0001.tar whole"]


@pytest.mark.slow
@pytest.mark.parametrize("far", [True, False])
def test_a_run_through_a_cache_has_the_same_losses(
    far: bool, server: Server, local: Path, toy_shards: Path, vdatrain, tmp_path: Path
) -> None:
    shards = f"{server.url}/tartanair" if far else toy_shards
    cache = ("--cache", tmp_path / "cache", "--cache-size", "1GB", "--cache-free", "1MB")
    result = vdatrain("run", "--shards", shards, "--out", tmp_path / "run", *cache, *SMALL)
    assert (result.code, "damaged" in result.err) == (0, False)
    assert figures(tmp_path / "run") == figures(local)
    tars = sorted(tar.read_bytes() for tar in toy_shards.rglob("*.tar"))
    assert len(tars) == 2  # one to train on and one held out, both of the same name
    assert sorted(tar.read_bytes() for tar in (tmp_path / "cache").glob("*.tar")) == tars
    assert server.asked["shard-0001.tar whole"] == 2 * far


@pytest.mark.slow
def test_an_evaluation_has_the_same_figures(server: Server, local: Path, toy_shards: Path, vdatrain, tmp_path) -> None:
    best = ("--checkpoint", local / "best.pt", "--workers", 1, "--json")
    here = vdatrain("eval", "--shards", toy_shards, *best)
    assert here.code == 0
    for cache in ([], ["--cache", tmp_path / "cache", "--cache-free", "1MB"]):
        there = vdatrain("eval", "--shards", f"{server.url}/tartanair", *cache, *best)
        assert (there.code, there.out) == (0, here.out)
    long = vdatrain("eval", "--shards", f"{server.url}/tartanair", "--long", *best)
    assert long.code == 0
    assert json.loads(long.out)["datasets"]["tartanair"]["trajectories"] == 1


@pytest.mark.slow
def test_disparity_of_a_remote_shard_is_that_of_the_file(
    server: Server, local: Path, toy_shards: Path, vdatrain, tmp_path: Path
) -> None:
    found: list[bytes] = []
    for root in (toy_shards, server.url):
        shard, out = f"{root}/tartanair/val/shard-0001.tar", tmp_path / "a.npz"
        assert vdatrain("infer", shard, "--checkpoint", local / "best.pt", "--out", out).code == 0
        found.append(out.read_bytes())
    assert found[0] == found[1]
    refused(vdatrain("infer", f"{server.url}/a.mp4", "--checkpoint", local / "best.pt", "--out", out), 2, "only shards")


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--shards", "URL"], 1, "found no dataset.json, neither here nor in a folder below"),
        (["--shards", "gopher://x/y"], 2, "expected a folder, or a URL like https://"),
        (["--shards", "URL/tartanair", "--cache", "FILE"], 2, "expected a folder on a local disk"),
        (
            ["--shards", "URL/tartanair", "--cache", "c", "--cache-size", "lots"],
            2,
            "--cache-size lots: expected a size",
        ),
    ],
)
def test_options_that_cannot_be(server: Server, vdatrain, tmp_path, options, code, sentence) -> None:
    (tmp_path / "file").write_text("")
    given = [text.replace("URL", server.url).replace("FILE", str(tmp_path / "file")) for text in options]
    refused(vdatrain("run", *given, "--out", tmp_path / "run", *SMALL), code, sentence)


@pytest.mark.slow
def test_a_server_that_stalls_while_training_ends_the_run(
    server: Server, vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers until the index and a clip of each data set are read."""
    monkeypatch.setattr(retry, "POLICY", RetryPolicy(connect_s=10, answer_s=3, waits_s=(0.01,)))
    server.faults["shard-0001.tar"] = [None] * 3 + [STALL]
    cache = ("--cache", tmp_path / "cache", "--cache-free", "1MB")
    result = vdatrain("run", "--shards", f"{server.url}/tartanair", "--out", tmp_path / "run", *cache, *SMALL)
    name = "shard-0001.tar: cannot be read for clip tartanair-"
    refused(result, 1, name, "the server does not answer", "it was asked 2 times")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "eval", "eval --long", "infer"])
def test_a_server_that_sends_a_byte_now_and_then_ends_an_evaluation(
    command: str, server: Server, local: Path, vdatrain, tmp_path: Path
) -> None:
    """It always answers in time, so only the time that reading a whole window takes can tell."""
    tar, shards = "tartanair/val/shard-0001.tar", f"{server.url}/tartanair"
    server.faults[tar] = [CRAWL]  # of the one byte that is asked of each tar for the index, nobody notices it
    words = {
        "run": ("--shards", shards, "--out", tmp_path / "run", *SMALL),
        "eval": ("--shards", shards, "--checkpoint", local / "best.pt", "--out", tmp_path / "out"),
        "infer": (f"{server.url}/{tar}", "--checkpoint", local / "best.pt", "--out", tmp_path / "out.npz"),
    }
    name, *more = command.split()
    began = time.monotonic()
    result = vdatrain(name, *words[name], *more, "--stall-timeout", 2)
    assert time.monotonic() - began < 60
    refused(result, 1, f"{tar}: reading clip tartanair-", "has not ended after 2 s", "--stall-timeout")
    assert not any(tmp_path.rglob("evaluation.json"))
    assert not any(tmp_path.glob("out*"))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["tartanair/val/shard-0001.tar", "tartanair/val/shard-0001.json"])
def test_a_server_that_sends_a_byte_now_and_then_ends_verify(
    file: str, server: Server, vdaprep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, the whole at less than `least_bytes_per_s`."""
    monkeypatch.setattr(
        retry, "POLICY", RetryPolicy(connect_s=0.5, answer_s=1, least_bytes_per_s=10**9, waits_s=(0.01,))
    )
    server.faults[file] = [CRAWL]
    began = time.monotonic()
    result = vdaprep("verify", f"{server.url}/tartanair/val/shard-0001.tar", "--deep")
    assert time.monotonic() - began < 60
    assert result.code == 1
    [line] = result.err.splitlines()
    assert line.startswith(f"vdaprep: {server.url}/{file}: the server does not answer: ")
    assert line.endswith("it was asked 2 times.")
