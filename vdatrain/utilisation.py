"""How much of what a GPU can compute a run makes use of."""

from dataclasses import dataclass, replace

from vdatrain.config import Config
from vdatrain.memory import footprint
from vdatrain.planning import attainable_flops
from vdatrain.precision import Precision


@dataclass(frozen=True)
class Utilisation:
    """The operations of a rank's step, those that are recomputed not counted, and those a second that can be had."""

    step_flops: int | float
    attainable: float

    def of(self, step_s: float) -> float:
        """Return the model FLOPs utilisation of steps of so many seconds: 1 would be one large matrix product."""
        return self.step_flops / (step_s * self.attainable)


def utilisation(config: Config, precision: Precision) -> Utilisation:
    """Count a step on tensors without numbers; time matrix products on the device. Takes seconds."""
    windows = replace(config, recompute="none", accumulate=1)
    shown = [windows]
    if config.images_per_clip:
        shown.append(replace(windows, frames=1, batch=config.batch * config.images_per_clip))
    flops = sum(footprint(part, on_gpu=precision.device.type == "cuda").flops for part in shown)
    return Utilisation(flops * config.accumulate, attainable_flops(precision))
