"""One contract of paths, wherever a file lies: on a disk, behind a web server, in an object store."""

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving import CRAWL, DIE, STALL, Server, serve
from tests.unit.prep.conftest import Bucket
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.storage import http, retry
from vdaprep.storage.paths import (
    RemotePath,
    StoragePath,
    is_file,
    list_files,
    list_folders,
    open_path,
    open_paths,
    opened,
    read_bytes,
    read_range,
    size_of,
    stream,
)
from vdaprep.storage.range_reader import open_ranges, read_file
from vdaprep.storage.retry import RetryPolicy, UnreachableError
from vdaprep.storage.stores import objects
from vdaprep.storage.urls import redact, redact_within

DATA = np.random.default_rng(0).bytes(3_500_000)  # some of a stream's pieces
FILES = {"file.bin": DATA, "a/b/one.tar": b"one", "a/two.tar": b"two", "c/notes.txt": b"notes"}
# For servers that fail now and then, with time for the answers that come; and for those that do nothing else.
PATIENT = RetryPolicy(connect_s=30, answer_s=60, waits_s=(0.01, 0.01))
SOON = RetryPolicy(connect_s=3, answer_s=3, waits_s=(0.01, 0.01), least_bytes_per_s=10**7)
AT_ONCE = RetryPolicy(connect_s=0.1, answer_s=0.5, waits_s=(0.01, 0.01), least_bytes_per_s=10**7)


