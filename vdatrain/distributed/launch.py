"""The environment that a launcher such as torchrun sets for each process."""

import os
import socket
from dataclasses import dataclass

from vdaprep.errors import UsageError


@dataclass(frozen=True)
class Launch:
    """One of several processes that train together."""

    rank: int
    """Number of this process."""
    world: int
    """Number of processes."""
    local_rank: int
    """Number of this process on its machine."""
    host: str
    """Host of the store through which the processes find each other."""
    port: int
    """Its port."""
    hosts_store: bool
    """Whether the store is in this process, and not in an agent of the launcher."""
    attempt: str
    """How often the launcher has restarted the processes."""


def launched() -> Launch | None:
    """Return what the environment says of this process; None if it is alone.

    Raises UsageError if there are to be several and something that they need to find each other is missing.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1":
        return None
    try:
        rank = int(os.environ["RANK"])
        return Launch(
            rank=rank,
            world=int(world),
            local_rank=int(os.environ.get("LOCAL_RANK", rank)),
            host=os.environ["MASTER_ADDR"],
            port=int(os.environ["MASTER_PORT"]),
            hosts_store=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
            attempt=os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
        )
    except KeyError as error:
        raise UsageError(
            f"WORLD_SIZE={world}: {error.args[0]} is not set; start all processes with torchrun, or set RANK, "
            "LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each."
        ) from error
    except ValueError as error:
        raise UsageError(
            f"WORLD_SIZE={world}, RANK, LOCAL_RANK and MASTER_PORT have to be numbers ({error})."
        ) from error


def torchrun_agent() -> str | None:
    """Return what tells apart the torchrun agent that started this process; None without.

    The agent stays the same where it starts its processes again (`--max-restarts`).
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name is None else f"{name}, process {os.getppid()} on {socket.gethostname()}"


def is_restarted() -> bool:
    """Whether torchrun started these processes again after one of them had failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def spans_machines() -> bool:
    """Whether these processes run on several machines, as far as the launcher says."""
    world = os.environ.get("WORLD_SIZE", "1")
    return os.environ.get("LOCAL_WORLD_SIZE", world) != world


def is_main_process() -> bool:
    """Whether this process is rank 0, which prints what all ranks would print."""
    return not rank_prefix()


def rank_prefix() -> str:
    """Return `, rank 3` to mark the messages of a rank other than 0, an empty text for rank 0."""
    rank = os.environ.get("RANK", "0")
    return "" if os.environ.get("WORLD_SIZE", "1") == "1" or rank == "0" else f", rank {rank}"
