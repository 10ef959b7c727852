"""`vdatrain eval` of weights from anywhere, and `compare` of what it and `run` wrote."""

import dataclasses
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import RawTree, Run, make_shards
from tests.integration.conftest import refused
from vdaprep.shards.records import DatasetRecord
from vdatrain import cli
from vdatrain.models import variants

SMALL = (
    "--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--steps", 2, "--warmup", 1, "--ema", 0.5,
    "--log-every", 1, "--eval-every", 2, "--workers", 0, "--track", "none",
)  # fmt: skip
AS_RUN = ("--size", 28, "--frames", 3, "--workers", 0)


@pytest.fixture(scope="module")
def runs(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a variant, and its weights as published ones: vda_tiny.pth and the like."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        argv = ["vdatrain", "run", "--shards", toy_shards, "--out", folder / f"seed{seed}", "--seed", seed, *SMALL]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", list(map(str, argv)))
            with pytest.raises(SystemExit) as exit_:
                cli.main()
            assert not exit_.value.code
    torch.manual_seed(3)
    state = {name: value.contiguous() for name, value in variants.build("basic", encoder="tiny").state_dict().items()}
    torch.save(state, folder / "vda_tiny.pth")
    torch.save(state, folder / "vda_tiny_old.pth", _use_new_zipfile_serialization=False)
    torch.save(state, folder / "metric_vda_tiny.pth")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "wrapped.pt")
    save_file(state, folder / "vda_tiny.safetensors")
    return folder


def evaluated(
    vdatrain: Run, runs: Path, shards: Path, out: Path, *options: object, weights: str = "vda_tiny.pth"
) -> Path:
    result = vdatrain("eval", "--shards", shards, "--checkpoint", runs / weights, "--out", out, *options)
    assert result.code == 0, result.err
    return out


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


@pytest.mark.slow
def test_published_weights_stand_in_every_table(runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path) -> None:
    base = evaluated(vdatrain, runs, toy_shards, tmp_path / "base", "--encoder", "tiny", *AS_RUN)
    again = evaluated(vdatrain, runs, toy_shards, tmp_path / "best", weights="seed0/best.pt")
    assert figures(again)["average"] == figures(runs / "seed0")["average"]
    result = vdatrain("compare", runs / "seed0", runs / "seed1", base, "--report", tmp_path / "report.html")
    assert result.code == 0
    rows = {line.split()[1]: line.split()[2] for line in result.out.splitlines() if line.strip().startswith("average")}
    assert rows == {"basic": "2", "vda_tiny": "1"}
    assert "vda_tiny against basic" in " ".join(result.out.split())
    page = (tmp_path / "report.html").read_text()
    assert page.count("vda_tiny") >= 4
    assert 'id="player"' in page
    named = evaluated(
        vdatrain, runs, toy_shards, tmp_path / "named", "--encoder", "tiny", "--name", "VDA-T [1]", *AS_RUN
    )
    assert "| VDA-T [1] |" in vdatrain("compare", runs / "seed0", named, "--markdown").out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vda_tiny.safetensors", "vda_tiny_old.pth", "wrapped.pt"])
