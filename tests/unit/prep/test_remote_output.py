"""Shards that go to an S3 server, and raw data that comes from one: the same bytes as on a disk, and one writer."""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.conftest import Outcome, Run, tree_bytes, write_raw
from tests.unit.prep.conftest import Bucket
from vdaprep.errors import OutputError, UsageError
from vdaprep.shards.names import FINISHED_FILES
from vdaprep.storage import remote
from vdaprep.storage.output import open_output, write_file
from vdaprep.storage.paths import RemotePath
from vdaprep.storage.stores.objects import PART_BYTES, Digest, ObjectStore
from vdaprep.storage.stores.remote_output import RemoteOutput

pytestmark = pytest.mark.s3

LENGTHS = {"abandonedfactory/Easy/P000": 7, "abandonedfactory/Easy/P001": 5, "abandonedfactory/Easy/P011": 4}
OPTIONS = ("--frames-per-shard", 5, "--clip-frames", 5)


def succeeded(result: Outcome) -> None:
    assert (result.code, result.err) == (0, "")


# ------------------------------------------------------------------------------------------------------- conversions


def test_shards_on_a_server_are_those_on_a_disk_and_a_second_run_goes_on(
    bucket: Bucket, vdaprep: Run, tmp_path: Path
) -> None:
    raw = write_raw(tmp_path / "raw", lengths=LENGTHS)
    convert = ("convert", "tartanair", "--raw", raw.root, *OPTIONS)
    succeeded(vdaprep(*convert, "--out", tmp_path / "local", "--workers", 1))
    local = tree_bytes(tmp_path / "local")
    result = vdaprep(*convert, "--out", f"{bucket.url}/deep/shards", "--workers", 2)
    succeeded(result)
    assert f"{bucket.url}/deep/shards/tartanair: 16 frames in 4 clips, 4 shards" in result.out
    assert bucket.objects("deep/shards") == local

    bucket.delete("deep/shards/tartanair/train/shard-0002.json")
    bucket.delete("deep/shards/tartanair/dataset.json")
    again = vdaprep(*convert, "--out", f"{bucket.url}/deep/shards", "--workers", 1, "--json")
    events = [json.loads(line) for line in again.out.splitlines()]
    assert [event["name"] for event in events if event["event"] == "shard" and not event["earlier"]] == [
        "train/shard-0002.tar"
    ]
    assert bucket.objects("deep/shards") == local
    other = vdaprep(*convert, "--out", f"{bucket.url}/deep/shards", "--rgb", "jpeg:80")
    assert other.code == 2
    assert f"{bucket.url}/deep/shards/tartanair/dataset.json: was made with rgb = jpeg:95" in other.err


@pytest.mark.parametrize("packed", [False, True])
def test_raw_data_on_a_server(packed: bool, bucket: Bucket, vdaprep: Run, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={"abandonedfactory/Easy/P000": 4})
    files = tree_bytes(raw.root)
    if packed:
        with zipfile.ZipFile(tmp_path / "level.zip", "w") as file:
            for name, data in files.items():
                file.writestr(name, data)
        files = {"level.zip": (tmp_path / "level.zip").read_bytes()}
    for name, data in files.items():
        bucket.put(f"raw/{name}", data)
    for place, root in (("local", raw.root), ("remote", f"{bucket.url}/raw/")):
        succeeded(vdaprep("convert", "tartanair", "--raw", root, "--out", tmp_path / place, "--workers", 1))
    assert tree_bytes(tmp_path / "local") == tree_bytes(tmp_path / "remote")


def test_parts_on_a_server(bucket: Bucket, vdaprep: Run, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths=LENGTHS)
    convert = ("convert", "tartanair", "--raw", raw.root, *OPTIONS, "--workers", 1, "--out")
    succeeded(vdaprep(*convert, tmp_path / "local"))
    succeeded(vdaprep(*convert, bucket.url, "--part", "2/2"))
    early = vdaprep(*convert, bucket.url, "--finish")
    assert early.code == 2
    assert "2 of 4 shards are not there, the first train/shard-0001.tar; run the parts" in early.err
    succeeded(vdaprep(*convert, bucket.url, "--part", "1/2"))
    succeeded(vdaprep(*convert, bucket.url, "--finish"))
    assert bucket.objects("tartanair") == tree_bytes(tmp_path / "local" / "tartanair")


