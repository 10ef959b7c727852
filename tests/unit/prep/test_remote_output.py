"""Shards that go to an S3 server, and raw data that comes from one: the same bytes as on a disk, and one writer."""

import json
import socket
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from tests.conftest import Outcome, Run, tree_bytes, write_raw
from tests.unit.prep.conftest import Bucket
from vdaprep.errors import OutputError, UsageError
from vdaprep.storage import lease, remote_output, stores
from vdaprep.storage.lease import Lease
from vdaprep.storage.output import open_output, write_file
from vdaprep.storage.remote_output import RemoteOutput
from vdaprep.storage.stores import PART_BYTES, Digest, Store

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
    other = vdaprep(*convert, "--out", f"{bucket.url}/deep/shards", "--jpeg-quality", 80)
    assert other.code == 2
    assert f"{bucket.url}/deep/shards/tartanair/dataset.json: was made with jpeg_quality = 95" in other.err


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


def test_what_a_block_that_fails_wrote_is_nowhere(bucket: Bucket) -> None:
    output = RemoteOutput(f"{bucket.url}/x")
    with pytest.raises(ValueError, match="no more"), output.new_file("train/shard-0001.tar") as file:
        file.write(b"half")
        raise ValueError("no more")
    assert output.names() == []
    write_file(output, "train/shard-0001.tar", b"whole")
    assert (output.names(), output.size("train/shard-0001.tar")) == (["train/shard-0001.tar"], 5)
    assert output.read("train/shard-0001.tar") == b"whole"
    output.delete("train/shard-0001.tar")
    assert output.size("train/shard-0001.tar") is None
    with pytest.raises(FileNotFoundError):
        output.read("train/shard-0001.tar")


