"""The cache of shards: what is fetched once, what leaves and what never does, and processes that die or share it."""

import errno
import fcntl
import functools
import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.serving import DIE, STALL, serve
from vdaprep.errors import ShardError, UsageError
from vdaprep.shards import reader
from vdaprep.shards.dataset import open_shards
from vdaprep.storage import cache as cache_module
from vdaprep.storage import locks, retry
from vdaprep.storage.cache import CachedTar, ShardCache, open_cache
from vdaprep.storage.paths import open_paths
from vdaprep.storage.retry import RetryPolicy
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import read_window

SIZE = 300_000
PLENTY = 10**12


@pytest.fixture(autouse=True)
def unaffected(monkeypatch):
    """A proxy is none of these tests' business, nor is what was said before."""
    monkeypatch.setenv("no_proxy", "*")
    cache_module._warn_once.cache_clear()


def _plenty(_folder):
    return PLENTY


@pytest.fixture
def cache(tmp_path):
    return ShardCache(tmp_path / "cache", size=3 * SIZE, floor=0, wait_s=60, free=_plenty)


@pytest.fixture
def data(tmp_path):
    """The bytes of four files that stand for shards."""
    (tmp_path / "shards").mkdir()
    contents = [np.random.default_rng(number).bytes(SIZE) for number in range(4)]
    for number, content in enumerate(contents):
        (tmp_path / "shards" / f"shard-{number}.tar").write_bytes(content)
    return contents


def _shard(cache, data, number, folder):
    [place] = open_paths(str(folder))
    return CachedTar(cache, place / f"shard-{number}.tar", SIZE, hashlib.sha256(data[number]).hexdigest())


@pytest.fixture
def shards(cache, data, tmp_path):
    return [_shard(cache, data, number, tmp_path / "shards") for number in range(4)]


@pytest.fixture
def server(data, tmp_path):
    with serve(tmp_path / "shards") as running:
        yield running


def _held(cache):
    """The shards that a cache holds, by the start of their hash."""
    return {path.name.split("-")[1][:8] for path in cache.folder.glob("vdatrain-*.tar")}


def _names(*shards):
    return {shard.sha256[:8] for shard in shards}


def _used(cache, shard, *, seconds_ago):
    then = time.time() - seconds_ago
    os.utime(cache.folder / f"vdatrain-{shard.sha256}.entry", (then, then))


def _files(cache):
    return sorted(path.name.partition("-")[2].rpartition(".")[2] for path in cache.folder.iterdir())


# ----------------------------------------------------------------------------------------------------------- admission


def test_the_first_use_brings_the_whole_shard_and_later_ones_read_it(cache, shards, data):
    assert shards[0].read_range(10, 20) == data[0][10:20]
    shards[0].source.unlink()
    assert shards[0].read_range(0, SIZE) == data[0]
    assert _held(cache) == _names(shards[0])
    assert _files(cache) == ["entry", "lock", "tar"]


def test_a_server_is_asked_once(cache, data, server):
    shard = pickle.loads(pickle.dumps(_shard(cache, data, 0, server.url)))
    server.ranges = False
    for start in range(5):
        assert shard.read_range(start, start + 5) == data[0][start : start + 5]
    assert server.asked == {"shard-0.tar whole": 1}


