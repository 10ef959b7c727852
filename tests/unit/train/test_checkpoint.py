"""Checkpoints go round, are whole or said not to be, and never run anything; the keeper writes and keeps them."""

import contextlib
import errno
import io
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vdaprep.errors import DataError, OutputError
from vdatrain.models import tensor_files
from vdatrain.training.checkpoint import CheckpointManager, candidates, load_newest


def test_round_trip(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.arange(3.0)}, "step": 7, "best": float("inf"), "config": {"lr": None}}
    tensor_files.save(tmp_path / "deep" / "last.pt", state)
    found = tensor_files.load(tmp_path / "deep" / "last.pt")
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
        assert torch.equal(tensor_files.load(tmp_path / name)["model"]["weight"], torch.ones(2))


def test_a_failed_save_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    tensor_files.save(path, {"model": {}, "step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        tensor_files.save(path, {"model": {}, "step": lambda: None})
    assert tensor_files.load(path)["step"] == 1
    assert [item.name for item in tmp_path.iterdir()] == ["last.pt"]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('evil ran')",)


def test_nothing_that_a_checkpoint_holds_is_run(tmp_path: Path) -> None:
    torch.save({"model": {}, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"evil.pt: would call '(__builtin__|builtins).exec', which"):
        tensor_files.load(tmp_path / "evil.pt")


def test_every_cut_is_a_sentence(tmp_path: Path) -> None:
    tensor_files.save(tmp_path / "whole.pt", {"model": {"weight": torch.ones(100)}})
    data = (tmp_path / "whole.pt").read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut.pt: is (no whole checkpoint|empty)"):
            tensor_files.load(tmp_path / "cut.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(DataError, match=r"cut.safetensors: is no safetensors file: its header does not fit"):
        tensor_files.load(tmp_path / "cut.safetensors")
    with pytest.raises(DataError, match="there is no such checkpoint"):
        tensor_files.load(tmp_path / "none.pt")


@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_a_flipped_bit_is_a_sentence(at: float, tmp_path: Path) -> None:
    """torch reads past a wrong checksum and hands out other weights."""
    tensor_files.save(tmp_path / "flipped.pt", {"model": {"weight": torch.ones(10_000)}})
    data = bytearray((tmp_path / "flipped.pt").read_bytes())
    data[int(at * len(data))] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    with pytest.raises(DataError, match=r"flipped.pt: is no whole checkpoint of tensors \(.*differs from its checksum"):
        tensor_files.load(tmp_path / "flipped.pt")


def test_weights_in_torchs_older_format_have_no_checksum_and_load(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(tensor_files.load(tmp_path / "old.pth")["model"]["weight"], torch.ones(2))


# ---------------------------------------------------------------------------------------------------------- the keeper


def state(step: int) -> dict[str, object]:
    return {"model": {"weight": torch.full((3,), float(step))}, "average": {}, "optimiser": {}, "step": step}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("earlier", [0, 1, 3])
def test_the_latest_checkpoints_are_kept(earlier: int, tmp_path: Path) -> None:
    with CheckpointManager(tmp_path, earlier=earlier, last_step=None) as keeper:
        for step in range(0, 50, 10):
            keeper.save(state(step), is_best=step == 20)
        keeper.flush()
    numbers = [30, 20, 10][:earlier]
    assert names(tmp_path) == {"last.pt", "best.pt", *(f"step-{number:06d}.pt" for number in numbers)}
    assert [tensor_files.load(path)["step"] for path in candidates(tmp_path)] == [40, *numbers]
    assert set(tensor_files.load(tmp_path / "best.pt")) == {"model", "average", "step"}
    assert tensor_files.load(tmp_path / "best.pt")["step"] == 20


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    with CheckpointManager(tmp_path, earlier=1, last_step=None) as keeper:
        for step in range(3):
            keeper.save(state(step), is_best=False)
    assert names(tmp_path) == {"last.pt", "step-000001.pt"}
    assert [tensor_files.load(path)["step"] for path in candidates(tmp_path)] == [2, 1]


def test_a_damaged_last_checkpoint_is_not_kept_as_an_earlier_one(tmp_path: Path) -> None:
    tensor_files.save(tmp_path / "step-000005.pt", state(5))
    (tmp_path / "last.pt").write_bytes(b"damaged")
    with CheckpointManager(tmp_path, earlier=1, last_step=None) as keeper:
        keeper.save(state(6), is_best=False)
    assert [tensor_files.load(path)["step"] for path in candidates(tmp_path)] == [6, 5]


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, real = threading.Event(), tensor_files.save

    def slow(path: Path, value: dict[str, object]) -> None:
        assert go_on.wait(20)
        real(path, value)

    monkeypatch.setattr(tensor_files, "save", slow)
    with CheckpointManager(tmp_path, earlier=1, last_step=None) as keeper:
        keeper.save(state(1), is_best=False)
        keeper.check()
        assert not (tmp_path / "last.pt").exists()
        go_on.set()
        keeper.flush()
        assert tensor_files.load(tmp_path / "last.pt")["step"] == 1


def test_a_disk_that_is_full_is_said_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.RawIOBase):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Full]:
        yield Full()

    with CheckpointManager(tmp_path, earlier=1, last_step=None) as keeper:
        keeper.save(state(1), is_best=False)
        keeper.flush()
        monkeypatch.setattr(tensor_files, "new_file", full)
        keeper.save(state(2), is_best=False)
        with pytest.raises(OutputError, match=r"next.pt: cannot be written \(No space left on device\).*--resume"):
            while True:
                keeper.check()
        keeper.check()
    assert tensor_files.load(tmp_path / "last.pt")["step"] == 1


STATE = {
    **{name: {} for name in ("model", "average", "optimiser", "scaler", "meter", "config")},
    **dict.fromkeys(("step", "position", "evaluated"), 0),
    "best": float("inf"),
}


@pytest.mark.parametrize("name", STATE)
def test_what_is_no_state_of_a_run_is_not_resumed_from(name: str, tmp_path: Path) -> None:
    """Such as best.pt or published weights under the name last.pt."""
    tensor_files.save(tmp_path / "last.pt", STATE)
    assert load_newest(tmp_path) is not None
    tensor_files.save(tmp_path / "last.pt", {**STATE, name: "text"})
    with pytest.raises(DataError, match=f"last.pt: is no whole state of a run, it lacks {name}, nor is any before it"):
        load_newest(tmp_path)


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_a_state_of_an_unknown_version_is_not_resumed_from(version: object, tmp_path: Path) -> None:
    tensor_files.save(tmp_path / "last.pt", {**STATE, "version": version})
    with pytest.raises(DataError, match=r"last.pt: is of a version that is not known here; go on with the release"):
        load_newest(tmp_path)