def test_large_objects_go_in_parts_and_are_compared(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError("the sums that S3 tells should have been enough")

    monkeypatch.setattr(Store, "_read_back", unexpected)
    output = RemoteOutput(bucket.url)
    for size in (PART_BYTES, 2 * PART_BYTES, 2 * PART_BYTES + 5):
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        write_file(output, "a/shard-0001.tar", data)
        assert output.size("a/shard-0001.tar") == size
    assert bucket.objects("a") == {"shard-0001.tar": data}
    etag = bucket.client.head_object(Bucket=bucket.name, Key="a/shard-0001.tar")["ETag"]
    digest = Digest()
    digest.update(data)
    assert etag.strip('"') == digest.etags[1]


def test_an_object_that_is_not_what_was_sent_is_sent_again_and_then_told_of(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(bucket.url)
    sent: list[str] = []
    real = store._files.put_file

    def damaged(local: str, path: str, **options: Any) -> None:
        sent.append(path)
        real(local, path, **options)
        if len(sent) < damaged_times:
            bucket.put(path.partition("/")[2], b"daMaged")

    monkeypatch.setattr(store._files, "put_file", damaged)
    for damaged_times, count in ((2, 2), (9, 3)):
        sent.clear()
        output = RemoteOutput(bucket.url)
        if damaged_times < 9:
            write_file(output, "dataset.json", b"damaged")
            assert output.read("dataset.json") == b"damaged"
        else:
            with pytest.raises(OutputError, match=r"/dataset.json: was stored 3 times, and is never what was sent"):
                write_file(output, "dataset.json", b"damaged")
        assert len(sent) == count


def test_sums_that_are_not_md5_make_it_read_back(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digest, "etags", ("", ""))  # as of objects that S3 encrypts with a key of its own
    write_file(RemoteOutput(bucket.url), "dataset.json", b"data")
    monkeypatch.setattr(Digest, "whole", "something else")
    with pytest.raises(OutputError, match="never what was sent"):
        write_file(RemoteOutput(bucket.url), "dataset.json", b"data")


def test_uploads_that_never_ended_are_forgotten_and_strangers_are_left(bucket: Bucket) -> None:
    for key in ("out/train/shard-0001.tar", "out/notes.txt", "elsewhere/train/shard-0001.tar"):
        upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
        bucket.client.upload_part(
            Bucket=bucket.name, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"a part"
        )
    with RemoteOutput(f"{bucket.url}/out").lock():
        left = bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert sorted(item["Key"] for item in left) == ["elsewhere/train/shard-0001.tar", "out/notes.txt"]


def test_the_spool_keeps_to_the_floor(bucket: Bucket) -> None:
    output = RemoteOutput(bucket.url, min_free=1 << 60)
    with pytest.raises(OutputError, match=r"--min-free keeps"):
        write_file(output, "dataset.json", b"data")
    assert output.names() == []


def test_stores_that_cannot_be_written_to_are_a_sentence(bucket: Bucket, vdaprep: Run, raw, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for out, code, sentence in (
            (f"{bucket.url}-none", 1, "the store refuses (The specified bucket does not exist); make the bucket"),
            ("https://example.invalid/shards", 2, "cannot be written to; expected a folder, or a URL like s3://"),
            ("nonsense://shards", 2, "Protocol not known: nonsense"),
        ):
            result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", out, "--workers", 1)
            assert (result.code, result.err.count("\n")) == (code, 1)
            assert sentence in result.err


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert open_output(f"file://{tmp_path}").place() == str(tmp_path)


def test_any_store_will_do() -> None:
    output = RemoteOutput("memory://shards/tartanair")
    try:
        with output.lock():
            write_file(output, "train/shard-0001.tar", b"tar")
            with pytest.raises(UsageError, match="another vdaprep is writing there"), output.lock():
                pass
        assert output.names() == ["train/shard-0001.tar"]
        assert output._store().names() == output.names()
    finally:
        fsspec.filesystem("memory").rm("/shards", recursive=True)


# -------------------------------------------------------------------------------------------------------------- lease


def test_one_writer_or_several_parts(bucket: Bucket) -> None:
    output = RemoteOutput(f"{bucket.url}/out")
    with output.lock():
        for part, sentence in (
            (None, "another vdaprep is writing there, process"),
            ("1-of-2", "a whole conversion is"),
        ):
            with pytest.raises(UsageError, match=sentence), RemoteOutput(output.url).lock(part=part):
                pass
    with output.lock(part="1-of-2"), output.lock(part="2-of-2"):
        with pytest.raises(UsageError, match="part 1-of-2 is being written"), output.lock():
            pass
        with pytest.raises(UsageError, match="another vdaprep is writing there"), output.lock(part="1-of-2"):
            pass
    assert bucket.objects("out") == {}


def stranger(**changes: Any) -> bytes:
    process = {"machine": "another", "start": "1"}
    value = {"vdaprep": 1, "token": "t", "time": time.time(), "host": "elsewhere", "pid": 77, "process": process}
    return json.dumps({**value, **changes}).encode()


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(bucket: Bucket) -> None:
    output = RemoteOutput(bucket.url)
    bucket.put("vdaprep.lock", stranger(pid=2**22 + 1, process={"machine": lease._machine(), "start": "1"}))
    bucket.put("vdaprep.lock-1-of-2", stranger(pid=1, process={"machine": lease._machine(), "start": "-1"}))
    with output.lock():
        assert json.loads(bucket.client.get_object(Bucket=bucket.name, Key="vdaprep.lock")["Body"].read())["pid"] > 1
    assert Store(bucket.url).names() == []


def test_a_lease_of_another_machine_is_taken_over_when_nothing_is_heard_of_it(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_700_000_000.0
    beats = iter([stranger(time=now - 999)])

    def watch(seconds: float) -> None:
        nonlocal now
        now += seconds
        for beat in beats:
            bucket.put("vdaprep.lock", beat)

    clock = SimpleNamespace(time=lambda: now, sleep=watch, monotonic=time.monotonic)
    monkeypatch.setattr(lease, "time", clock)
    output = RemoteOutput(bucket.url)
    bucket.put("vdaprep.lock", stranger(time=now - 10))
    with pytest.raises(UsageError, match=r"process 77 on elsewhere, heard of 10 s ago; wait for it"), output.lock():
        pass
    bucket.put("vdaprep.lock", stranger(time=now - 1000))  # clocks that differ
    with pytest.raises(UsageError, match=f"heard of {999 + lease.WATCH_S:.0f} s ago"), output.lock():
        pass
    with output.lock():
        pass
    assert Store(bucket.url).names() == []


def test_of_two_that_take_over_one_succeeds(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(bucket.url)
    bucket.put("x", b"old")
    real = store._files.pipe_file

    def late(path: str, data: bytes, **options: Any) -> None:
        bucket.put("x", b"rival")  # after this one looked, before it wrote
        real(path, data, **options)

    monkeypatch.setattr(store._files, "pipe_file", late)
    assert not store.replace("x", b"old", b"mine")
    assert store.read("x") == b"rival"
    bucket.delete("x")
    assert not store.create("x", b"mine")
    assert store.read("x") == b"rival"


def wait_for(condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


def test_a_lease_is_renewed_and_its_loss_ends_the_run(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    output = RemoteOutput(bucket.url)
    with pytest.raises(OutputError, match="another vdaprep has taken over the right to write there"), output.lock():
        held = remote_output._held[bucket.url, "vdaprep.lock"]
        first = output.read("vdaprep.lock")
        wait_for(lambda: output.read("vdaprep.lock") != first)
        write_file(output, "train/shard-0001.tar", b"tar")
        rival = stranger()
        bucket.put("vdaprep.lock", rival)
        wait_for(lambda: held._lost)
        write_file(output, "train/shard-0002.tar", b"tar")
    assert output.names() == ["train/shard-0001.tar"]
    assert output.read("vdaprep.lock") == rival


def test_a_store_that_is_away_for_long_ends_the_run(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    mine = Lease(Store(bucket.url), "vdaprep.lock", place="there")
    mine.acquire()

    def away(*_: object) -> bool:
        raise OutputError("the server does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(stores.Store, "replace", away)
        mine.expect_held()
        patch.setattr(lease, "STALE_S", 0.3)
        wait_for(lambda: mine._lost)
        with pytest.raises(OutputError, match=r"could not be renewed \(the server does not answer\)"):
            mine.expect_held()
    mine.release()


def test_what_is_no_lease_is_not_touched(bucket: Bucket) -> None:
    for content in (b"", b"[]", b'{"vdaprep": 2}', b"\xff"):
        bucket.put("vdaprep.lock", content)
        with pytest.raises(UsageError, match="is not a lease of vdaprep"), RemoteOutput(bucket.url).lock():
            pass
        assert bucket.objects("vdaprep.lock") == {}
        assert Store(bucket.url).read("vdaprep.lock") == content
