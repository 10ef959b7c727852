"""The ranks of a training from the inside: who they are, that they hear of each other, what they share."""

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import PrefixStore, TCPStore

from vdaprep.errors import DataError, UsageError
from vdatrain.config import TrainConfig
from vdatrain.data.sampler import partition
from vdatrain.device import Precision
from vdatrain.distributed.fsdp import spread_moments
from vdatrain.distributed.launch import is_main_process, launched, torchrun_agent
from vdatrain.distributed.ranks import Ranks, process_group
from vdatrain.distributed.watchdog import Heartbeat, Watchdog
from vdatrain.models import variants
from vdatrain.objectives.losses import video_loss
from vdatrain.run_dir import is_own, read_facts, write_facts
from vdatrain.training import state, step, trainer
from vdatrain.training.optim import make_optimiser

LAUNCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
QUICK = Heartbeat(beat_s=0.05, silence_s=3.0, suspected_s=1.0, farewell_s=0.3)  # threads are not heard of for a while


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What a launcher sets, and nothing else of that kind."""
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in LAUNCH.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


# ------------------------------------------------------------------------------------------------------------- launches


def test_a_process_knows_who_it_is(environment: pytest.MonkeyPatch) -> None:
    launch = launched()
    assert launch is not None
    assert (launch.rank, launch.world, launch.local_rank, launch.host, launch.port) == (3, 4, 1, "node0", 29500)
    assert not launch.hosts_store
    assert not is_main_process()
    environment.setenv("RANK", "0")
    assert launched() == replace(launch, rank=0, hosts_store=True)
    assert is_main_process()
    environment.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert launched() == replace(launch, rank=0)
    environment.setenv("WORLD_SIZE", "1")
    assert launched() is None
    environment.delenv("WORLD_SIZE")
    with process_group() as ranks:
        assert ranks == Ranks()


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_what_is_missing_of_a_launch_is_named(name: str, environment: pytest.MonkeyPatch) -> None:
    environment.delenv(name)
    with pytest.raises(UsageError, match=f"^WORLD_SIZE=4: {name} is not set; start all processes with torchrun"):
        launched()


def test_numbers_of_a_launch_are_numbers(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_PORT", "http")
    with pytest.raises(UsageError, match="have to be numbers"):
        launched()


# ---------------------------------------------------------------------------------------------------------- heard, lost


class Circle:
    """Some ranks that watch each other through a store of their own, in threads."""

    def __init__(self, world: int) -> None:
        self.store: TCPStore | None = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.ends: dict[int, str] = {}
        port = self.store.port
        clients = [TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False) for _ in range(world)]
        self.watches = [
            Watchdog(
                PrefixStore("test", client),
                ranks=(rank, world),
                hosts_store=rank == 0,
                end=lambda sentence, rank=rank: self.ends.__setitem__(rank, sentence),
                pulse=QUICK,
            )
            for rank, client in enumerate(clients)
        ]

    def wait_for(self, ended: set[int]) -> dict[int, str]:
        wait_until(lambda: set(self.ends) == ended)
        return self.ends

    def wait_until_heard(self, rank: int) -> None:
        """Wait until a rank has been heard of by the one that listens to it."""
        listener = self.watches[(rank - 1) % len(self.watches)]
        wait_until(lambda: bool(listener._heard))


def wait_until(true: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < 120
        time.sleep(0.02)


@pytest.fixture
def circle() -> Iterator[Callable[[int], Circle]]:
    made: list[Circle] = []

    def make(world: int) -> Circle:
        made.append(Circle(world))
        return made[-1]

    yield make
    for watch in made[0].watches:
        watch.stop()


@pytest.mark.slow
def test_ranks_that_are_heard_of_are_left_alone(circle: Callable[[int], Circle]) -> None:
    found = circle(3)
    for watch in found.watches:
        watch.start()
    time.sleep(2 * QUICK.silence_s)
    assert found.ends == {}


@pytest.mark.slow
@pytest.mark.parametrize("silent", [0, 2])
def test_a_silent_rank_ends_all_others(silent: int, circle: Callable[[int], Circle]) -> None:
    found = circle(4)
    for rank, watch in enumerate(found.watches):
        if rank != silent:
            watch.start()
    ends = found.wait_for({0, 1, 2, 3} - {silent})
    assert len(set(ends.values())) == 1
    assert next(iter(ends.values())).startswith(f"rank {silent} has not been heard of for ")


@pytest.mark.slow
def test_a_lost_rank_is_named_by_where_it_ran(circle: Callable[[int], Circle]) -> None:
    found = circle(2)
    for watch in found.watches:
        watch.start()
    found.wait_until_heard(1)
    found.watches[1].stop()  # as if it had been killed
    found.watches[0].suspect()
    [sentence] = found.wait_for({0}).values()
    assert sentence.startswith("rank 1 (process ")
    assert sentence.endswith("it was killed, or its machine or network is gone")


def test_an_error_is_told_to_all_others(circle: Callable[[int], Circle]) -> None:
    found = circle(3)
    for watch in found.watches:
        watch.start()
    found.watches[1].announce("shard-0001.tar: is damaged.")
    ends = found.wait_for({0, 2})
    assert set(ends.values()) == {f"rank 1 on {socket.gethostname()} ended: shard-0001.tar: is damaged."}


def test_all_end_where_the_store_is_gone(circle: Callable[[int], Circle]) -> None:
    found = circle(2)
    for watch in found.watches[1:]:
        watch.start()
    time.sleep(2 * QUICK.beat_s)
    found.store = None
    [sentence] = found.wait_for({1}).values()
    assert "rank 0" in sentence


@pytest.mark.slow
def test_all_end_where_the_store_does_not_answer(circle: Callable[[int], Circle]) -> None:
    found = circle(2)
    answers = threading.Event()
    watch = found.watches[1]
    watch._round = lambda number: answers.wait(120) and ""  # type: ignore[method-assign,assignment]
    watch.start()
    [sentence] = found.wait_for({1}).values()
    answers.set()
    assert sentence.startswith("rank 0, which keeps the ranks in touch, has not answered for ")


# ------------------------------------------------------------------------------------------------------ what they share


@pytest.mark.parametrize(("total", "world"), [(1, 1), (7, 1), (7, 2), (8, 3), (2, 4), (5, 5), (32, 16)])
def test_ranks_divide_the_windows_of_an_evaluation(total: int, world: int) -> None:
    pictured = {0, total // 2}
    parts = [partition(total, first_takes=pictured, rank=rank, world=world) for rank in range(world)]
    assert sorted(position for part, _ in parts for position in part) == list(range(total))
    assert pictured <= set(parts[0][0])
    assert {most for _, most in parts} == {max(len(part) for part, _ in parts)}
    assert max(len(part) for part, _ in parts) <= max(math.ceil(total / world), len(pictured))
    assert all(part == tuple(sorted(part)) for part, _ in parts)


def test_the_mean_of_the_ranks_losses_is_that_of_all_windows() -> None:
    """Although they see different numbers of valid pixels, one of them none."""
    torch.manual_seed(0)
    prediction, target = (torch.rand(3, 2, 12, 12, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(3, 2, 12, 12) > torch.tensor([0.1, 0.8, 1.0]).view(3, 1, 1, 1)
    together = prediction.clone().requires_grad_()
    whole = video_loss(together, target, mask)
    whole.total.backward()

    counts: list[list[torch.Tensor]] = [[], [], []]
    for rank in range(3):
        one = slice(rank, rank + 1)
        video_loss(
            prediction[one], target[one], mask[one], lambda value, rank=rank: counts[rank].append(value) or value
        )
    means = [torch.stack(values).mean(0) for values in zip(*counts, strict=True)]
    parts, gradients = [], []
    for rank in range(3):
        one, answers = slice(rank, rank + 1), iter(means)
        apart = prediction[one].clone().requires_grad_()
        loss = video_loss(apart, target[one], mask[one], lambda value, answers=answers: next(answers))
        loss.total.backward()
        parts.append(loss)
        gradients.append(apart.grad / 3)
    for name in ("total", "spatial", "temporal"):
        mean = torch.stack([getattr(part, name) for part in parts]).mean()
        torch.testing.assert_close(mean, getattr(whole, name), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat(gradients), together.grad, rtol=1e-10, atol=1e-15)


@dataclass(frozen=True)
class Elsewhere(Ranks):
    """The second rank of two, the first of which has other shards than this one."""

    def broadcast_from_rank0(self, value: Any) -> Any:
        return f"not {value}"


def test_all_ranks_read_the_same_shards(toy_shards: Path, tmp_path: Path) -> None:
    config = TrainConfig(shards=str(toy_shards), encoder="tiny", frames=2, size=28, workers=0)
    run = state.new_state(config, tmp_path, precision=Precision(torch.device("cpu")))
    run.ranks = Elsewhere(1, 2)
    with pytest.raises(DataError, match=rf"{toy_shards}: are other shards on {socket.gethostname()} than rank 0 has"):
        trainer.open_loader(run)


def test_a_run_that_is_not_on_this_machine_is_missed_there(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run to resume; leave --resume out to begin one"):
        read_facts(tmp_path)
    environment.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(DataError, match=f"holds no run to resume on {socket.gethostname()}, where rank 0 is now; give"):
        read_facts(tmp_path)


@pytest.mark.parametrize(
    ("began", "now", "restarts", "is_its_own"),
    [
        ("one", "one", 0, False),  # --resume was not given
        ("one", "one", 1, True),
        ("one", "one", 2, True),
        ("one", "other", 1, False),
        (None, "one", 1, False),
        ("one", None, 1, False),
        ("nothing", "one", 1, False),
    ],
)
def test_a_run_is_gone_on_with_by_ranks_that_its_own_launcher_starts_again(
    began: str | None, now: str | None, restarts: int, is_its_own: bool, monkeypatch, tmp_path: Path
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", began), ("TORCHELASTIC_RESTART_COUNT", None)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    if began != "nothing":
        write_facts(tmp_path, {"config": {}, "data": "", "agent": torchrun_agent()})
    if now:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", now)
    else:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
    assert is_own(tmp_path) is is_its_own
    if began == now:
        monkeypatch.setattr(os, "getppid", lambda: 1)  # the same name, as "none" is most often, and another process
        assert not is_own(tmp_path)


@pytest.mark.parametrize("variant", variants.names())
def test_whatever_learns_has_a_gradient(variant: str, toy_shards: Path, tmp_path: Path) -> None:
    """Even of a single frame: ranks that wait for the gradient of a parameter that has none wait for ever."""
    options = {"encoder": "tiny", "frames": 1, "size": 28, "steps": 1, "workers": 0}
    config = TrainConfig(shards=str(toy_shards), variant=variant, **options)
    run = state.new_state(config, tmp_path, precision=Precision(torch.device("cpu")))
    feed = trainer.open_loader(run)
    step.accumulate_gradient(run, next(feed))
    feed.close()
    named = [name for name, value in run.model.named_parameters() if value.requires_grad and value.grad is None]
    assert named == []


def test_moments_are_laid_out_as_their_weights() -> None:
    """Also those of a checkpoint whose weights were laid out otherwise, as sharded ones are."""
    model = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    optimiser = make_optimiser([{"params": list(model.parameters())}], device=torch.device("cpu"))
    moments = {name: torch.rand(4, 3, 2, 2) for name in ("exp_avg", "exp_avg_sq")}
    named = {"weight": {"step": torch.tensor(3.0), **moments}, "bias": {"step": torch.tensor(3.0)}}
    named["bias"] |= {name: torch.rand(4) for name in moments}
    group = {**optimiser.state_dict()["param_groups"][0], "params": ["weight", "bias"]}
    before = {name: value.clone() for name, value in model.named_parameters()}
    spread_moments({"state": named, "param_groups": [group]}, model, optimiser)
    found = optimiser.state[model.weight]
    for name, value in moments.items():
        assert found[name].stride() == model.weight.stride() != value.stride()
        assert torch.equal(found[name], value)
    assert found["step"] == 3
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_sharding_needs_ranks_and_does_without_compiling(toy_shards: Path, tmp_path: Path) -> None:
    config = TrainConfig(shards=str(toy_shards), encoder="tiny", shard_model=True)
    here = Precision(torch.device("cpu"))
    with pytest.raises(UsageError, match="--shard-model: there is one process alone; start several with torchrun"):
        state.new_state(config, tmp_path, precision=here)
    with pytest.raises(UsageError, match="--shard-model does not go together with --compile"):
        state.new_state(replace(config, compile=True), tmp_path, precision=here, ranks=Ranks(0, 2))