def test_threads_fetch_a_shard_once(cache, data, server):
    server.delay_s = 0.2
    shard = _shard(cache, data, 0, server.url)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(shard.read_range(0, SIZE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [data[0]] * 8
    assert server.asked == {"shard-0.tar whole": 1}


READER = """
import sys
from pathlib import Path
from vdaprep.storage.cache import ShardCache, CachedTar
from vdaprep.storage.paths import RemotePath
folder, room, size, *shards = sys.argv[1:]
cache = ShardCache(Path(folder), int(room), 0, wait_s=120)
for url, sha256 in zip(shards[::2], shards[1::2]):
    shard = CachedTar(cache, RemotePath(url), int(size), sha256)
    sys.stdout.write(f"{len(shard.read_range(0, shard.size))}\\n")
"""


def _reader(cache, *shards):
    """Another process that reads shards through the cache."""
    arguments = [text for shard in shards for text in (shard.source.url, shard.sha256)]
    return subprocess.Popen(
        [sys.executable, "-c", READER, cache.folder, str(cache.size), str(SIZE), *arguments],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_fetch_a_shard_once(cache, data, server):
    server.delay_s = 0.5
    shards = [_shard(cache, data, number, server.url) for number in (0, 1)]
    readers = [_reader(cache, *shards), _reader(cache, *shards)]
    for process in readers:
        out, err = process.communicate(timeout=300)
        assert (out, err, process.returncode) == (f"{SIZE}\n{SIZE}\n", "", 0)
    assert server.asked == {"shard-0.tar whole": 1, "shard-1.tar whole": 1}


def test_a_process_killed_while_it_fetches_leaves_nothing_half(cache, data, server):
    server.faults["shard-0.tar"] = [STALL, None]
    shards = [_shard(cache, data, number, server.url) for number in range(4)]
    victim = _reader(cache, shards[0])
    deadline = time.monotonic() + 300
    while not server.asked["shard-0.tar whole"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert _held(cache) == set()
    assert "part" in _files(cache)
    # What it was about to bring counts for nobody, and whoever wants it goes on.
    for number in (1, 2, 3):
        shards[number].read_range(0, 1)
    assert _files(cache) == ["entry"] * 3 + ["lock"] + ["tar"] * 3
    assert shards[0].read_range(0, SIZE) == data[0]
    assert _names(shards[0]) <= _held(cache)


def test_what_a_killed_process_left_is_overwritten_by_the_next(cache, shards, data):
    cache.folder.mkdir()
    stem = f"vdatrain-{shards[0].sha256}"
    (cache.folder / f"{stem}.part").write_bytes(b"half")
    (cache.folder / f"{stem}.entry").write_bytes(b'{"bytes": 300000, "mti')
    assert shards[0].read_range(0, SIZE) == data[0]
    assert _files(cache) == ["entry", "lock", "tar"]


@pytest.mark.parametrize("what", ["other bytes", "cut", "longer"])
def test_only_what_the_data_set_lists_is_admitted(cache, shards, what):
    tar = shards[0].source
    other = {"other bytes": b"x" * SIZE, "cut": tar.read_bytes()[:-9]}.get(what)
    if other is None:
        with tar.open("ab") as file:
            file.write(b"more")  # the index compares sizes; here the listed bytes are all that count
        assert len(shards[0].read_range(0, SIZE + 9)) == SIZE
        return
    tar.write_bytes(other)
    with pytest.raises(ShardError, match=rf"the {len(other)} bytes that came have another SHA-256 than the {SIZE}"):
        shards[0].read_range(0, 5)
    assert _files(cache) == ["lock"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [STALL, DIE, 500, 404])
def test_a_server_that_fails_leaves_nothing(cache, data, server, fault, monkeypatch):
    monkeypatch.setattr(retry, "POLICY", RetryPolicy(connect_s=0.2, answer_s=0.6, waits_s=(0.01,)))
    server.faults["shard-0.tar"] = [fault] if fault != DIE else [DIE, STALL]
    with pytest.raises(OSError, match="the server"):
        _shard(cache, data, 0, server.url).read_range(0, 5)
    assert _files(cache) == ["lock"]


def test_who_stands_in_the_way_without_getting_anywhere_is_named(cache, shards, monkeypatch):
    shard, now_s = shards[0], 0.0
    cache.folder.mkdir()
    part = cache.folder / f"vdatrain-{shard.sha256}.part"

    def wait(_seconds, *, grows):
        """Let most of the time pass that is waited for one that does not get on; the lock is given back in the end."""
        nonlocal now_s
        now_s += 0.8 * cache.wait_s
        if grows:
            part.write_bytes(bytes(round(now_s)))
        if now_s > 5 * cache.wait_s:
            fcntl.flock(held, fcntl.LOCK_UN)

    clock = SimpleNamespace(monotonic=lambda: now_s, sleep=functools.partial(wait, grows=False))
    monkeypatch.setattr(locks, "time", clock)
    with (cache.folder / f"vdatrain-{shard.sha256}.entry").open("a+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=r"another process has locked .*entry for 60 s"):
            shard.read_range(0, 5)
        assert now_s < 2 * cache.wait_s
        clock.sleep = functools.partial(wait, grows=True)
        assert shard.read_range(0, 5) == shard.source.read_bytes()[:5]
        assert now_s > 5 * cache.wait_s


# ---------------------------------------------------------------------------------------------------------------- room


def test_the_least_recently_used_leaves_first(cache, shards):
    for number in (0, 1, 2):
        shards[number].read_range(0, 1)
        _used(cache, shards[number], seconds_ago=300 - 100 * number)
    shards[0].read_range(5, 6)  # now the latest
    shards[3].read_range(0, 1)
    assert _held(cache) == _names(shards[0], shards[2], shards[3])
    shards[1].read_range(0, 1)
    assert _held(cache) == _names(shards[0], shards[1], shards[3])


def test_what_is_being_read_stays(cache, shards, caplog):
    for number in (0, 1, 2):
        shards[number].read_range(0, 1)
        _used(cache, shards[number], seconds_ago=300 - 100 * number)
    with (cache.folder / f"vdatrain-{shards[0].sha256}.tar").open("rb") as reading:
        fcntl.flock(reading, fcntl.LOCK_SH)
        shards[3].read_range(0, 1)
        assert _held(cache) == _names(shards[0], shards[2], shards[3])
        small = ShardCache(cache.folder, SIZE, 0, wait_s=60, free=_plenty)
        shard = CachedTar(small, shards[1].source, SIZE, shards[1].sha256)
        assert shard.read_range(0, SIZE) == shard.source.read_bytes()
        assert _held(cache) == _names(shards[0])
    assert "has no room for more shards within 293.0 KiB, 0 B of the disk left free" in caplog.text


def test_other_files_are_neither_counted_nor_touched(cache, shards):
    cache.folder.mkdir()
    foreign = {name: os.urandom(2 * SIZE) for name in ("shard-0.tar", "vdatrain-abc.tar", "note.entry", "x.part")}
    for name, content in foreign.items():
        (cache.folder / name).write_bytes(content)
        os.utime(cache.folder / name, (1, 1))
    (cache.folder / "folder").mkdir()
    for _ in range(2):
        for shard in shards:
            shard.read_range(0, 1)
    assert len(list(cache.folder.glob("vdatrain-?????*.tar"))) == 3
    assert {name: (cache.folder / name).read_bytes() for name in foreign} == foreign
    assert all((cache.folder / name).stat().st_mtime == 1 for name in foreign)
    assert (cache.folder / "folder").is_dir()


def test_a_shard_without_room_is_read_where_it_lies_and_that_is_said_once(shards, data, tmp_path, caplog):
    small = ShardCache(tmp_path / "small", SIZE - 1, 0, free=_plenty)
    for _ in range(3):
        assert CachedTar(small, shards[0].source, SIZE, shards[0].sha256).read_range(5, 9) == data[0][5:9]
    assert _files(small) == ["lock"]
    assert caplog.text.count("has no room") == 1


def test_the_disk_keeps_its_free_room(cache, shards, data):
    free = [2 * SIZE + 7]

    def left(folder):
        return free[0] - sum(path.stat().st_size for path in folder.glob("vdatrain-*[tp]a*"))

    careful = ShardCache(cache.folder, PLENTY, 7, free=left)
    mine = [CachedTar(careful, shard.source, SIZE, shard.sha256) for shard in shards]
    for number in (0, 1):
        mine[number].read_range(0, 1)
        _used(cache, mine[number], seconds_ago=100 - number)
    mine[2].read_range(0, 1)
    assert _held(cache) == _names(mine[1], mine[2])
    free[0] = SIZE + 7  # others write, and there is a start
    careful.prepare()
    assert len(_held(cache)) == 1
    free[0] = SIZE // 2
    assert mine[3].read_range(5, 9) == data[3][5:9]
    assert len(_held(cache)) == 1  # to empty it would not have been enough


def test_a_disk_that_others_fill_meanwhile_is_not_filled_further(cache, shards, data, caplog):
    answers = iter([PLENTY, PLENTY])
    careful = ShardCache(cache.folder, cache.size, 10, free=lambda _: next(answers, 9))
    shard = CachedTar(careful, shards[0].source, SIZE, shards[0].sha256)
    assert shard.read_range(5, 9) == data[0][5:9]
    assert _files(cache) == ["lock"]
    assert "has no room for more shards" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_reason_to_stop(cache, shards, data, monkeypatch, number):
    def write(_piece):
        raise OSError(number, "full")

    real = ShardCache._write
    monkeypatch.setattr(ShardCache, "_write", lambda self, _, piece: real(self, write, piece))
    assert shards[0].read_range(5, 9) == data[0][5:9]
    assert _files(cache) == ["lock"]


def test_a_smaller_bound_holds_from_the_start(cache, shards):
    for number in (0, 1, 2):
        shards[number].read_range(0, 1)
        _used(cache, shards[number], seconds_ago=300 - 100 * number)
    ShardCache(cache.folder, SIZE, 0, free=_plenty).prepare()
    assert _held(cache) == _names(shards[2])


def test_room_is_promised_once(cache, shards, data, server):
    """Two that come at the same time do not both take the last room."""
    small = ShardCache(cache.folder, SIZE, 0, wait_s=60, free=_plenty)
    server.delay_s = 0.1
    mine = [_shard(small, data, number, server.url) for number in range(4)]
    most, before = [0], set()
    threads = [threading.Thread(target=shard.read_range, args=(0, 1)) for shard in mine]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        # By stem, as one may be renamed meanwhile; and only what is there twice running was there at the same time.
        found = {path.stem for path in small.folder.iterdir() if path.suffix in (".part", ".tar")}
        most.append(len(found & before))
        before = found
        time.sleep(0.01)
    assert max(most) == 1
    assert len(_held(small)) == 1


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("what", ["cut", "changed", "gone", "all gone"])
def test_an_entry_that_is_not_as_it_was_is_fetched_again(cache, shards, data, what):
    shards[0].read_range(0, 1)
    tar = cache.folder / f"vdatrain-{shards[0].sha256}.tar"
    match what:
        case "cut":
            stat = tar.stat()
            os.truncate(tar, SIZE - 1)
            os.utime(tar, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        case "changed":
            tar.write_bytes(b"x" * SIZE)
        case "gone":
            tar.unlink()
        case "all gone":
            shutil.rmtree(cache.folder)
    assert shards[0].read_range(0, SIZE) == data[0]
    assert _files(cache) == ["entry", "lock", "tar"]


def _rot(path, offset):
    """Change a byte behind the file system's back."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("where", ["frame", "metadata"])
def test_bits_that_rot_in_the_cache_are_fetched_again(cache, toy_shards, tmp_path, caplog, where):
    shutil.copytree(toy_shards / "alpha", tmp_path / "alpha")
    roomy = ShardCache(cache.folder, PLENTY, 0, free=_plenty)
    plain, clip = (open_shards(tmp_path / "alpha", cache=cache).clips(split="train")[0] for cache in (None, roomy))
    window = Window(0, 0, 3, WindowShape(4))
    whole = read_window(plain, window)
    read_window(clip, window)
    start, stop = clip.entry.frame_range(4, 1) if where == "frame" else clip.entry.meta_range()
    [tar] = [path for path in cache.folder.glob("*.tar") if clip.tar.sha256 in path.name]
    _rot(tar, (start + stop) // 2)
    reader.read_meta.cache_clear()
    assert bytes(read_window(clip, window).depth_bytes.numpy()) == bytes(whole.depth_bytes.numpy())
    assert "damaged, so it is fetched again" in caplog.text
    # If the source has changed as well there is nothing to be had.
    _rot(tar, (start + stop) // 2)
    _rot(plain.tar, (start + stop) // 2)
    reader.read_meta.cache_clear()
    with pytest.raises(ShardError, match=r"shard-0001.tar: the \d+ bytes that came have another SHA-256"):
        read_window(clip, window)


# --------------------------------------------------------------------------------------------------------------- index


def test_shards_that_do_not_fit_together_are_left_out_from_the_start(cache, toy_shards, caplog):
    tars = [clip.tar for clip in open_shards(toy_shards).clips(split="train")]
    sizes = [tar.stat().st_size for tar in dict.fromkeys(tars)]
    some = ShardCache(cache.folder, sum(sizes[:2]), 0, free=_plenty)
    clips = open_shards(toy_shards, cache=some).clips(split="train")
    cached = dict.fromkeys(str(clip.tar) for clip in clips if isinstance(clip.tar, CachedTar))
    assert list(cached) == list(map(str, dict.fromkeys(tars)))[:2]
    open_shards(toy_shards, cache=some).clips(split="train")
    said = caplog.text
    assert said.count("has no room for 2 of 4 shards") == 1
    for clip in clips:
        read_window(clip, Window(0, 0, 0, WindowShape(2)))
    assert len(_held(some)) == 2


def test_a_cache_is_made_from_options(tmp_path):
    assert open_cache(None, size="20GB", free="1GB") is None
    assert open_cache(str(tmp_path / "a" / "b"), size="20GB", free="500 mb") == ShardCache(
        tmp_path / "a" / "b", 20 * 10**9, 5 * 10**8
    )
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--cache .*file: cannot be used \(File exists\); expected a folder"):
        open_cache(str(tmp_path / "file"), size="1", free="0")