# ------------------------------------------------------------------------------------------------------------ objects


def out(bucket: Bucket, folder: str = "", *, min_free: int = 0) -> RemoteOutput:
    return RemoteOutput(RemotePath(f"{bucket.url}/{folder}".rstrip("/")), min_free=min_free)


def test_what_a_block_that_fails_wrote_is_nowhere(bucket: Bucket) -> None:
    output = out(bucket, "x")
    with pytest.raises(ValueError, match="no more"), output.new_file("train/shard-0001.tar") as file:
        file.write(b"half")
        raise ValueError("no more")
    assert output.names(*FINISHED_FILES) == []
    for name in ("train/shard-0001.tar", "deep/train/shard-0001.tar", "dataset.json", "notes.txt"):
        write_file(output, name, b"whole")
    assert output.names(*FINISHED_FILES) == ["dataset.json", "train/shard-0001.tar"]
    assert (output.size("train/shard-0001.tar"), output.read("train/shard-0001.tar")) == (5, b"whole")
    output.delete("train/shard-0001.tar")
    assert output.size("train/shard-0001.tar") is None
    with pytest.raises(FileNotFoundError):
        output.read("train/shard-0001.tar")


def test_large_objects_are_sent_in_parts_and_compared(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError("the sums that S3 tells should have been enough")

    monkeypatch.setattr(ObjectStore, "stream", unexpected)
    output = out(bucket)
    for size in (PART_BYTES, 2 * PART_BYTES, 2 * PART_BYTES + 5):
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        write_file(output, "a/shard-0001.tar", data)
        assert output.size("a/shard-0001.tar") == size
    assert bucket.objects("a") == {"shard-0001.tar": data}
    etag = bucket.client.head_object(Bucket=bucket.name, Key="a/shard-0001.tar")["ETag"]
    digest = Digest()
    digest.update(data)
    assert etag.strip('"') == digest.etags[1]


@pytest.mark.parametrize(("times", "sent"), [(1, 2), (9, 3)])
def test_an_object_that_is_not_what_was_sent_is_sent_again(
    times: int, sent: int, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = ObjectStore._put

    def damaged(self: ObjectStore, url: str, file: BinaryIO, size: int) -> None:
        calls.append(url)
        real(self, url, file, size)
        if len(calls) <= times:
            bucket.put("dataset.json", b"daMaged")

    monkeypatch.setattr(ObjectStore, "_put", damaged)
    output = out(bucket)
    if times < 3:
        write_file(output, "dataset.json", b"damaged")
        assert output.read("dataset.json") == b"damaged"
    else:
        with pytest.raises(OutputError, match=r"/dataset.json: was stored 3 times, and is never what was sent"):
            write_file(output, "dataset.json", b"damaged")
    assert len(calls) == sent


def test_sums_that_are_not_md5_make_it_read_back(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digest, "etags", ("", ""))  # as of objects that S3 encrypts with a key of its own
    write_file(out(bucket), "dataset.json", b"data")
    monkeypatch.setattr(Digest, "whole", "something else")
    with pytest.raises(OutputError, match="never what was sent"):
        write_file(out(bucket), "dataset.json", b"data")


def test_the_local_copy_keeps_to_the_floor(bucket: Bucket) -> None:
    output = out(bucket, min_free=1 << 60)
    with pytest.raises(OutputError, match=r"--min-free keeps"):
        write_file(output, "dataset.json", b"data")
    assert output.names("*") == []


def test_stores_that_cannot_be_written_to_are_a_sentence(bucket: Bucket, vdaprep: Run, raw, tmp_path: Path) -> None:
    for place, code, sentence in (
        (f"{bucket.url}-none", 1, "the store refuses (The specified bucket does not exist); make the bucket"),
        ("https://example.invalid/shards", 2, "cannot be written to; expected a folder, or a URL like s3://"),
        ("nonsense://shards", 2, "cannot be read or written; expected a folder, or a URL"),
    ):
        result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", place, "--workers", 1)
        assert (result.code, result.err.count("\n")) == (code, 1)
        assert sentence in result.err


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert open_output(f"file://{tmp_path}").place() == str(tmp_path)


# --------------------------------------------------------------------------------------------------------------- locks


def test_one_writer_or_several_parts(bucket: Bucket) -> None:
    output = out(bucket, "out")
    with output.lock():
        for part, sentence in (
            (
                None,
                f"another vdaprep is writing there .process {os.getpid()} of .*, since 20.* UTC.; wait",
            ),
            ("1-of-2", "a whole conversion is writing there"),
        ):
            with pytest.raises(UsageError, match=sentence), out(bucket, "out").lock(part=part):
                pass
    with output.lock(part="1-of-2"), output.lock(part="2-of-2"):
        with pytest.raises(UsageError, match=r"part 1-of-2 is writing there .*--break-lock\.$"), output.lock():
            pass
        with pytest.raises(UsageError, match="another vdaprep is writing there"), output.lock(part="1-of-2"):
            pass
    with pytest.raises(RuntimeError), output.lock():
        raise RuntimeError
    assert bucket.objects("out") == {}


def test_the_lock_of_a_dead_process_is_broken_on_demand(bucket: Bucket) -> None:
    output = out(bucket, "out")
    lock = {"owner": "anna", "host": "node7", "pid": 77, "time": "2026-11-28 18:00:00 UTC", "token": "t"}
    bucket.put("out/vdaprep.lock", json.dumps(lock).encode())
    by = r"another vdaprep is writing there \(process 77 of anna on node7, since 2026-11-28 18:00:00 UTC\)"
    with pytest.raises(UsageError, match=by), output.lock():
        pass
    with replace(output, break_lock=True).lock():
        assert json.loads(bucket.objects("out")["vdaprep.lock"])["pid"] == os.getpid()
    bucket.put("out/vdaprep.lock-1-of-2", b"no JSON")
    with (
        pytest.raises(UsageError, match=r"part 1-of-2 is writing there \(its lock does not say by"),
        output.lock(),
    ):
        pass
    with replace(output, break_lock=True).lock():
        assert [*bucket.objects("out")] == ["vdaprep.lock"]
    assert bucket.objects("out") == {}


def test_who_lost_the_lock_says_so_and_leaves_that_of_the_other(bucket: Bucket) -> None:
    output = out(bucket, "out")
    with pytest.raises(OutputError, match="another vdaprep broke this one's lock"), output.lock():
        bucket.put("out/vdaprep.lock", b"rival")
    assert bucket.objects("out") == {"vdaprep.lock": b"rival"}
    with pytest.raises(ValueError, match="first"), replace(output, break_lock=True).lock():
        bucket.put("out/vdaprep.lock", b"rival")
        raise ValueError("first")


def test_what_was_stored_though_the_answer_was_lost_is_ours(bucket: Bucket) -> None:
    store = remote.connect_store(bucket.url)
    assert store.create(f"{bucket.url}/x", b"mine")
    assert store.create(f"{bucket.url}/x", b"mine")
    assert not store.create(f"{bucket.url}/x", b"rival")


def test_convert_and_repair_name_the_holder_and_break_its_lock(bucket: Bucket, vdaprep: Run, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={"abandonedfactory/Easy/P000": 4})
    lock = {"owner": "anna", "host": "node7", "pid": 77, "time": "2026-11-28 18:00:00 UTC", "token": "t"}
    arguments = ("tartanair", "--raw", raw.root, "--out", f"{bucket.url}/out", "--workers", 1)
    for command in ("convert", "repair"):
        bucket.put("out/tartanair/vdaprep.lock", json.dumps(lock).encode())
        refused = vdaprep(command, *arguments)
        assert refused.code == 2
        assert "process 77 of anna on node7, since 2026-11-28 18:00:00 UTC" in refused.err
        succeeded(vdaprep(command, *arguments, "--break-lock"))
        assert "vdaprep.lock" not in bucket.objects("out/tartanair")
