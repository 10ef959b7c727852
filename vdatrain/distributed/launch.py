"""What a launcher such as torchrun says of this process."""

import os
from dataclasses import dataclass

from vdaprep.errors import UsageError


@dataclass(frozen=True)
class Launch:
    """One of `world` processes that train together, numbered by `rank`; `local_rank` counts those on this machine.

    host, port: of the store through which they find each other. keeps_store: whether this process is it, and no agent
    of the launcher. attempt: how often the launcher has started them anew.
    """

    rank: int
    world: int
    local_rank: int
    host: str
    port: int
    keeps_store: bool
    attempt: str


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
            keeps_store=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
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


def spans_machines() -> bool:
    """Whether these processes run on several machines, each with disks of its own, as far as the launcher says."""
    world = os.environ.get("WORLD_SIZE", "1")
    return os.environ.get("LOCAL_WORLD_SIZE", world) != world


def is_main_process() -> bool:
    """Whether this process is the one that says what all of them would say."""
    return not rank_prefix()


def rank_prefix() -> str:
    """Return `, rank 3` for a process whose sentences have to be told from those of the first, nothing for that one."""
    rank = os.environ.get("RANK", "0")
    return "" if os.environ.get("WORLD_SIZE", "1") == "1" or rank == "0" else f", rank {rank}"
