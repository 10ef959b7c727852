"""Checkpoints go round, are strict, and never run anything."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from vdaprep.schema import DataError
from vdatrain import checkpoint


def test_round_trip(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.arange(3.0)}, "step": 7, "best": float("inf"), "config": {"lr": None}}
    checkpoint.save(tmp_path / "deep" / "last.pt", state)
    found = checkpoint.load(tmp_path / "deep" / "last.pt")
    assert torch.equal(found["model"]["weight"], state["model"]["weight"])
    assert {name: found[name] for name in ("step", "best", "config")} == {
        name: state[name] for name in ("step", "best", "config")
    }
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["last.pt"]


def test_bare_weights_and_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {"weight": torch.ones(2)}
    torch.save(weights, tmp_path / "bare.pth")
    save_file(weights, tmp_path / "bare.safetensors")
    for name in ("bare.pth", "bare.safetensors"):
        assert torch.equal(checkpoint.load(tmp_path / name)["model"]["weight"], torch.ones(2))


def test_a_failed_save_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"model": {}, "step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        checkpoint.save(path, {"model": {}, "step": lambda: None})
    assert checkpoint.load(path)["step"] == 1
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('evil ran')",)


def test_nothing_that_a_checkpoint_holds_is_run(tmp_path: Path) -> None:
    torch.save({"model": {}, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"evil.pt: is no whole checkpoint of tensors"):
        checkpoint.load(tmp_path / "evil.pt")


def test_every_cut_is_a_sentence(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "whole.pt", {"model": {"weight": torch.ones(100)}})
    data = (tmp_path / "whole.pt").read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut.pt: is no whole checkpoint"):
            checkpoint.load(tmp_path / "cut.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(DataError, match=r"cut.safetensors: is no whole checkpoint"):
        checkpoint.load(tmp_path / "cut.safetensors")
    with pytest.raises(DataError, match="there is no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")


def test_loading_is_strict_and_names_what_does_not_fit() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 3), "branch": nn.Linear(2, 2)})
    weights = {"head.weight": torch.ones(3, 2), "head.bias": torch.ones(3)}
    with pytest.raises(DataError, match=r"w.pt: does not fit this model: 2 missing \(branch.weight, branch.bias\)"):
        checkpoint.load_weights(model, weights, where="w.pt")
    assert checkpoint.load_weights(model, weights, where="w.pt", may_miss=["branch."]) == [
        "branch.weight",
        "branch.bias",
    ]
    assert torch.equal(model["head"].weight, torch.ones(3, 2))
    bad = {**weights, "head.bias": torch.ones(4), "tail": torch.ones(1)}
    with pytest.raises(DataError, match=r"1 unexpected \(tail\); 1 of another shape \(head.bias \[4\] for \[3\]\)"):
        checkpoint.load_weights(model, bad, where="w.pt", may_miss=["branch."])
