"""No user, password or token of a URL is in anything that the programs write, print or log."""

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, write_raw
from tests.serving import Server, serve
from vdaprep.storage import retry
from vdaprep.storage.retry import RetryPolicy

SECRET = "S3CRET"
SMALL = (
    "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 2, "--warmup", 1, "--ema", 0.5,
    "--log-every", 1, "--eval-every", 2, "--workers", 1, "--track", "tensorboard",
)  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of raw data and shards that answers those who bring the token."""
    served = tmp_path / "served"
    raw = write_raw(tmp_path / "plain", lengths={"abandonedfactory/Easy/P000": 4, "abandonedfactory/Easy/P011": 4})
    (served / "raw").mkdir(parents=True)
    with zipfile.ZipFile(served / "raw" / "level.zip", "w") as file:
        for path in sorted(raw.root.rglob("*.*")):
            file.write(path, path.relative_to(raw.root).as_posix())
    (served / "raw" / "broken.zip").write_bytes(b"PK no zip")
    (served / "shards").symlink_to(toy_shards)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(retry, "POLICY", RetryPolicy(waits_s=()))
    with serve(served) as running:
        running.token = SECRET
        running.lists = True
        yield running


class Told:
    """Runs commands and keeps all that they print."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, run: Run, *arguments: Any, code: int = 0) -> str:
        result = run(*arguments)
        said = result.out + result.err
        self.text += said
        assert result.code == code, said
        return said


def holding(folder: Path) -> list[str]:
    """List the files below a folder that hold the secret, or have it in their name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if SECRET in path.name or SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_nothing_tells_a_secret(
    server: Server, vdaprep: Run, vdatrain: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="vdaprep")
    caplog.set_level(logging.DEBUG, logger="vdatrain")
    told, out = Told(), tmp_path / "out"
    top = server.url.replace("//", f"//user:{SECRET}@")
    token = f"?token={SECRET}"
    raw, shards = f"{top}/raw{token}", f"{top}/shards/tartanair{token}"
    small = ("--out", out / "shards", "--workers", 1, "--clip-frames", 4)

    # What works. The archive that is none is among the rejections, by its name.
    told(vdaprep, "plan", "tartanair", "--raw", raw, "--out", out / "shards")
    assert "broken.zip" in told(vdaprep, "convert", "tartanair", "--raw", raw, *small)
    told(vdaprep, "convert", "tartanair", "--raw", f"{top}/raw/level.zip{token}, {top}/raw/broken.zip{token}", *small)
    assert "/raw/broken.zip" in (out / "shards/tartanair/dataset.json").read_text()
    told(vdaprep, "verify", shards, "--deep")
    told(vdaprep, "verify", shards, "--json")
    told(vdaprep, "stats", shards)
    told(vdaprep, "inspect", f"{top}/shards/tartanair/train/shard-0001.tar{token}", "--json")
    told(vdaprep, "export", shards, "--out", out / "frames")
    cache = ("--cache", out / "cache", "--cache-size", "1GB", "--cache-free", "1MB")
    told(vdatrain, "run", "--shards", shards, "--out", out / "run", *cache, *SMALL)
    told(vdatrain, "run", "--shards", shards, "--out", out / "run", "--resume")
    told(vdatrain, "eval", "--shards", shards, "--checkpoint", out / "run/best.pt", "--workers", 1)

    # What fails: nothing there, nothing let through, nothing that answers, nothing that can be written to.
    told(vdaprep, "convert", "tartanair", "--raw", f"{top}/none{token}", *small, code=1)
    told(vdaprep, "convert", "tartanair", "--raw", f"{top}/raw/broken.zip{token}", *small, code=1)
    told(vdaprep, "convert", "tartanair", "--raw", raw, "--out", f"{top}/shards{token}", code=2)
    told(vdaprep, "convert", "tartanair", "--raw", raw, "--out", f"s3://user:{SECRET}@bucket/a", code=2)
    told(vdaprep, "repair", "tartanair", "--out", f"s3://bucket/a{token}", code=2)
    told(vdaprep, "verify", f"{top}/none{token}", code=1)
    told(vdaprep, "inspect", f"{top}/none.tar{token}", code=1)
    told(vdatrain, "run", "--shards", f"{top}/none{token}", "--out", out / "other", *SMALL, code=1)
    for fault in (403, 500):
        server.faults["shard-0001.tar"] = server.faults["level.zip"] = [fault]
        told(vdaprep, "convert", "tartanair", "--raw", raw, "--out", out / "again", "--workers", 1, code=1)
        told(vdaprep, "stats", shards, code=1)
        told(vdatrain, "run", "--shards", shards, "--out", out / f"run-{fault}", *SMALL, code=1)

    assert "/raw" in told.text
    assert SECRET not in told.text
    assert [record for record in caplog.records if SECRET in record.getMessage()] == []
    assert holding(out) == []
    assert any(out.rglob("events*"))
    assert holding(tmp_path / "out") == []


def test_the_search_would_notice(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"..S3CRET..")
    (tmp_path / f"{SECRET}.txt").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"..")
    assert len(holding(tmp_path)) == 2
