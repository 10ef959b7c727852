"""Whose data a model was trained on: told by shards, kept in checkpoints, asked for with --licence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.integration.conftest import refused
from vdaprep.shards.canonical import sealed_json
from vdaprep.shards.dataset import open_shards
from vdaprep.sources import _manifest
from vdatrain.models import tensor_files

OPTIONS = (
    "--encoder", "tiny", "--frames", 2, "--size", 28, "--batch", 1, "--steps", 1, "--warmup", 1, "--eval-every", 50,
    "--eval-windows", 1, "--workers", 1, "--track", "none",
)  # fmt: skip


def renamed(shards: Path, out: Path, name: str, **facts: Any) -> None:
    """Copy toy shards as another data set with other terms, or with some left out (None)."""
    shutil.copytree(shards / "tartanair", out / name)
    path = out / name / "dataset.json"
    record = json.loads(path.read_text())
    del record["checksum"]
    source = {key: value for key, value in {**record["source"], **facts}.items() if value is not None}
    path.write_bytes(sealed_json({**record, "dataset": name, "source": source}))


def test_shards_say_licence_and_citation(toy_shards: Path) -> None:
    [terms] = open_shards(toy_shards).terms()
    assert (terms.dataset, terms.commercial) == ("tartanair", False)
    assert terms.licence.startswith("not stated")
    assert "IROS 2020" in terms.citation


@pytest.mark.parametrize(
    ("layouts", "licence", "commercial"),
    [
        ({"v2"}, "CC BY 4.0", True),
        ({"v1"}, "not stated", False),
        ({"v1", "v2"}, "not stated", False),
        ((), "v2: CC", False),
    ],
)
def test_a_version_may_have_a_licence_of_its_own(layouts: set[str], licence: str, commercial: bool) -> None:
    terms = _manifest.load("tartanair").terms(layouts)
    assert terms.licence.startswith(licence)
    assert terms.commercial is commercial


@pytest.mark.slow
def test_a_checkpoint_says_what_it_was_trained_on(toy_shards: Path, vdatrain: Run, tmp_path: Path) -> None:
    """The weights that a run begins with bring what they were trained on."""
    shards = tmp_path / "shards"
    renamed(toy_shards, shards, "free", licence="CC BY 4.0", commercial=True)
    renamed(toy_shards, shards, "paid", licence="CC BY-NC 4.0", commercial=False)
    renamed(toy_shards, shards, "silent", licence=None, commercial=None, citation=None)
    first, second = tmp_path / "first", tmp_path / "second"
    run = ("run", "--shards", shards, *OPTIONS)
    result = vdatrain(*run, "--out", first, "--licence", "commercial")
    refused(result, 2, "paid (CC BY-NC 4.0); silent (its shards do not say)", "--mix paid=0,silent=0")
    assert not first.exists()
    result = vdatrain(*run, "--out", first, "--licence", "commercial", "--mix", "paid=0,silent=0")
    assert result.code == 0
    assert "trained on free (CC BY 4.0)" in result.err
    assert names(first / "best.pt") == names(first / "last.pt") == ["free"]
    on_paid = (*run, "--out", second, "--mix", "free=0,silent=0", "--init", first / "best.pt")
    assert vdatrain(*on_paid).code == 0
    assert names(second / "best.pt") == ["free", "paid"]
    assert vdatrain(*on_paid, "--resume", "--steps", 2).code == 0
    assert names(second / "last.pt") == ["free", "paid"]
    assert vdatrain("export", "--checkpoint", second / "best.pt", "--out", tmp_path / "a.pth").code == 0
    told = json.loads((tmp_path / "a.pth.json").read_text())["trained_on"]
    assert [item["licence"] for item in told] == ["CC BY 4.0", "CC BY-NC 4.0"]


def names(file: Path) -> list[str]:
    return [item["dataset"] for item in tensor_files.load(file)["data"]]


@pytest.mark.slow
@pytest.mark.parametrize("data", [5, "x", [3], [{"licence": "a"}], [{"dataset": "a", "commercial": "yes"}]])
def test_terms_of_a_stranger_are_checked(data: object, toy_shards: Path, vdatrain: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert vdatrain("run", "--shards", toy_shards, "--out", run, *OPTIONS).code == 0
    state = tensor_files.load(run / "best.pt")
    tensor_files.save(tmp_path / "odd.pt", {**state, "data": data})
    refused(vdatrain("export", "--checkpoint", tmp_path / "odd.pt", "--out", tmp_path / "a.pth"), 1, "odd.pt: data")
