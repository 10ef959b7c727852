"""What tests let two ranks do, in processes of their own: `python -m tests.distributed.ranks WORK JSON`."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.distributed.forked import PATIENCE_S, free_port

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a rank ended, and what it wrote."""

    code: int
    out: str
    err: str


def on_two_ranks(work: str, **options: object) -> tuple[Ended, Ended]:
    """Do one of the works below as each of two ranks; whatever goes wrong, neither is left behind."""
    argv = [sys.executable, "-m", "tests.distributed.ranks", work, json.dumps(options)]
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        ranks = [
            subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, **launch, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        for process in ranks:
            stack.enter_context(process)
            stack.callback(process.kill)
        first, second = (process.communicate(timeout=PATIENCE_S) for process in ranks)
    return Ended(ranks[0].returncode, *first), Ended(ranks[1].returncode, *second)


# -------------------------------------------------------------------------------------------------------- what they do


def weigh(folder: str, options: dict[str, Any]) -> dict[str, int]:
    """Take a step in a folder; returns the bytes that this rank then holds of the model, by part."""
    from vdatrain.distributed.ranks import process_group

    with process_group() as ranks:
        return _weigh(ranks, Path(folder), options)


def _weigh(ranks: Any, folder: Path, options: dict[str, Any]) -> dict[str, int]:
    import torch

    from vdatrain.config import TrainConfig
    from vdatrain.device import Precision
    from vdatrain.training import state, step, trainer
    from vdatrain.training.planning import memory

    begun = state.new_state(TrainConfig(**options), folder, precision=Precision(torch.device("cpu")), ranks=ranks)
    gathered = _Gathered(begun.model)
    with contextlib.closing(trainer.open_loader(begun)) as feed:
        step.train_step(begun, feed)
    moments = [state[name] for state in begun.optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert begun.average is not None
    return {
        memory.WEIGHTS: _local_bytes([*begun.model.parameters(), *begun.model.buffers()]),
        memory.OPTIMISER: _local_bytes(moments),
        memory.AVERAGE: _local_bytes(begun.average.state_dict().values()),
        memory.GRADIENTS: _local_bytes(value.grad for value in begun.trained if value.grad is not None),
        memory.GATHERED: 2 * gathered.most,
    }


def _local_bytes(tensors: Iterable[Any]) -> int:
    """Return the memory of what this rank has of tensors, that of several in one piece once."""
    parts = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum({part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in parts}.values())


class _Gathered:
    """Notes how many bytes of a sharded model's weights are whole, on the way there and on the way back."""

    def __init__(self, model: Any) -> None:
        self.most = 0
        self._model = model
        for module in model.modules():
            module.register_forward_hook(self._after)

    def _after(self, module: object, inputs: object, output: Any) -> None:
        self._look()
        if getattr(output, "requires_grad", False):
            output.register_hook(lambda gradient: self._look())

    def _look(self) -> None:
        whole = [value for value in self._model.parameters() if not hasattr(value, "to_local")]
        self.most = max(self.most, sum(value.nbytes for value in whole))


def spoil(folder: str, options: dict[str, Any], max_skipped: int) -> list[str]:
    """Train on clips that have a rank in their names and losses that are not finite; returns how that ends."""
    from dataclasses import replace

    import torch

    from vdaprep.errors import VdakitError
    from vdatrain.config import TrainConfig
    from vdatrain.data import loader
    from vdatrain.device import Precision
    from vdatrain.distributed.ranks import process_group
    from vdatrain.training import monitor, state, step, trainer

    monitor.MAX_SKIPPED = max_skipped
    make_batch, loss = loader.make_batch, step.video_loss
    step.video_loss = lambda *given: replace(loss(*given), total=loss(*given).total * torch.inf)
    with process_group() as ranks:

        def named(*given: Any, **others: Any) -> Any:
            batch = make_batch(*given, **others)
            return replace(batch, keys=tuple(f"{key}-seen-by-{ranks.rank}" for key in batch.keys))

        loader.make_batch = named
        begun = state.new_state(
            TrainConfig(**options), Path(folder), precision=Precision(torch.device("cpu")), ranks=ranks
        )
        try:
            trainer.train_state(begun)
        except VdakitError as error:
            return [str(error), str(begun.step)]
    return []


if __name__ == "__main__":
    works = {"weigh": weigh, "spoil": spoil}
    sys.stdout.write(json.dumps(works[sys.argv[1]](**json.loads(sys.argv[2]))))
