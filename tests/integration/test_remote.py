"""Raw data behind URLs: what is fetched of it, and servers that are not what they should be."""

import http.server
import shutil
import socket
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import tree_bytes, write_raw
from vdaprep.errors import DataError, FrameError
from vdaprep.raw.tree import Reader, open_tree
from vdaprep.storage import retry
from vdaprep.storage.retry import RetryPolicy

LENGTHS = {f"abandonedfactory/Easy/P00{i}": 6 for i in range(4)}


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on loopback, in ranges, and counts; `faults` are answers to give first, by path."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.sent: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.faults: dict[str, list[int]] = {}
        self.ranges = True
        self.lists = True


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.server.folder / self.path.partition("?")[0].strip("/")
        self.server.requests[self.command] += 1
        faults = self.server.faults.get(path.name)
        if body and faults:
            self.reply(faults.pop(0), b"", {})
        elif path.is_dir() and self.server.lists:
            names = [item.name + "/" * item.is_dir() for item in path.iterdir()]
            self.reply(
                200, "".join(f'<a href="{name}">{name}</a>' for name in names).encode(), {"Content-Type": "text/html"}
            )
        elif path.is_file():
            self.file(path.read_bytes(), body=body)
        else:
            self.reply(404, b"", {})

    def file(self, data: bytes, *, body: bool) -> None:
        asked = self.headers.get("Range")
        if asked is None or not self.server.ranges:
            self.reply(200, data if body else b"", {"Content-Length": str(len(data))})
            return
        start, stop = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        part = data[start : stop + 1]
        self.server.sent[self.path.strip("/")] += len(part)
        self.reply(206, part, {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"})

    def reply(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty folder on a server."""
    monkeypatch.setattr(retry, "POLICY", RetryPolicy(waits_s=(0.01, 0.01)))
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def pack_level(root: Path, out: Path) -> None:
    """Pack a level as TartanAir is packed: one zip of images, one of depth, the poses in both."""
    for kind, other in (("image", "depth"), ("depth", "image")):
        with zipfile.ZipFile(out / f"{kind}_left.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(root.rglob("*.*")):
                if f"{other}_left" not in path.parts:
                    file.write(path, path.relative_to(root).as_posix())


@pytest.mark.slow
@pytest.mark.parametrize("listed", [True, False])
def test_of_zips_on_a_server_only_what_is_needed_is_fetched(
    listed: bool, server: Server, vdaprep, tmp_path: Path
) -> None:
    raw = write_raw(tmp_path / "raw", lengths=LENGTHS)
    pack_level(raw.root, server.folder)
    names = ("image_left.zip", "depth_left.zip")
    server.lists = listed
    url = f"{server.url}/" if listed else ",".join(f"{server.url}/{name}" for name in names)
    options = ("--select", "*/P002", "--workers", 1)
    for out, root in (("local", raw.root), ("remote", url)):
        result = vdaprep("convert", "tartanair", "--raw", root, "--out", tmp_path / out, *options)
        assert (result.code, result.err) == (0, "")
    assert tree_bytes(tmp_path / "local") == tree_bytes(tmp_path / "remote")
    # When this was written: 66,244 of 247,197 bytes fetched, 58,703 of them the members' own, in 23 requests.
    size = sum((server.folder / name).stat().st_size for name in names)
    fetched = sum(server.sent.values())
    needed = 0
    for name in names:
        with zipfile.ZipFile(server.folder / name) as file:
            needed += sum(info.compress_size for info in file.infolist() if "P002" in info.filename)
    assert fetched < 0.4 * size
    assert fetched < needed + 40_000


@pytest.mark.slow
def test_two_processes_read_from_a_server(server: Server, vdaprep, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths=LENGTHS)
    pack_level(raw.root, server.folder)
    for out, root in (("local", raw.root), ("remote", f"{server.url}/")):
        arguments = ("--raw", root, "--out", tmp_path / out, "--workers", 2, "--frames-per-shard", 12)
        assert vdaprep("convert", "tartanair", *arguments).code == 0
    assert tree_bytes(tmp_path / "local") == tree_bytes(tmp_path / "remote")


def test_loose_files_and_folders_on_a_server(server: Server) -> None:
    (server.folder / "env" / "Easy").mkdir(parents=True)
    (server.folder / "env" / "Easy" / "a.png").write_bytes(b"loose")
    with zipfile.ZipFile(server.folder / "env" / "z.ZIP", "w") as file:
        file.writestr("Easy/b.png", b"zipped")
        file.writestr("Easy/a.png", b"loose")
    tree = open_tree(f"{server.url}/env/")
    assert sorted(tree.files) == ["Easy/a.png", "Easy/b.png"]
    assert str(tree.files["Easy/b.png"]) == f"{server.url}/env/z.ZIP: Easy/b.png"
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["Easy/a.png"]) == b"loose"
        assert reader.read(tree.files["Easy/b.png"]) == b"zipped"


@pytest.mark.slow
def test_shards_on_a_server_are_verified(server: Server, vdaprep, toy_shards: Path) -> None:
    shutil.copytree(toy_shards, server.folder, dirs_exist_ok=True)
    for options in ((), ("--deep",)):
        here, there = vdaprep("verify", toy_shards, *options), vdaprep("verify", f"{server.url}/", *options)
        assert (there.code, there.err, there.out) == (0, "", here.out)
    tar = f"{server.url}/tartanair/train/shard-0001.tar"
    assert vdaprep("inspect", tar).code == 0
    server.faults["shard-0001.tar"] = [403]
    result = vdaprep("verify", tar, "--deep")
    assert result.code == 1
    assert f"{tar}: cannot be read (the server says 403" in result.err
    server.faults["shard-0001.tar"] = [503]
    assert vdaprep("verify", tar, "--deep").code == 0
    server.faults["shard-0001.tar"] = [500] * 3
    result = vdaprep("verify", tar, "--deep")
    assert (result.code, result.out) == (1, "")
    assert "shard-0001.tar: the server does not answer" in result.err
    assert "shards are kept" not in result.err  # a reader has made none
    result = vdaprep("repair", "tartanair", "--out", server.url)
    assert result.code == 2
    assert "/tartanair: cannot be written to; expected a folder, or a URL like s3://bucket/folder." in result.err


# ---------------------------------------------------------------------------------------------------------- bad input


def test_what_is_not_on_the_server_is_one_sentence(server: Server, vdaprep, tmp_path: Path) -> None:
    for url, sentence in (
        (f"{server.url}/none/", "/none/: the server lists no files there; give the URLs of the archives themselves"),
        (f"{server.url}/", "the server lists no files there; give the URLs of the archives themselves"),
        (f"{server.url}/none.zip", "none.zip cannot be opened as an archive (there is no such file)"),
        ("nonsense://host/x/", "nonsense://host/x/: cannot be read or written; expected a folder, or a URL like https"),
    ):
        result = vdaprep("convert", "tartanair", "--raw", url, "--out", tmp_path)
        assert result.code == (2 if url.startswith("nonsense") else 1)
        assert result.err.count("\n") == 1
        assert sentence in result.err


def test_a_server_that_is_not_there(server: Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody else can listen there
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.zip"
        with pytest.raises(DataError, match=r"^http.*/a.zip: the server does not answer: .*; it was asked 3 times\.$"):
            open_tree(url)


def test_a_server_that_takes_too_long(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "POLICY", RetryPolicy(answer_s=0.1, waits_s=()))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip"
        with pytest.raises(DataError, match=r"/a.zip: the server does not answer"):
            open_tree(url)


def zipped(server: Server) -> str:
    with zipfile.ZipFile(server.folder / "a.zip", "w") as file:
        file.writestr("a.png", b"a" * 5000)
    return f"{server.url}/a.zip"


def test_a_url_with_a_query(server: Server) -> None:
    tree = open_tree(f"{zipped(server)}?download=true")
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["a.png"]) == b"a" * 5000


def test_a_busy_server_is_asked_again(server: Server) -> None:
    tree = open_tree(zipped(server))
    server.faults["a.zip"] = [503, 429]
    with Reader(tree.root) as reader:
        assert reader.read(tree.files["a.png"]) == b"a" * 5000
    assert server.faults["a.zip"] == []


def test_a_failing_server_ends_the_conversion_and_rejects_no_frame(server: Server) -> None:
    tree = open_tree(zipped(server))
    server.faults["a.zip"] = [500] * 3
    advice = r"the server does not answer: .* finished shards are kept: run the same command again\.$"
    with Reader(tree.root) as reader, pytest.raises(DataError, match=advice) as caught:
        reader.read(tree.files["a.png"])
    assert not isinstance(caught.value, FrameError)


def test_a_file_that_went_away_or_is_refused_costs_its_frames(server: Server) -> None:
    tree = open_tree(zipped(server))
    for status, sentence in ((404, "is missing"), (403, "cannot be read .the server says 403")):
        server.faults["a.zip"] = [status]
        with Reader(tree.root) as reader, pytest.raises(FrameError, match=rf"a.zip: a.png: {sentence}"):
            reader.read(tree.files["a.png"])


def test_a_server_without_ranges_is_told_of(server: Server) -> None:
    url = zipped(server)
    server.ranges = False
    [problem] = open_tree(url).problems
    assert problem.reason.startswith("cannot be opened as an archive (")
    assert "range requests" in problem.reason


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("env%20one/0.png", "env one/0.png"),
        ("caf%C3%A9/0.png", "caf\u00e9/0.png"),
        ("cafe%CC%81/0.png", "caf\u00e9/0.png"),
        ("100%25/0%23.png", "100%/0#.png"),
        ("a+b/0.png", "a+b/0.png"),
        ("rgb%5C0.png", "rgb/0.png"),
    ],
)
def test_loose_files_of_a_server_have_the_names_that_urls_stand_for(
    place: str, path: str, ranges: bool, server: Server
) -> None:
    (server.folder / "data" / place).parent.mkdir(parents=True)  # this server's files have names as URLs have them
    (server.folder / "data" / place).write_bytes(b"data")
    tree = open_tree(f"{server.url}/data/")
    server.ranges = ranges
    assert (list(tree.files), tree.problems) == ([path], ())
    with Reader(tree.root) as reader:
        assert reader.read(tree.files[path]) == b"data"


def test_a_name_of_a_server_that_leads_elsewhere_is_named(server: Server) -> None:
    (server.folder / "data").mkdir()
    (server.folder / "data" / "..%2F..%2Fevil.png").write_bytes(b"")
    tree = open_tree(f"{server.url}/data/")
    [problem] = tree.problems
    assert (tree.files, "leads out" in problem.reason) == ({}, True)


def test_a_gzip_on_a_server_is_told_of(server: Server) -> None:
    (server.folder / "a.tar.gz").write_bytes(b"\x1f\x8b" * 99)
    [problem] = open_tree(f"{server.url}/a.tar.gz").problems
    assert "a tar.gz cannot be read in parts from a server; download it first" in problem.reason
