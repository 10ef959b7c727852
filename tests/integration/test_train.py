"""`vdatrain` through its command line, on shards that `vdaprep` made."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import RawTree, Run, make_shards
from tests.integration.conftest import refused
from tests.serving import serve
from vdaprep.conversion.options import Settings
from vdaprep.storage import retry
from vdaprep.storage.retry import RetryPolicy
from vdatrain import cli
from vdatrain.models import variants

SMALL = (
    "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 6, "--warmup", 2, "--ema", 0.5,
    "--log-every", 2, "--eval-every", 3, "--workers", 0,
)  # fmt: skip


def log(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def evaluations(folder: Path) -> list[dict[str, dict[str, float]]]:
    return [line["evaluation"] for line in log(folder) if "evaluation" in line]


@pytest.fixture(scope="module")
def runs(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of every variant, trained by the command line."""
    import sys

    folder = tmp_path_factory.mktemp("runs")
    for variant in variants.names():
        argv = ["vdatrain", "run", "--shards", toy_shards, "--variant", variant, "--out", folder / variant, *SMALL]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", list(map(str, argv)))
            with pytest.raises(SystemExit) as exit_:
                cli.main()
            assert not exit_.value.code
    return folder


@pytest.mark.parametrize("variant", variants.names())
def test_a_run_leaves_weights_a_log_and_an_evaluation(variant: str, runs: Path, toy_shards: Path) -> None:
    names = {path.name for path in (runs / variant).iterdir()}
    assert names == {
        "config.json",
        "log.jsonl",
        "last.pt",
        "step-000003.pt",
        "best.pt",
        "evaluation.json",
        "windows.jsonl",
        "gallery-tartanair.npz",
        "tensorboard",
    }
    lines = log(runs / variant)
    assert [line["step"] for line in lines if "total" in line] == [2, 4, 6]
    held_out = [line for line in lines if "evaluation" in line]
    assert [line["step"] for line in held_out] == [0, 3, 6]
    losses = [line["evaluation"]["average"]["loss"] for line in held_out]
    assert losses[-1] < losses[0]
    figures = json.loads((runs / variant / "evaluation.json").read_text())
    assert set(figures["datasets"]) == {"tartanair"}
    assert figures["datasets"]["tartanair"]["windows"] == 3
    assert 0 < figures["average"]["absrel"] < 2
    assert figures["average"]["tae"] > 0
    assert figures["config"]["shards"] == str(toy_shards)


def test_all_variants_begin_alike(runs: Path) -> None:
    first = [evaluations(runs / variant)[0] for variant in variants.names() if variants.starts_as_published(variant)]
    assert len(first) > 5
    assert all(value == first[0] for value in first)


def test_a_run_is_not_overwritten_and_not_changed(runs: Path, toy_shards: Path, vdatrain) -> None:
    folder = runs / "basic"
    arguments = ("run", "--shards", toy_shards, "--variant", "basic", "--out", folder)
    refused(vdatrain(*arguments, *SMALL), 2, "holds a run; give --resume to go on with it, or another --out")
    refused(vdatrain(*arguments, "--resume", "--seed", 5), 2, "leave out what would change --seed 0 to 5")


def test_resuming_nothing_or_on_other_shards(runs: Path, toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    refused(vdatrain("run", "--out", tmp_path / "none", "--resume"), 1, "holds no run to resume")
    copy = shutil.copytree(runs / "basic", tmp_path / "basic")
    facts = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**facts, "data": "0" * 64}))
    refused(vdatrain("run", "--out", copy, "--resume"), 1, "are not the shards that", "began with")
    (copy / "config.json").write_text("{")
    refused(vdatrain("run", "--out", copy, "--resume"), 1, "config.json: is not valid JSON")


