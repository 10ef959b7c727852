"""Shards and a run that an earlier program wrote: they stay readable for ever.

`shard_v1/` holds three finished data sets, one for each kind of depth code: vkitti (linear), mvs-synth (half) and
tartanair (log), a clip of 6 frames of 64x48 pixels each, with sky, unknown pixels, differences and poses; `arrays.npz`
has what they decode to. `run_v1/` is a run on them that stopped after 6 of 12 steps (`last.pt` packed with xz, since it
has 11 MB; variant diff, of which only the branch learns, averaged weights included), and in `expected.json` the losses
of the other 6 steps, as the run had them that was not interrupted, and what `vdatrain eval` says of its weights.

All were made at commit 4dab8da by `python -m tests.golden.make tests/golden`, which calls

    vdaprep sample DATASET --size 64x48 --trajectories 1 --frames 6 --seed N     a corner of raw depth made unknown
    vdaprep convert DATASET --raw RAW --out tests/golden/shard_v1 --workers 1
    vdaprep export tests/golden/shard_v1/DATASET --out EXPORTED                    -> arrays.npz
    vdatrain run --shards tests/golden/shard_v1 --variant diff --encoder tiny --init START --preset adapter --lr 0.01
        --ema 0.9 --frames 3 --size 28 --batch 2 --steps 12 --warmup 2 --log-every 1 --save-every 6 --workers 0

They are never made again. A new version of the format gets files of its own, beside these.
"""

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run
from tests.golden.make import DATASETS, call, losses, read_exported, read_tar

GOLDEN = Path(__file__).parent
SHARDS, RUN = GOLDEN / "shard_v1", GOLDEN / "run_v1"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(SHARDS / "arrays.npz") as stored:
        return dict(stored)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the run, its checkpoint unpacked."""
    copy = shutil.copytree(RUN, tmp_path / "run")
    packed = copy / "last.pt.xz"
    (copy / "last.pt").write_bytes(lzma.decompress(packed.read_bytes()))
    packed.unlink()
    return copy


@pytest.mark.parametrize("dataset", DATASETS)
def test_shards_decode_to_the_same_arrays(dataset: str, arrays: dict[str, np.ndarray], vdaprep: Run, tmp_path) -> None:
    assert vdaprep("export", SHARDS / dataset, "--out", tmp_path / "out").code == 0
    found = read_exported(tmp_path / "out") | read_tar(SHARDS / dataset / "train" / "shard-0001.tar")
    assert {f"{dataset}/{name}" for name in found} == {name for name in arrays if name.startswith(f"{dataset}/")}
    for name, value in found.items():
        expected = arrays[f"{dataset}/{name}"]
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
        if name == "rgb":  # JPEG leaves the rounding of the inverse transform to the library that does it
            np.testing.assert_allclose(value.astype(int), expected.astype(int), rtol=0, atol=1)
        else:
            np.testing.assert_array_equal(value, expected, err_msg=name)
    assert np.isnan(found["depth_m"]).any()
    assert np.isinf(found["depth_m"]).any()
    assert np.abs(found["differences"]).max() > 10


def test_shards_are_whole(vdaprep: Run) -> None:
    result = vdaprep("verify", SHARDS, "--deep")
    assert result.code == 0, result.err


def test_a_run_goes_on_as_if_it_had_never_stopped(run: Path) -> None:
    """In a process of its own, for the kernels: by default each processor has others, and rounds otherwise."""
    call("vdatrain", "run", "--resume", "--out", run, "--shards", SHARDS)
    expected = json.loads((RUN / "expected.json").read_text(encoding="utf-8"))["losses"]
    found = losses(run)
    assert list(found) == list(range(1, 13))
    assert {str(step): found[step] for step in range(7, 13)} == pytest.approx(expected, rel=1e-5)
    before = losses(RUN)
    assert {step: found[step] for step in before} == before


@pytest.mark.slow
def test_the_weights_of_a_run_say_the_same(run: Path) -> None:
    expected = json.loads((RUN / "expected.json").read_text(encoding="utf-8"))["evaluation"]
    options = ("--shards", SHARDS, "--checkpoint", run / "last.pt", "--split", "train", "--json")
    assert json.loads(call("vdatrain", "eval", *options))["average"] == pytest.approx(expected, rel=1e-5)
