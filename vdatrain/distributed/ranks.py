"""The processes that train together: what they exchange, how they meet and how they part."""

import io
import json
import logging
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten, tree_map_only

from vdaprep.errors import UsageError, VdakitError
from vdatrain.distributed.launch import Launch, launched
from vdatrain.distributed.watchdog import Watchdog

_log = logging.getLogger(__name__)

_GATHERING = timedelta(minutes=5)  # until all ranks have to be connected
_PATIENCE = timedelta(minutes=30)  # for a rank that lives and still takes no part in a collective call
_STORE = timedelta(seconds=15)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; of this class it is the only one."""

    rank: int = 0
    """Number of this process."""
    world: int = 1
    """Number of processes."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports; a run's folder is on its machine.

        The launcher may choose another machine for it when the run is resumed, so all should see the same disk.
        """
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks, on its device, without waiting for that."""
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor on the host over the ranks."""
        return values

    def any_rank(self, wanted: bool) -> bool:
        """Return whether `wanted` is true on any rank: the same answer on all of them.

        With several ranks the answer is that of the call before, which was exchanged while they worked: no rank waits.
        """
        return wanted

    def broadcast_from_rank0(self, value: Any) -> Any:
        """Return what the first rank has: numbers, texts, host tensors, containers of them."""
        return value

    def gather(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the texts that each rank has, the first rank's first."""
        return [list(texts)]

    def wrap_ddp(self, model: nn.Module) -> nn.Module:
        """Return what to call in place of a model so that gradients are averaged over ranks."""
        return model


@dataclass(frozen=True)
class GroupRanks(Ranks):
    """This process among others, over torch.distributed.

    All ranks have to call the same methods in the same order.
    """

    _asked: deque[tuple[dist.Work, Tensor]] = field(default_factory=deque)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks, on its device, without waiting for that."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor on the host over the ranks."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    def any_rank(self, wanted: bool) -> bool:
        """Return whether any rank wanted it at the call before."""
        flag = torch.tensor([int(wanted)])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True)
        assert work is not None
        self._asked.append((work, flag))
        if len(self._asked) == 1:
            return False
        work, flag = self._asked.popleft()
        work.wait()
        return bool(flag.item())

    def broadcast_from_rank0(self, value: Any) -> Any:
        """Return what the first rank has: its structure as bytes, then tensor after tensor."""
        buffer = io.BytesIO()
        if self.is_first:
            torch.save(tree_map_only(Tensor, lambda tensor: tensor.to("meta"), value), buffer)
        form = torch.frombuffer(bytearray(buffer.getvalue() or b"\0"), dtype=torch.uint8)
        size = torch.tensor([len(form)])
        dist.broadcast(size, 0)
        form = form if self.is_first else torch.empty(int(size.item()), dtype=torch.uint8)
        dist.broadcast(form, 0)
        if not self.is_first:
            empty = torch.load(io.BytesIO(form.numpy().tobytes()), weights_only=True)
            value = tree_map_only(Tensor, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype), empty)
        for tensor in tree_flatten(value)[0]:
            if isinstance(tensor, Tensor) and tensor.numel():
                # Of the others' tensors, which are new and so contiguous, this is a view.
                dist.broadcast(tensor.contiguous().view(-1).view(torch.uint8), 0)
        return value

    def gather(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the texts that each rank has, exchanged as JSON that is padded to the longest."""
        mine = torch.frombuffer(bytearray(json.dumps(list(texts)).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(mine)]))
        longest = max(int(size.item()) for size in sizes)
        forms = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(forms, nn.functional.pad(mine, (0, longest - len(mine)), value=ord(" ")))
        return [json.loads(form.numpy().tobytes()) for form in forms]

    def wrap_ddp(self, model: nn.Module) -> nn.Module:
        """Return the model as DistributedDataParallel; all that learns has a gradient each step."""
        with warnings.catch_warnings():  # newer versions call `broadcast_buffers` otherwise
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def barrier(self) -> None:
        """Wait until all ranks have called this and no exchange is pending."""
        while self._asked:
            self._asked.popleft()[0].wait()
        self.sum(torch.zeros(1))


# ---------------------------------------------------------------------------------------------------- to meet and part


@contextmanager
def process_group() -> Generator[Ranks]:
    """Join the processes launched with this one while the block runs, each on its own GPU.

    Once a rank is gone, or has ended with an error, all others end within half a minute: the process says why and exits
    with 1, wherever it waits. Raises UsageError if the GPUs do not suffice, VdakitError if not all ranks come.
    """
    launch = launched()
    if launch is None:
        yield Ranks()
        return
    _choose_gpu(launch)
    ranks, watch = _meet(launch)
    watch.start()
    try:
        yield ranks
    except BaseException as error:
        _part_early(watch, error)
        raise
    _part(ranks, watch)


def _choose_gpu(launch: Launch) -> None:
    count = torch.cuda.device_count()
    if not count:
        return
    if launch.local_rank >= count:
        raise UsageError(
            f"local rank {launch.local_rank} has no GPU: this machine has {count}; start at most as many processes "
            f"here (--nproc-per-node {count}), and set LOCAL_RANK if it was not torchrun that started them."
        )
    torch.cuda.set_device(launch.local_rank)


def _meet(launch: Launch) -> tuple[GroupRanks, Watchdog]:
    where = f"{launch.host}:{launch.port}"
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=_GATHERING)))
        store.set_timeout(_GATHERING)
        # Those who restart the ranks may keep the store, with the addresses of the ranks before.
        store = PrefixStore(f"vdatrain/ranks/{launch.attempt}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_PATIENCE)
        # A connection of its own: the other one may be waiting when there is something to say.
        own = TCPStore(launch.host, launch.port, is_master=False, wait_for_workers=False, timeout=_STORE)
    except RuntimeError as error:
        raise VdakitError(
            f"rank {launch.rank} of {launch.world}: the ranks did not all meet at {where} within "
            f"{_GATHERING.total_seconds():.0f} s ({str(error).partition(chr(10))[0]}); see whether every process was "
            "started and whether all machines can reach that address."
        ) from error
    mine = PrefixStore(f"vdatrain/{launch.attempt}", own)
    return GroupRanks(rank, world), Watchdog(mine, ranks=(rank, world), hosts_store=launch.hosts_store, end=_end)


def _part(ranks: GroupRanks, watch: Watchdog) -> None:
    """Leave together, so that no watchdog takes a rank that has left for a lost one."""
    ranks.barrier()
    watch.stop()
    ranks.barrier()
    dist.destroy_process_group()


def _part_early(watch: Watchdog, error: BaseException) -> None:
    """Announce the error to the other ranks.

    First wait, if it may come from a lost rank, whether one is found.
    """
    if isinstance(error, RuntimeError):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it as soon as any rank is gone
        watch.suspect()
    watch.announce(str(error) or type(error).__name__)


def _end(reason: str) -> None:
    """End this process at once: its main thread may wait for a rank that will never answer."""
    sentence = f"{reason.rstrip('.')}. All ranks end; with --resume the run goes on from its last checkpoint."
    _log.critical(sentence)
    os._exit(1)