@pytest.mark.slow
def test_a_run_keeps_no_secret_of_its_shards_and_goes_on_with_it_given_again(
    toy_shards: Path, vdatrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "POLICY", RetryPolicy(connect_s=5, answer_s=30, waits_s=(0.01,)))
    monkeypatch.setenv("no_proxy", "*")
    folder, said = tmp_path / "run", []

    def run(*options: object) -> Any:
        said.append(vdatrain("run", "--out", folder, *options))
        return said[-1]

    with serve(toy_shards) as server:
        place = f"{server.url}/tartanair"
        secret = place.replace("//", "//user:SECRET@") + "?token=SECRET"
        assert run("--shards", secret, *SMALL, "--save-every", 1).code == 0
        assert json.loads((folder / "config.json").read_text())["config"]["shards"] == place
        assert torch.load(folder / "last.pt", weights_only=True)["config"]["shards"] == place
        assert run("--resume").code == 0  # this server gives it to anyone

        server.faults["dataset.json"] = [403]
        sentence = (f"{place}: cannot be read", "403 Forbidden", "if the URL had any, give it again.")
        refused(run("--resume"), 1, *sentence)
        result = run("--resume", "--shards", secret)
        refused(result, 1, f"{place}: cannot be read")
        assert "give it again" not in result.err

        del server.faults["dataset.json"]
        for name in ("last.pt", "best.pt"):
            (folder / name).unlink()
        assert run("--resume", "--shards", secret.replace("token", "other")).code == 0
        assert (folder / "last.pt").is_file()
        facts = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**facts, "data": "0" * 64}))
        refused(run("--resume", "--shards", secret), 1, f"{place}: are not the shards that")
    assert not any("SECRET" in text for result in said for text in (result.out, result.err))
    assert not any(b"SECRET" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_eval_agrees_with_the_run(runs: Path, toy_shards: Path, vdatrain) -> None:
    result = vdatrain(
        "eval", "--shards", toy_shards, "--checkpoint", runs / "conv" / "best.pt", "--workers", 0, "--json"
    )
    assert result.code == 0
    expected = json.loads((runs / "conv" / "evaluation.json").read_text())
    assert json.loads(result.out)["average"] == expected["average"]
    table = vdatrain("eval", "--shards", toy_shards, "--checkpoint", runs / "conv" / "best.pt", "--workers", 0)
    assert f"{expected['average']['absrel']:.4f}" in table.out
    train_split = ("--split", "train", "--frames", 2, "--size", 42, "--workers", 0, "--json")
    result = vdatrain("eval", "--shards", toy_shards, "--checkpoint", runs / "conv" / "last.pt", *train_split)
    assert json.loads(result.out)["datasets"]["tartanair"]["windows"] == 7 + 3


def test_eval_shows_figures_under_stress_beside_those_without(runs: Path, toy_shards: Path, vdatrain, tmp_path) -> None:
    arguments = ("eval", "--shards", toy_shards, "--checkpoint", runs / "conv" / "best.pt", "--workers", 0)
    asked = (*arguments, "--stress", "none,flash,noise+rain", "--out", tmp_path / "out")
    found = json.loads(vdatrain(*asked, "--json").out)
    clean = json.loads((runs / "conv" / "evaluation.json").read_text())
    assert found["average"] == clean["average"]
    assert list(found["stressed"]) == ["flash", "noise+rain"]
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (written["stressed"], written["stress_seed"]) == (found["stressed"], 0)
    table = vdatrain(*asked).out
    for figures in (found, *found["stressed"].values()):
        assert f"{figures['average']['absrel']:.4f}" in table
    assert "noise+rain" in table
    assert vdatrain("compare", tmp_path / "out", runs / "basic").code == 0
    refused(
        vdatrain(*arguments, "--stress", "shake"), 2, "--stress shake: 'shake' is not understood (shake can only be"
    )


def test_compare_prints_the_table_and_writes_a_page(runs: Path, vdatrain, tmp_path: Path) -> None:
    folders = [runs / variant for variant in variants.names()]
    result = vdatrain("compare", *folders, "--report", tmp_path / "report.html")
    assert result.code == 0
    for text in ("data set", "absrel ↓", "delta1 ↑", "TAE ↓", "tartanair", "average", *variants.names()):
        assert text in result.out
    assert "With a single run of a variant the spread between runs is unknown" in " ".join(result.out.split())
    page = (tmp_path / "report.html").read_text()
    data = json.loads(re.search('id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [arm["name"] for arm in data["arms"]] == sorted(variants.names())
    assert [chart["title"] for chart in data["charts"]["curves"]][:2] == ["training loss", "held-out loss"]
    assert [len(clip["predictions"]) for clip in data["clips"]] == [len(folders)]
    assert len(page) < 6e6


def test_the_best_is_bold_and_equals_are_both_best(runs: Path, vdatrain, tmp_path: Path) -> None:
    better = shutil.copytree(runs / "basic", tmp_path / "better")
    figures = json.loads((better / "evaluation.json").read_text())
    figures["config"]["variant"] = "other"
    for row in (figures["average"], figures["datasets"]["tartanair"]):
        row["absrel"] /= 2
        row["delta1"] = 0.0
    (better / "evaluation.json").write_text(json.dumps(figures))
    lines = vdatrain("compare", runs / "basic", better, "--markdown").out.splitlines()
    basic, other = (next(line for line in lines if f"| {name} |" in line) for name in ("basic", "other"))
    absrel, delta1, tae = (cell.strip() for cell in other.split("|")[4:7])
    assert absrel.startswith("**")
    assert delta1 == "0.0000"
    assert tae.startswith("**")
    assert basic.count("**") == 4  # delta1 and the TAE that both have


def test_several_seeds_give_a_spread(runs: Path, vdatrain, tmp_path: Path) -> None:
    again = shutil.copytree(runs / "basic", tmp_path / "again")
    figures = json.loads((again / "evaluation.json").read_text())
    figures["average"]["absrel"] += 0.2
    (again / "evaluation.json").write_text(json.dumps(figures))
    result = vdatrain("compare", runs / "basic", again, "--markdown")
    assert f"| average | basic | 2 | **{figures['average']['absrel'] - 0.1:.4f} ± 0.1414** |" in result.out


def test_runs_that_cannot_be_compared(runs: Path, vdatrain, tmp_path: Path) -> None:
    refused(vdatrain("compare", tmp_path), 1, "evaluation.json: is missing; a run writes it when it ends")
    other = shutil.copytree(runs / "basic", tmp_path / "other")
    figures = json.loads((other / "evaluation.json").read_text())
    figures["protocol"]["frames"] = 5
    (other / "evaluation.json").write_text(json.dumps(figures))
    refused(vdatrain("compare", runs / "basic", other), 2, "evaluated with different --frames")


@pytest.mark.slow
def test_variants_are_listed_with_their_sizes(vdatrain) -> None:
    result = vdatrain("variants", "--encoder", "vits")
    assert all(name in result.out for name in variants.names())
    assert "29,035,137" in result.out


@pytest.mark.slow
def test_weights_begin_a_run_of_another_variant(runs: Path, toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    arguments = ("run", "--shards", toy_shards, "--variant", "conv", "--out", tmp_path / "conv", *SMALL)
    assert vdatrain(*arguments, "--init", runs / "basic" / "best.pt", "--preset", "adapter").code == 0
    first = evaluations(tmp_path / "conv")[0]["average"]
    # The branch starts as nothing, so conv begins where basic stopped: to rounding, since the preset freezes weights,
    # and for input that is not contiguous torch multiplies frozen ones batch by batch (bmm), others at once (mm).
    stopped = json.loads((runs / "basic" / "evaluation.json").read_text())["average"]
    assert first == pytest.approx(stopped, rel=1e-6)
    arguments = ("run", "--shards", toy_shards, "--out", tmp_path / "basic", *SMALL)
    refused(vdatrain(*arguments, "--init", runs / "conv" / "best.pt"), 1, "best.pt: does not fit this model", "branch.")


@pytest.mark.slow
def test_shards_without_a_held_out_split(raw, vdaprep, vdatrain, tmp_path: Path) -> None:
    vdaprep("convert", "tartanair", "--raw", raw.root, "--out", tmp_path / "s", "--workers", 1, "--select", "*/P00[01]")
    result = vdatrain("run", "--shards", tmp_path / "s", "--out", tmp_path / "run", *SMALL)
    assert result.code == 0
    assert "nothing was evaluated (the shards have no split 'val')" in result.err
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_list_of_shards_and_a_run_that_evaluates_nothing(toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    splits = ",".join(str(toy_shards / "tartanair" / split) for split in ("train", "val"))
    given = ("run", "--shards", splits, "--out", tmp_path / "run", *SMALL)
    sentence = "have no split 'vla' to evaluate on, only train, val; give one of these by --eval-split, or none"
    refused(vdatrain(*given, "--eval-split", "vla"), 1, sentence)
    result = vdatrain(*given, "--eval-split", "none")
    assert result.code == 0, result.err
    assert "nothing was evaluated (--eval-split none)" in result.err
    assert evaluations(tmp_path / "run") == []
    refused(vdatrain("run", "--shards", f"{splits},{tmp_path}/gone", *SMALL), 1, f"{tmp_path}/gone: is no folder")
    inside = toy_shards / "tartanair" / "runs"
    refused(vdatrain("run", "--shards", splits, "--out", inside, *SMALL), 2, "lies in the input")


# ---------------------------------------------------------------------------------------------------------- bad input


def test_a_folder_without_shards(vdatrain, tmp_path: Path) -> None:
    sentence = (f"{tmp_path}: found no dataset.json", "vdaprep convert")
    refused(vdatrain("run", "--shards", tmp_path, "--out", tmp_path / "run", *SMALL), 1, *sentence)
    refused(vdatrain("eval", "--shards", tmp_path, "--checkpoint", tmp_path / "best.pt"), 1, *sentence)
    refused(vdatrain("run", "--shards", tmp_path / "nowhere", *SMALL), 1, "nowhere: is no folder")
    refused(vdatrain("run", *SMALL), 2, "--shards is missing")


def test_a_shard_with_a_flipped_byte_and_one_cut_short(toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    copy = shutil.copytree(toy_shards, tmp_path / "shards")
    tar = copy / "tartanair" / "train" / "shard-0001.tar"
    data = bytearray(tar.read_bytes())
    data[data.index(b".f005.depth.zst") + 900] ^= 1
    tar.write_bytes(data)
    arguments = ("run", "--shards", copy, *SMALL)
    result = vdatrain(*arguments, "--out", tmp_path / "a")
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert f"{tar}: frame 5 of clip tartanair-abandonedfactory-easy-p00" in last
    assert "differs from its checksum; the shard is damaged" in last
    tar.write_bytes(data[:-10240])
    refused(vdatrain(*arguments, "--out", tmp_path / "b"), 1, "bytes, its record says", "cut or damaged")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--variant", "magic"), "variant 'magic' is not known; choose one of basic"),
        (("--encoder", "huge"), "'huge' is not one of 'tiny', 'vits', 'vitb', 'vitl'"),
        (("--size", 100), "--size 100: expected a multiple of 14"),
        (("--frames", 50), "the longest clip has 13"),
    ],
)
def test_options_that_cannot_be(arguments, sentence: str, toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    result = vdatrain("run", "--shards", toy_shards, "--out", tmp_path / "run", *SMALL, *arguments)
    assert result.code == 2
    assert sentence in result.err.splitlines()[-1]


def test_a_checkpoint_that_is_none(toy_shards: Path, vdatrain, tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"no weights")
    arguments = ("eval", "--shards", toy_shards, "--checkpoint")
    refused(vdatrain(*arguments, tmp_path / "best.pt"), 1, "best.pt: is text that begins with 'no weights'")
    torch.save({"weight": torch.ones(1)}, tmp_path / "bare.pth")
    refused(vdatrain(*arguments, tmp_path / "bare.pth"), 1, "holds weights but no configuration")


@pytest.mark.slow
def test_shards_without_differences(raw: RawTree, toy_shards: Path, tmp_path: Path, vdatrain: Run) -> None:
    """Where none has any, a variant that looks at them is refused; beside others that have, they count as unknown."""
    shards = tmp_path / "shards"
    make_shards("tartanair", raw=raw.root, out=shards, settings=Settings(diffs="none"))
    arguments = ("run", "--shards", shards, *SMALL, "--batch", 1, "--steps", 2, "--eval-every", 2)
    conv = vdatrain(*arguments, "--variant", "conv", "--out", tmp_path / "conv")
    refused(conv, 1, f"{shards}: have no frame differences, which conv looks at; convert again without --diffs none")
    assert vdatrain(*arguments, "--variant", "basic", "--out", tmp_path / "basic").code == 0
    shutil.copytree(toy_shards / "tartanair", shards / "with")
    assert vdatrain(*arguments, "--steps", 6, "--variant", "conv", "--out", tmp_path / "both").code == 0
