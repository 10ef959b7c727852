"""Shards in folders and behind URLs: the same index, the same windows, and servers that are not what they should be."""

import multiprocessing
import os
import pickle
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.serving import CRAWL, DIE, STALL, serve
from vdaprep.errors import DataError, ShardError, UsageError
from vdaprep.storage import requests, transports
from vdaprep.storage.paths import RemotePath, list_folders, open_paths, read_range, size_of, stream
from vdaprep.storage.requests import Patience, Requests
from vdatrain.data.index import fingerprint, read_index, splits_of
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import read_meta, read_window

PATIENT = Patience(connect_s=30, answer_s=60, waits_s=(0.01, 0.01))
# For servers that stall now and then, with time enough for the answers that come; and for those that do nothing else.
SOON = Patience(connect_s=3, answer_s=3, waits_s=(0.01, 0.01), least_bytes_per_s=10**7)
AT_ONCE = Patience(connect_s=0.1, answer_s=0.5, waits_s=(0.01, 0.01), least_bytes_per_s=10**7)
DATA = np.random.default_rng(0).bytes(3_500_000)  # some of a stream's pieces


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Whatever is asked is asked of the server itself, no proxy, and with the patience that a busy machine needs."""
    monkeypatch.setattr(requests, "PATIENCE", PATIENT)
    monkeypatch.setattr(transports, "PIECE_BYTES", 1_000_000)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.bin").write_bytes(DATA)
    with serve(tmp_path / "served") as running:
        yield running


@pytest.fixture
def file(server):
    return Requests(f"{server.url}/file.bin")


@pytest.fixture(scope="module")
def shards(toy_shards):
    with serve(toy_shards) as running:
        yield running


def _in_memory(folder, name):
    store = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/{name}/{path.relative_to(folder)}", path.read_bytes())
    return f"memory://{name}"


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["local", "http", "memory"])
def test_a_file_reads_alike_wherever_it_lies(server, kind):
    folders = {"local": str(server.folder), "http": server.url, "memory": _in_memory(server.folder, kind)}
    [folder] = open_paths(folders[kind])
    file = folder / "file.bin"
    assert file.name == "file.bin"
    assert size_of(file) == len(DATA)
    assert file.read_bytes() == DATA
    assert read_range(file, 1000, 2500) == DATA[1000:2500]
    assert read_range(file, len(DATA) - 10, len(DATA)) == DATA[-10:]
    assert b"".join(stream(file, len(DATA))) == DATA
    assert b"".join(stream(file, 2_000_000)) == DATA[:2_000_000]
    with pytest.raises(FileNotFoundError) as caught:
        read_range(folder / "nothing.bin", 0, 5)
    assert caught.value.strerror


def test_a_range_is_one_request(server, file):
    assert file.read_range(0, 1_500_000) == DATA[:1_500_000]
    assert server.asked == {"file.bin": 1}


def test_what_lies_beyond_the_end_is_not_there(file):
    assert file.read_range(len(DATA) - 5, len(DATA) + 5) == DATA[-5:]
    assert file.read_range(len(DATA), len(DATA) + 5) == b""


def test_a_folders_folders_are_listed_where_the_server_does(server):
    (server.folder / "b" / "c").mkdir(parents=True)
    (server.folder / "a").mkdir()
    assert list_folders(RemotePath(server.url)) == []
    server.lists = True
    assert [str(folder) for folder in list_folders(RemotePath(server.url))] == [f"{server.url}/a", f"{server.url}/b"]
    assert list_folders(RemotePath(f"{server.url}/file.bin")) == []
    assert list_folders(RemotePath(_in_memory(server.folder, "listed"))) == []
    fsspec.filesystem("memory").pipe_file("/listed/a/file.bin", DATA)
    assert [folder.name for folder in list_folders(RemotePath("memory://listed"))] == ["a"]


def test_a_path_shows_no_secrets_and_keeps_them():
    path = RemotePath("https://user:word@host:80/a/b/?token=abc")
    assert str(path / "c.tar") == "https://host:80/a/b/c.tar"
    assert (path / "c.tar").url == "https://user:word@host:80/a/b/c.tar?token=abc"
    assert (path / "c.tar").name == "c.tar"
    assert (RemotePath("s3://bucket") / "a" / "b").url == "s3://bucket/a/b"


@pytest.mark.parametrize("status", [403, 503])
def test_errors_show_no_secrets(server, status):
    server.faults["file.bin"] = [status]
    url = server.url.replace("//", "//user:word@")
    with pytest.raises(OSError, match=str(status)) as caught:
        Requests(f"{url}/file.bin?token=abc").read_range(0, 5)
    assert "word" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_commas_separate_urls_but_not_folders():
    urls = ["https://a/x", "https://b/y,z", "s3://c"]
    assert list(map(str, open_paths(",".join(urls)))) == urls
    assert list(map(str, open_paths(", ".join(urls)))) == urls
    assert open_paths("a,b/c") == [Path("a,b/c")]


def test_a_url_of_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match=r"^teapot://pot: cannot be read .* expected a folder, or a URL"):
        RemotePath("teapot://pot/a").read_bytes()


def _read_elsewhere(file, results):
    results.put(file.read_range(10, 20))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_path_travels_to_other_processes(file):
    assert file.read_range(10, 20) == DATA[10:20]  # connections are open when the process begins
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=_read_elsewhere, args=(pickle.loads(pickle.dumps(file)), results))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert results.get() == DATA[10:20]


# ------------------------------------------------------------------------------------------------------------- servers


def test_passing_faults_pass(server, file):
    file = replace(file, patience=SOON)
    server.faults["file.bin"] = [500, DIE, None]
    assert file.read_range(0, 2000) == DATA[:2000]
    server.faults["file.bin"] = [STALL, 429, None]
    assert file.read_bytes() == DATA


@pytest.mark.parametrize("ranges", [True, False])
def test_a_stream_goes_on_where_it_broke_off(server, file, ranges):
    file = replace(file, patience=SOON)
    server.ranges = ranges
    server.faults["file.bin"] = [DIE, STALL, None]
    assert b"".join(file.stream(len(DATA))) == DATA
    assert sum(server.asked.values()) == 3
    assert server.asked["file.bin whole"] == 1


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
def test_lasting_faults_end_in_time(server, file, fault, says):
    if fault in (STALL, CRAWL):  # for hours
        file = replace(file, patience=AT_ONCE)
    server.faults["file.bin"] = [fault]
    for read in (lambda: file.read_range(0, 2000), lambda: b"".join(file.stream(len(DATA))))[: 1 + (fault != CRAWL)]:
        with pytest.raises(OSError, match=says) as caught:
            read()
        assert caught.value.strerror
    assert isinstance(caught.value, {404: FileNotFoundError, 403: PermissionError}.get(fault, OSError))


def test_a_server_that_is_gone():
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))  # nobody else can listen there
        with pytest.raises(OSError, match="the server does not answer: Cannot connect"):
            Requests(f"http://127.0.0.1:{gone.getsockname()[1]}/file.bin").read_range(0, 10)


def test_a_server_without_ranges_needs_a_cache(server, file):
    server.ranges = False
    assert file.size() == len(DATA)
    with pytest.raises(OSError, match="sends no parts of files; give --cache a folder with room"):
        file.read_range(5, 10)
    assert file.read_bytes() == DATA


# --------------------------------------------------------------------------------------------------------------- index


def _plain(clips):
    return [(clip.dataset, clip.tar.name, clip.entry, clip.evaluation_max_m) for clip in clips]


def _bytes_of(sample):
    return [np.asarray(value).tobytes() for value in (sample.rgb, sample.depth_planes, sample.camera_to_world)]


@pytest.mark.parametrize("kind", ["listing server", "urls", "memory", "one data set"])
def test_the_index_of_a_url_is_that_of_the_folder(shards, toy_shards, kind):
    shards.lists = kind == "listing server"
    url = {
        "listing server": f"{shards.url}/",
        "urls": f"{shards.url}/beta,{shards.url}/alpha/",
        "memory": _in_memory(toy_shards, "toy"),
        "one data set": f"{shards.url}/alpha",
    }[kind]
    folder = toy_shards / "alpha" if kind == "one data set" else toy_shards
    local, far = read_index(folder, split="train"), read_index(url, split="train")
    assert _plain(far) == _plain(local)
    assert fingerprint(url) == fingerprint(folder)
    assert splits_of(url) == {"train"}
    window = Window(0, 2, 3, WindowShape(4))
    assert _bytes_of(read_window(far[2], window)) == _bytes_of(read_window(local[2], window))


def test_s3(toy_shards, monkeypatch):
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # of other tests' servers
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        store = fsspec.filesystem("s3")
        store.mkdir("bucket")
        store.put(str(toy_shards), "bucket/shards", recursive=True)
        local, far = read_index(toy_shards, split="train"), read_index("s3://bucket/shards", split="train")
        assert _plain(far) == _plain(local)
        assert fingerprint("s3://bucket/shards") == fingerprint(toy_shards)
        window = Window(0, 2, 3, WindowShape(4))
        assert _bytes_of(read_window(far[2], window)) == _bytes_of(read_window(local[2], window))
        size = local[0].tar.stat().st_size
        assert b"".join(stream(far[0].tar, size)) == local[0].tar.read_bytes()
        store.rm(str(far[0].tar))
        with pytest.raises(ShardError, match=r"shard-0001.tar: is missing, though dataset.json lists"):
            read_index("s3://bucket/shards", split="train")
        with pytest.raises(DataError, match=r"^s3://bucket/elsewhere: found no dataset.json"):
            read_index("s3://bucket/elsewhere", split="train")
    finally:
        moto.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # what is cached knows this server only


def test_a_server_that_lists_nothing_needs_the_data_sets_urls(shards):
    shards.lists = False
    with pytest.raises(DataError, match="found no dataset.json, neither here nor .* URL of each data set's folder"):
        read_index(shards.url, split="train")


@pytest.mark.parametrize(
    ("name", "fault", "error", "says"),
    [
        ("dataset.json", STALL, DataError, "cannot be read .the server does not answer"),
        ("dataset.json", 403, DataError, "cannot be read .the server says 403"),
        ("shard-0002.json", 404, ShardError, "shard-0002.json: is missing, though dataset.json lists"),
        ("shard-0002.tar", 404, ShardError, "shard-0002.tar: is missing, though dataset.json lists"),
        ("shard-0002.tar", STALL, ShardError, "shard-0002.tar: cannot be read .the server does not answer"),
    ],
)
def test_what_a_server_lacks_is_named(tmp_path, toy_shards, name, fault, error, says, monkeypatch):
    if fault == STALL:
        monkeypatch.setattr(requests, "PATIENCE", replace(SOON, waits_s=()))
    with serve(toy_shards) as server:
        server.faults[name] = [fault]
        with pytest.raises(error, match=says) as caught:
            read_index(f"{server.url}/alpha", split="train")
    assert str(caught.value).startswith(server.url)
    assert "\n" not in str(caught.value)


def test_what_differs_on_the_server_is_named(tmp_path, toy_shards):
    shutil.copytree(toy_shards / "alpha", tmp_path / "alpha")
    tar = tmp_path / "alpha" / "train" / "shard-0002.tar"
    os.truncate(tar, tar.stat().st_size - 512)
    with serve(tmp_path) as server:
        with pytest.raises(ShardError, match=r"shard-0002.tar: has \d+ bytes, its record says"):
            read_index(f"{server.url}/alpha", split="train")
        tar.with_suffix(".json").write_bytes(b"{}")
        with pytest.raises(ShardError, match=r"shard-0002.json: is not the record that dataset.json lists"):
            read_index(f"{server.url}/alpha", split="train")


@pytest.mark.parametrize("fault", [STALL, DIE, 500])
def test_a_server_that_fails_while_training_is_one_sentence(toy_shards, fault, monkeypatch):
    with serve(toy_shards) as server:
        clip = read_index(f"{server.url}/alpha", split="train")[0]
        read_meta.cache_clear()
        monkeypatch.setattr(requests, "PATIENCE", AT_ONCE if fault == STALL else PATIENT)
        server.faults["shard-0001.tar"] = [fault]
        with pytest.raises(ShardError, match=r"\(the server does not answer: .*; it was asked 3 times\)\.$") as caught:
            read_window(clip, Window(0, 0, 0, WindowShape(3)))
    where = f"{server.url}/alpha/train/shard-0001.tar"
    assert str(caught.value).startswith(f"{where}: cannot be read for clip {clip.entry.key} (")
    assert "\n" not in str(caught.value)