@pytest.fixture(autouse=True)
def policy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[RetryPolicy], None]]:
    """What is asked is asked of the server itself, no proxy, and with the patience that a busy machine needs."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http, "PIECE_BYTES", 1_000_000)
    monkeypatch.setattr(objects, "_PIECE_BYTES", 1_000_000)
    monkeypatch.setattr(retry, "POLICY", PATIENT)
    yield lambda wanted: monkeypatch.setattr(retry, "POLICY", wanted)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    for name, data in FILES.items():
        path = tmp_path / "served" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with serve(tmp_path / "served") as running:
        running.lists = True
        yield running


@pytest.fixture(params=["local", "http", "http with a token", pytest.param("s3", marks=pytest.mark.s3)])
def folder(request: pytest.FixtureRequest, server: Server) -> StoragePath:
    """The folder of FILES, wherever it lies."""
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        for name, data in FILES.items():
            bucket.put(f"deep/{name}", data)
        return open_path(f"{bucket.url}/deep/")
    if request.param == "http with a token":
        server.token = "S3CRET"
        return open_path(f"{server.url}/?token=S3CRET")
    return open_path(server.url if request.param == "http" else server.folder)


@pytest.fixture
def file(server: Server) -> StoragePath:
    return open_path(f"{server.url}/file.bin")


# ----------------------------------------------------------------------------------------------------------- contract


def test_a_file_reads_alike_wherever_it_lies(folder: StoragePath) -> None:
    file = folder / "file.bin"
    assert (file.name, file.suffix, file.parent.name) == ("file.bin", ".bin", folder.name)
    assert size_of(file) == len(DATA)
    assert file.read_bytes() == read_bytes(file) == DATA
    assert read_range(file, 1000, 2500) == DATA[1000:2500]
    assert read_range(file, len(DATA) - 5, len(DATA) + 5) == DATA[-5:]
    assert read_range(file, len(DATA), len(DATA) + 5) == b""
    assert b"".join(stream(file, len(DATA))) == DATA
    assert b"".join(stream(file, 2_000_000)) == DATA[:2_000_000]
    with opened(file, start=3, stop=9) as part:
        assert part.read(2) == DATA[3:5]
        part.seek(len(DATA) - 4)
        assert part.read() == DATA[-4:]


def test_a_folder_lists_alike_wherever_it_lies(folder: StoragePath) -> None:
    tars = list_files(folder, "*.tar")
    assert tars == [folder / "a" / "b" / "one.tar", folder / "a" / "two.tar"]
    assert [read_bytes(tar) for tar in tars] == [b"one", b"two"]
    assert list_files(folder, "*.txt", "two.*") == [tars[1], folder / "c" / "notes.txt"]
    assert list_files(folder, "*.json") == list_files(folder / "none", "*") == []
    assert list_folders(folder) == [folder / "a", folder / "c"]
    assert list_folders(folder / "a") == [folder / "a" / "b"]


def test_what_is_missing_is_missing_alike(folder: StoragePath) -> None:
    none = folder / "none.bin"
    assert is_file(folder / "file.bin")
    assert not is_file(none)
    for read in (read_bytes, size_of, lambda path: read_range(path, 0, 5), lambda path: list(stream(path, 5))):
        with pytest.raises(FileNotFoundError) as caught:
            read(none)
        assert caught.value.strerror
    with pytest.raises(ShardError, match=r"none\.bin: is missing\.$"), opened(none):
        pass


def test_ranges_read_alike_wherever_they_lie(folder: StoragePath) -> None:
    file = folder / "file.bin"
    name = str(file) if isinstance(file, Path) else file.url
    ranges = open_ranges(name)
    assert ranges.size == len(DATA)
    assert ranges.read(len(DATA) - 3, 9) == DATA[-3:]
    assert ranges.read(len(DATA), 9) == b""
    ranges.close()
    ranges.close()
    assert read_file(name) == DATA
    with pytest.raises(FileNotFoundError):
        open_ranges(name + "x" if isinstance(file, Path) else (file.parent / "none").url)


# --------------------------------------------------------------------------------------------------------------- names


def test_a_path_shows_no_secrets_and_keeps_them() -> None:
    path = open_path("https://user:S3CRET@host:80/a/b/?token=S3CRET#S3CRET")
    assert isinstance(path, RemotePath)
    child = path / "c.tar"
    assert (str(child), repr(child)) == ("https://host:80/a/b/c.tar", "RemotePath('https://host:80/a/b/c.tar')")
    assert child.url == "https://user:S3CRET@host:80/a/b/c.tar?token=S3CRET#S3CRET"
    assert [str(folder) for folder in child.parents] == ["https://host:80/a/b", "https://host:80/a", "https://host:80"]
    assert "token=S3CRET" in child.with_name("d.json").url


def test_names_are_taken_apart_as_those_of_paths_are() -> None:
    tar = open_path("s3://bucket/a/train/shard-0001.tar")
    assert isinstance(tar, RemotePath)
    assert (tar.name, tar.suffix, tar.parent.name) == ("shard-0001.tar", ".tar", "train")
    assert tar.with_name("shard-0001.json") == tar.parent / "shard-0001.json"
    top = RemotePath("s3://bucket.tar")
    assert (top.parent, top.parents, top.suffix, top.name) == (top, [], "", "bucket.tar")
    assert open_path("s3://bucket/") == RemotePath("s3://bucket")
    assert open_path("file:///a/b") == Path("/a/b")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("one", ["one"]),
        ("a,b", ["a", "b"]),
        ("a, c/d,gone", ["a", "c/d", "gone"]),
        ("gone,lost", ["gone", "lost"]),
        ("x,y", ["x,y"]),  # a folder of this name is there
        ("a,x,y,b", ["a", "x,y", "b"]),
        ("gone,x,y", ["gone", "x,y"]),
        ("https://a/x,https://b/y,z,s3://c", ["https://a/x", "https://b/y,z", "s3://c"]),
        ("https://a/x, s3://c", ["https://a/x", "s3://c"]),
        ("https://h/a?list=1,2,https://h/b", ["https://h/a?list=1,2", "https://h/b"]),
        ("s3://c,a", ["s3://c", "a"]),
        ("x,y,s3://c/d,x,y,b", ["x,y", "s3://c/d", "x,y", "b"]),
        (Path("a,b"), ["a,b"]),
    ],
)
def test_commas_separate_places_but_not_names_that_are_there(
    text: str | Path, places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c/d", "x,y"):
        Path(name).mkdir(parents=True)
    found = [path.url if isinstance(path, RemotePath) else str(path) for path in open_paths(text)]
    assert found == places


@pytest.mark.parametrize("text", ["a,", ",a", "a,,b", "s3://c,", ",s3://c"])
def test_a_comma_without_a_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="has a comma with nothing before or behind it"):
        open_paths(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a,b/c", "a,b/c"),
        ("/data/user@host?x", "/data/user@host?x"),
        ("https://host:80/a@b/c", "https://host:80/a@b/c"),
        ("https://word@host?word", "https://host"),
        ("https://h/a?X-Amz-Signature=word,s3://word@bucket/b", "https://h/a,s3://bucket/b"),
        ("https://user:word@[::1/a", "https://[::1/a"),
    ],
)
def test_what_is_shown_of_urls_is_no_secret(text: str, shown: str) -> None:
    assert redact(text) == redact(shown) == shown


def test_urls_within_sentences_are_redacted() -> None:
    said = "Cannot connect to https://u:word@h:1/a?token=word now, nor s3://b/c#word"
    assert redact_within(said) == "Cannot connect to https://h:1/a now, nor s3://b/c"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("teapot://pot/a", r"^teapot://pot/a: cannot be read or written; expected a folder, or a URL like https://"),
        ("s3://key:S3CRET@bucket/a", r"^s3://bucket/a: has a user or a query in its URL, which s3:// knows nothing of"),
        ("http://host:99999999/a?token=S3CRET", r"^http://host:99999999/a: is no URL \("),
        ("https://[::1/a", r"^https://\[::1/a: is no URL \(Invalid IPv6 URL\)"),
        ("s3://bucket/a?token=S3CRET", r"^s3://bucket/a: has a user or a query in its URL"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_path(url).read_bytes()
    assert "S3CRET" not in str(caught.value)


def test_files_that_cannot_be_read_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"cannot be read \(is not a regular file\)\.$"):
        read_bytes(tmp_path)
    with pytest.raises(ShardError, match="is not a regular file"), opened(tmp_path):
        pass


# ----------------------------------------------------------------------------------------------------------- processes


def _read_elsewhere(file: StoragePath, results: Any) -> None:
    try:
        results.put(read_range(file, 10, 20))
    except UsageError as error:
        results.put(str(error))


def elsewhere(method: str, file: StoragePath) -> Any:
    """Read in another process, while this one has connections."""
    assert read_range(file, 10, 20) == DATA[10:20]
    context: Any = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    process = context.Process(target=_read_elsewhere, args=(pickle.loads(pickle.dumps(file)), results))
    process.start()
    process.join(120)
    # What was read, not how the process ended: on a busy machine obstore's own threads sometimes abort it at its exit.
    assert not results.empty(), process.exitcode
    return results.get()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.s3
def test_a_path_travels_to_other_processes(file: StoragePath, bucket: Bucket) -> None:
    assert elsewhere("fork", file) == DATA[10:20]
    bucket.put("file.bin", DATA)
    there = open_path(f"{bucket.url}/file.bin")
    assert elsewhere("spawn", there) == DATA[10:20]
    assert "start processes by spawn or forkserver" in elsewhere("fork", there)  # where obstore would hang


# ------------------------------------------------------------------------------------------------------------- servers


def test_a_range_is_one_request(server: Server, file: StoragePath) -> None:
    assert read_range(file, 0, 1_500_000) == DATA[:1_500_000]
    assert server.asked == {"file.bin": 1}


@pytest.mark.slow
def test_passing_faults_pass(server: Server, file: StoragePath, policy: Callable[[RetryPolicy], None]) -> None:
    policy(SOON)
    server.faults["file.bin"] = [500, DIE, None]
    assert read_range(file, 0, 2000) == DATA[:2000]
    server.faults["file.bin"] = [STALL, 429, None]
    assert read_bytes(file) == DATA


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [True, False])
def test_a_stream_goes_on_where_it_broke_off(
    server: Server, file: StoragePath, ranges: bool, policy: Callable[[RetryPolicy], None]
) -> None:
    policy(SOON)
    server.ranges = ranges
    server.faults["file.bin"] = [DIE, STALL, None]
    assert b"".join(stream(file, len(DATA))) == DATA
    assert sum(server.asked.values()) == 3
    assert server.asked["file.bin whole"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (STALL, "the server does not answer: .*; it was asked 3 times"),
        (DIE, "the server does not answer: .*; it was asked 3 times"),
        (CRAWL, "the server does not answer: .*; it was asked 3 times"),
        (503, "the server does not answer: 503 Service Unavailable; it was asked 3 times"),
        (404, "the server says 404 Not Found"),
        (403, "the server says 403 Forbidden"),
    ],
)
def test_lasting_faults_end_in_time(
    server: Server, file: StoragePath, fault: int | str, says: str, policy: Callable[[RetryPolicy], None]
) -> None:
    if fault in (STALL, CRAWL):  # for hours
        policy(AT_ONCE)
    server.faults["file.bin"] = [fault]
    reads: list[Callable[[], bytes]] = [lambda: read_range(file, 0, 2000), lambda: b"".join(stream(file, len(DATA)))]
    for read in reads[: 1 + (fault != CRAWL)]:
        with pytest.raises(OSError, match=says) as caught:
            read()
        assert caught.value.strerror
        kinds: dict[Any, type[OSError]] = {404: FileNotFoundError, 403: PermissionError}
        assert isinstance(caught.value, kinds.get(fault, UnreachableError))


def test_a_server_that_does_not_answer_is_no_fault_of_the_file(
    server: Server, file: StoragePath, policy: Callable[[RetryPolicy], None]
) -> None:
    """Verifying and converting end; they do not report a damaged shard or reject a frame."""
    server.faults["file.bin"] = [500]
    for read in (read_bytes, is_file):
        with pytest.raises(DataError, match=r"file.bin: the server does not answer: 500 .*; it was asked 3 times\.$"):
            read(file)
    with pytest.raises(DataError, match=r"the server does not answer: 500 .*; it was asked 3 times\.$"), opened(file):
        pass
    server.faults["file.bin"] = [403]
    with pytest.raises(ShardError, match=r"file.bin: cannot be read \(the server says 403 Forbidden\)\.$"):
        read_bytes(file)


@pytest.mark.s3
def test_servers_that_are_gone_show_no_secrets(monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))  # nobody else can listen there
        port = gone.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for url in (f"http://user:S3CRET@127.0.0.1:{port}/file.bin?token=S3CRET", "s3://gone/file.bin"):
            with pytest.raises(
                UnreachableError, match="the server does not answer: .*; it was asked 3 times"
            ) as caught:
                read_range(open_path(url), 0, 10)
            assert "S3CRET" not in str(caught.value)


def test_a_server_without_ranges_needs_a_cache(server: Server, file: StoragePath) -> None:
    server.ranges = False
    assert size_of(file) == len(DATA)
    with pytest.raises(OSError, match="sends no parts of files .no range requests.; download it first"):
        read_range(file, 5, 10)
    assert read_bytes(file) == DATA


def test_a_server_that_lists_nothing(server: Server) -> None:
    server.lists = False
    assert list_folders(open_path(server.url)) == list_files(open_path(server.url), "*") == []
    assert list_folders(open_path(f"{server.url}/file.bin")) == []


@pytest.mark.s3
def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    with pytest.raises(ShardError, match=r"-none: there is nothing there \(The specified bucket does not exist\)\.$"):
        list_files(open_path(f"{bucket.url}-none"), "*")
    with pytest.raises(FileNotFoundError):
        list_folders(open_path(f"{bucket.url}-none"))


@pytest.mark.s3
def test_keys_of_the_home_folder_are_used_where_the_environment_has_none(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text("[other]\naws_access_key_id = them\n[mine]\naws_access_key_id = me\n")
    (tmp_path / "config").write_text("[profile mine]\nregion = eu-west-1\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert objects._aws_profile() == {}
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert objects._aws_profile() == {"access_key_id": "me", "secret_access_key": "secret", "region": "eu-west-1"}
    bucket.put("x", b"data")
    monkeypatch.setattr(retry, "POLICY", replace(PATIENT, answer_s=61))  # connections of its own
    assert read_bytes(open_path(f"{bucket.url}/x")) == b"data"


def test_a_proxy_is_honoured(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers for a host that is not there."""
    monkeypatch.delenv("no_proxy")
    monkeypatch.setattr(retry, "POLICY", replace(PATIENT, answer_s=62))
    for name in ("NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    assert read_range(open_path("http://nowhere.invalid/file.bin"), 0, 9) == DATA[:9]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://nowhere.invalid")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert read_range(open_path("s3://a/two.tar"), 0, 9) == b"two"
    assert os.environ["http_proxy"] == server.url
