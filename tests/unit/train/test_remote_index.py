"""The index of shards behind URLs: that of the folder, and what servers lack is named."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.serving import DIE, STALL, serve
from vdaprep.errors import DataError, ShardError
from vdaprep.shards import reader
from vdaprep.shards.dataset import open_shards
from vdaprep.storage import retry
from vdaprep.storage.retry import RetryPolicy
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import read_window

PATIENT = RetryPolicy(connect_s=30, answer_s=60, waits_s=(0.01, 0.01))
SOON = replace(PATIENT, connect_s=3, answer_s=3, least_bytes_per_s=10**7)
AT_ONCE = replace(PATIENT, connect_s=0.1, answer_s=0.5, least_bytes_per_s=10**7)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Whatever is asked is asked of the server itself, no proxy, and with the patience that a busy machine needs."""
    monkeypatch.setattr(retry, "POLICY", PATIENT)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def shards(toy_shards):
    with serve(toy_shards) as running:
        yield running


def _plain(clips):
    return [(clip.dataset, clip.tar.name, clip.entry, clip.evaluation_max_m) for clip in clips]


def _bytes_of(sample):
    return [np.asarray(value).tobytes() for value in (sample.rgb, sample.depth_bytes, sample.camera_to_world)]


@pytest.mark.parametrize("kind", ["listing server", "urls", "one data set"])
def test_the_index_of_a_url_is_that_of_the_folder(shards, toy_shards, kind):
    shards.lists = kind == "listing server"
    url = {
        "listing server": f"{shards.url}/",
        "urls": f"{shards.url}/beta,{shards.url}/alpha/",
        "one data set": f"{shards.url}/alpha",
    }[kind]
    folder = toy_shards / "alpha" if kind == "one data set" else toy_shards
    local, far = open_shards(folder).clips(split="train"), open_shards(url).clips(split="train")
    assert _plain(far) == _plain(local)
    assert open_shards(url).fingerprint == open_shards(folder).fingerprint
    assert open_shards(url).splits == ("train",)
    window = Window(0, 2, 3, WindowShape(4))
    assert _bytes_of(read_window(far[2], window)) == _bytes_of(read_window(local[2], window))


def test_a_server_that_lists_nothing_needs_the_data_sets_urls(shards):
    shards.lists = False
    with pytest.raises(DataError, match="found no dataset.json, neither here nor .* URL of each data set's folder"):
        open_shards(shards.url).clips(split="train")


@pytest.mark.slow
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
        monkeypatch.setattr(retry, "POLICY", replace(SOON, waits_s=()))
    with serve(toy_shards) as server:
        server.faults[name] = [fault]
        with pytest.raises(error, match=says) as caught:
            open_shards(f"{server.url}/alpha").clips(split="train")
    assert str(caught.value).startswith(server.url)
    assert "\n" not in str(caught.value)


def test_what_differs_on_the_server_is_named(tmp_path, toy_shards):
    shutil.copytree(toy_shards / "alpha", tmp_path / "alpha")
    tar = tmp_path / "alpha" / "train" / "shard-0002.tar"
    os.truncate(tar, tar.stat().st_size - 512)
    with serve(tmp_path) as server:
        with pytest.raises(ShardError, match=r"shard-0002.tar: has \d+ bytes, its record says"):
            open_shards(f"{server.url}/alpha").clips(split="train")
        tar.with_suffix(".json").write_bytes(b"{}")
        with pytest.raises(ShardError, match=r"shard-0002.json: is not the record that dataset.json lists"):
            open_shards(f"{server.url}/alpha").clips(split="train")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [STALL, DIE, 500])
def test_a_server_that_fails_while_training_is_one_sentence(toy_shards, fault, monkeypatch):
    with serve(toy_shards) as server:
        clip = open_shards(f"{server.url}/alpha").clips(split="train")[0]
        reader.read_meta.cache_clear()
        monkeypatch.setattr(retry, "POLICY", AT_ONCE if fault == STALL else PATIENT)
        server.faults["shard-0001.tar"] = [fault]
        with pytest.raises(ShardError, match=r"\(the server does not answer: .*; it was asked 3 times\)\.$") as caught:
            read_window(clip, Window(0, 0, 0, WindowShape(3)))
    where = f"{server.url}/alpha/train/shard-0001.tar"
    assert str(caught.value).startswith(f"{where}: cannot be read for clip {clip.entry.key} (")
    assert "\n" not in str(caught.value)