def test_every_form_of_the_same_weights_has_the_same_figures(
    name: str, runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    one = evaluated(vdatrain, runs, toy_shards, tmp_path / "one", "--encoder", "tiny", *AS_RUN)
    other = evaluated(vdatrain, runs, toy_shards, tmp_path / "other", "--encoder", "tiny", *AS_RUN, weights=name)
    assert figures(one)["datasets"] == figures(other)["datasets"]
    assert figures(other)["weights"]["name"] == Path(name).stem


def test_metric_weights_are_evaluated_as_depth(runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path) -> None:
    options = ("--encoder", "tiny", *AS_RUN)
    depth = evaluated(vdatrain, runs, toy_shards, tmp_path / "d", *options, weights="metric_vda_tiny.pth")
    same = evaluated(vdatrain, runs, toy_shards, tmp_path / "s", *options, "--metric")
    disparity = evaluated(
        vdatrain, runs, toy_shards, tmp_path / "r", *options, "--no-metric", weights="metric_vda_tiny.pth"
    )
    plain = evaluated(vdatrain, runs, toy_shards, tmp_path / "p", *options)
    assert figures(depth)["datasets"] == figures(same)["datasets"] != figures(plain)["datasets"]
    assert figures(disparity)["datasets"] == figures(plain)["datasets"]
    assert figures(depth)["weights"]["metric"] is figures(same)["weights"]["metric"] is True


def test_whole_trajectories_are_compared_with_such_alone(
    runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    options = ("--encoder", "tiny", "--size", 28)
    one = evaluated(vdatrain, runs, toy_shards, tmp_path / "one", *options, "--long")
    other = evaluated(vdatrain, runs, toy_shards, tmp_path / "two", *options, "--long", weights="seed1/best.pt")
    assert vdatrain("compare", one, other).code == 0
    refused(vdatrain("compare", one, runs / "seed0"), 2, "different --long and --frames (", "evaluate one as the other")


# ------------------------------------------------------------------------------------------------- the same and others

SAME: Mapping[str, Callable[[Path], Path]] = {
    "named twice": lambda run: run,
    "a slash more": lambda run: Path(f"{run}/."),
    "by way of its parent": lambda run: run / ".." / run.name,
    "relative": lambda run: Path(os.path.relpath(run)),
    "a link": lambda run: _linked(run),
    "a link to a link": lambda run: _linked(_linked(run)),
    "a copy": lambda run: Path(shutil.copytree(run, run.with_name("copy"), dirs_exist_ok=True)),
    "a copy of the evaluation alone": lambda run: _copied(run),
}


def _linked(run: Path) -> Path:
    link = run.with_name(f"{run.name}-link")
    link.unlink(missing_ok=True)
    link.symlink_to(run)
    return link


def _copied(run: Path) -> Path:
    run.with_name("bare").mkdir(exist_ok=True)
    return Path(shutil.copy(run / "evaluation.json", run.with_name("bare"))).parent


@pytest.mark.parametrize("case", SAME)
def test_nothing_counts_twice(case: str, runs: Path, vdatrain: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "seed0", tmp_path / "run"))
    result = vdatrain("compare", run, runs / "seed1", SAME[case](run))
    refused(result, 2, "the same folder; name each once" if "copy" not in case else "hold the same evaluation")


def test_the_evaluation_of_a_runs_own_best_weights_counts_once(
    runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    again = evaluated(vdatrain, runs, toy_shards, tmp_path / "again", weights="seed0/best.pt")
    refused(vdatrain("compare", runs / "seed0", again), 2, "hold the same evaluation of the same weights")


def _moved(shards: Path, to: Path) -> Path:
    return Path(shutil.copytree(shards, to / "elsewhere"))


PLACES: Mapping[str, Callable[[Path, Path], object]] = {
    "moved": _moved,
    "a link": lambda shards, to: _link_in(to, shards),
    "relative": lambda shards, to: os.path.relpath(shards),
    "its data set": lambda shards, to: shards / "tartanair",
    "its split": lambda shards, to: shards / "tartanair" / "val",
}  # fmt: skip


def _link_in(folder: Path, target: Path) -> Path:
    (folder / "link").symlink_to(target)
    return folder / "link"


@pytest.mark.parametrize("case", PLACES)
def test_the_same_data_under_another_spelling(
    case: str, runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    base = evaluated(
        vdatrain, runs, PLACES[case](toy_shards, tmp_path), tmp_path / "base", "--encoder", "tiny", *AS_RUN
    )  # pyright: ignore[reportArgumentType]
    assert vdatrain("compare", runs / "seed0", base).code == 0


def test_other_data_under_the_same_text_is_refused(
    raw: RawTree, runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(toy_shards, tmp_path / "shards"))
    one = evaluated(vdatrain, runs, shards, tmp_path / "one", "--encoder", "tiny", *AS_RUN)
    shutil.rmtree(shards)
    make_shards("tartanair", raw=raw.root, out=shards)
    other = evaluated(vdatrain, runs, shards, tmp_path / "other", "--encoder", "tiny", *AS_RUN, weights="seed1/best.pt")
    refused(
        vdatrain("compare", one, other), 2, "evaluated on different data (tartanair)", "eval --shards DIR --out FOLDER"
    )


def test_the_same_held_out_clips_among_other_training_data(
    runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    """What decides is what was evaluated: variants may have been trained on different data."""
    shards = Path(shutil.copytree(toy_shards, tmp_path / "shards"))
    path = next(shards.glob("*/dataset.json"))
    record = DatasetRecord.from_bytes(path.read_bytes(), where="record")
    kept = tuple(item for item in record.shards if item.split == "val")
    path.write_bytes(dataclasses.replace(record, shards=kept).to_bytes())
    base = evaluated(vdatrain, runs, shards, tmp_path / "base", "--encoder", "tiny", *AS_RUN)
    assert vdatrain("compare", runs / "seed0", base).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--split", "train"), ("--size", 42), ("--frames", 2), ("--stride", 2)])
def test_another_protocol_is_refused_and_named(
    options: tuple[str, object], runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    base = evaluated(vdatrain, runs, toy_shards, tmp_path / "base", "--encoder", "tiny", *AS_RUN, *options)
    refused(vdatrain("compare", runs / "seed0", base), 2, f"different {options[0]} (", f"{options[0]} {options[1]})")


def test_encoders_of_one_variant_are_told_apart(runs: Path, vdatrain: Run, tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs / "seed1", tmp_path / "other"))
    content = figures(other)
    content["config"]["encoder"] = "vits"
    (other / "evaluation.json").write_text(json.dumps(content))
    out = vdatrain("compare", runs / "seed0", other, "--markdown").out
    assert "| basic tiny | 1 |" in out
    assert "| basic vits | 1 |" in out


def test_runs_of_before_are_compared_by_the_digest_of_their_shards(runs: Path, vdatrain: Run, tmp_path: Path) -> None:
    old: list[Path] = []
    for seed in (0, 1):
        old.append(Path(shutil.copytree(runs / f"seed{seed}", tmp_path / f"old{seed}")))
        content = figures(old[-1])
        del content["protocol"], content["data"]
        (old[-1] / "evaluation.json").write_text(json.dumps({**content, "split": "val"}))
    assert vdatrain("compare", *old).code == 0
    assert vdatrain("compare", old[0], runs / "seed1").code == 0
    facts = json.loads((old[1] / "config.json").read_text())
    (old[1] / "config.json").write_text(json.dumps({**facts, "data": "0" * 64}))
    refused(vdatrain("compare", *old), 2, "were evaluated on different data (all shards)")
    (old[1] / "config.json").unlink()
    refused(vdatrain("compare", *old), 2, "were evaluated on different data")


def test_figures_are_whole_on_a_narrow_terminal(
    runs: Path, vdatrain: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = vdatrain("compare", runs / "seed0", runs / "seed1").out
    assert "…" not in out
    assert out.count(" ± ") == 3 * (len(figures(runs / "seed0")["datasets"]) + 1)


def test_an_evaluation_is_not_written_into_a_run_or_over_its_input(
    runs: Path, toy_shards: Path, vdatrain: Run, tmp_path: Path
) -> None:
    arguments = ("eval", "--shards", toy_shards, "--encoder", "tiny", "--checkpoint", runs / "vda_tiny.pth", "--out")
    refused(vdatrain(*arguments, runs / "seed0"), 2, "holds a run, which has an evaluation of its own")
    (tmp_path / "file").write_text("")
    refused(vdatrain(*arguments, tmp_path / "file"), 2, "is a file; expected a folder")
    refused(vdatrain(*arguments, toy_shards / "out"), 2, "lies in the input")
    refused(vdatrain(*arguments, tmp_path / "o", "--name", "x" * 300), 2, "--name: has 300 characters")


# -------------------------------------------------------------------------------------------------- files of a stranger


def changed(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: {**content, **values}


def in_row(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: {
        **content,
        "datasets": {name: {**row, **values} for name, row in content["datasets"].items()},
    }


def in_config(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: {**content, "config": {**content["config"], **values}}


STRANGE: Mapping[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a list": (lambda content: [content], "holds a JSON list, expected a JSON object"),
    "null": (lambda content: None, "holds JSON's null"),
    "data sets as a list": (changed(datasets=[]), "datasets is a list of 0, expected an object"),
    "no data set": (changed(datasets={}), "datasets is empty"),
    "a data set that is text": (changed(datasets={"a": "b"}), 'datasets.a is "b", expected an object'),
    "a name that leads elsewhere": (changed(datasets={"../../x": {}}), "is no name of a data set: it leads to another"),
    "a name with zero": (changed(datasets={"a\0b": {}}), "is no name of a data set"),
    "a name with an escape": (changed(datasets={"a\x1b[31m": {}}), "is no name of a data set"),
    "a name that is half a character": (changed(datasets={"a\ud800": {}}), "is no name of a data set"),
    "text for a figure": (in_row(absrel="0.1"), 'absrel is "0.1", expected a number'),
    "true for a figure": (in_row(delta1=True), "delta1 is true, expected a number"),
    "nan for a figure": (in_row(absrel=float("nan")), "NaN is no number of JSON"),
    "infinity": (in_row(tae=float("inf")), "Infinity is no number of JSON"),
    "a huge figure": (in_row(absrel=1e300), "absrel is 1e+300, expected 0 to 1e+09"),
    "a huge whole number": (in_row(absrel=10**400), "which is no finite number of float64"),
    "a negative figure": (in_row(absrel=-1), "absrel is -1, expected 0 to"),
    "no figure": (in_row(delta1=None), "delta1 is null, expected a number"),
    "average as a number": (changed(average=3), "average is 3, expected an object"),
    "no configuration": (changed(config=None), "config is missing, expected that of a run, or weights"),
    "configuration as text": (changed(config="x"), 'config is "x", expected an object'),
    "a variant that is a number": (in_config(variant=3), "config.variant is 3, expected text"),
    "a long variant": (in_config(variant="v" * 300), "config.variant has 300 characters"),
    "no encoder": (in_config(encoder=None), "config.encoder is null, expected text"),
    "a seed of another type": (in_config(seed={}), "config.seed is an object of 0, expected a whole number"),
    "a step before the first": (changed(step=-1), "step is -1, expected 0 to"),
    "a step that is huge": (changed(step=2**70), "step is 1180591620717411303424, expected 0 to"),
    "a digest that is none": (changed(data={"alpha": "x"}), 'data.alpha is "x", expected a SHA-256'),
    "a protocol of another type": (changed(protocol=[1]), "protocol is a list of 1, expected an object"),
    "a size that is text": (
        changed(protocol={"split": "val", "size": "28"}),
        'protocol.size is "28", expected a whole',
    ),
    "deep": (lambda content: {**content, "x": json.loads("[" * 500 + "]" * 500)}, "is nested deeper than 32 levels"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_an_evaluation_that_is_none(case: str, runs: Path, vdatrain: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "seed0", tmp_path / "run"))
    make, sentence = STRANGE[case]
    (run / "evaluation.json").write_text(json.dumps(make(figures(run))))
    refused(vdatrain("compare", run), 1, f"{run / 'evaluation.json'}: ", sentence)


TEXTS: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "is not valid JSON"),
    "nested without end": (b"[" * 200_000, "is nested deeper"),
    "twice": (b'{"step": 1, "step": 2}', "step is there twice"),
    "not UTF-8": (b'{"step": "\xff"}', "is not UTF-8"),
    "UTF-16": ("{}".encode("utf-16"), "is UTF-16"),
    "large": (b'{"a": "' + b"x" * (5 << 20) + b'"}', "has more than 4194304 bytes"),
    "zeros": (bytes(100), "holds bytes of zero"),
}


@pytest.mark.parametrize("name", ["evaluation.json", "log.jsonl"])
@pytest.mark.parametrize("case", TEXTS)
def test_text_that_is_no_json(case: str, name: str, runs: Path, vdatrain: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "seed0", tmp_path / "run"))
    data, sentence = TEXTS[case]
    (run / name).write_bytes(data)
    if (name, case) == ("log.jsonl", "empty"):
        assert vdatrain("compare", run).code == 0
        return
    refused(vdatrain("compare", run), 1, f"{run / name}: ", sentence)


def test_an_evaluation_with_a_mark_at_its_beginning_and_without_a_log(
    runs: Path, vdatrain: Run, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(runs / "seed0", tmp_path / "run"))
    (run / "log.jsonl").unlink()
    (run / "evaluation.json").write_bytes(b"\xef\xbb\xbf" + (run / "evaluation.json").read_bytes())
    assert vdatrain("compare", run, "--report", tmp_path / "report.html").code == 0
    assert "<h2>Curves" not in (tmp_path / "report.html").read_text()


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", bytes(600 << 20))


def _arrays(**changes: object) -> Callable[[Path], None]:
    whole: dict[str, Any] = {
        "frames": np.zeros((2, 4, 6, 3), np.uint8), "truth": np.zeros((2, 4, 6), np.uint8),
        "prediction": np.zeros((2, 4, 6), np.uint8), "known": np.zeros((2, 4, 6), bool),
    }  # fmt: skip
    return lambda path: np.savez(path, **{**whole, **changes})


def _header(shape: str) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def _npy(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("frames", "truth", "prediction", "known"):
                archive.writestr(f"{name}.npy", data)

    return write


GALLERIES: Mapping[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no gallery"),
    "an array": lambda path: (np.save(path.with_suffix(".npy"), np.zeros(3)), path.with_suffix(".npy").replace(path)),
    "a bomb": _bomb,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "another shape": _arrays(truth=np.zeros((2, 4), np.uint8)),
    "another type": _arrays(prediction=np.zeros((2, 4, 6), np.float32)),
    "no frames": _arrays(truth=np.zeros((0, 4, 6), np.uint8)),
    "objects": _arrays(known=np.array([None])),
    "sizes that differ": _arrays(frames=np.zeros((2, 4, 7, 3), np.uint8)),
    "a header that lies": _npy(_header("(100000, 100000, 100)")),
    "a header that is huge": _npy(_header(f"({10**30},)")),
    "a header that is no Python": _npy(_header("(1, (")),
    "a member is missing": _npy(b""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", GALLERIES)
def test_a_gallery_that_is_none(case: str, runs: Path, vdatrain: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "seed0", tmp_path / "run"))
    path = next(run.glob("gallery-*.npz"))
    GALLERIES[case](path)
    result = vdatrain("compare", run, "--report", tmp_path / "report.html")
    if case == "a folder":
        assert result.code == 0
    else:
        refused(result, 1, f"{path}: is no gallery that vdatrain wrote (")
