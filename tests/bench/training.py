"""A training step as `vdatrain.train` takes it, with a call after each of its parts."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from tests.bench.rendered import Rendered
from vdaprep.shards.dataset import open_shards
from vdatrain.config import PRESETS
from vdatrain.data.batch import Batch, make_batch
from vdatrain.data.sampler import DistributedPositions, WindowSampler, WindowShape
from vdatrain.data.samples import Sample
from vdatrain.data.stream import stream_batches
from vdatrain.data.transforms import Augmentation, sample_augmentations
from vdatrain.device import Precision
from vdatrain.models import variants
from vdatrain.objectives.losses import video_loss
from vdatrain.training.optim import AveragedWeights, gradient_norm, make_optimiser, parameter_groups

WAIT, BATCH, ENCODER, BRANCH, HEAD = "wait", "to the device, batch", "encoder", "branch", "head"
BETWEEN, LOSS, BACKWARD, OPTIMISER = "between modules", "loss", "backward", "clip, optimiser, average"
PARTS = (WAIT, BATCH, ENCODER, BRANCH, HEAD, BETWEEN, LOSS, BACKWARD, OPTIMISER)


class Laps:
    """Seconds by part; waits for the device at the end of each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mark = time.perf_counter()
        self.seconds: Counter[str] = Counter()

    def start(self) -> None:
        self.seconds.clear()
        self._mark = self._now()

    def end(self, part: str) -> None:
        now = self._now()
        self.seconds[part] += now - self._mark
        self._mark = now

    def _now(self) -> float:
        wait_for(self._device)
        return time.perf_counter()


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Training:
    """A model under training on views of `size` x `size` pixels."""

    model: nn.Module
    size: int
    precision: Precision

    def __post_init__(self) -> None:
        self.model.to(self.precision.device).train()
        groups = parameter_groups(self.model, PRESETS["scratch"], lr=None, weight_decay=0.01)
        self._optimiser = make_optimiser(groups, device=self.precision.device)
        self._average = AveragedWeights(self.model, decay=0.999)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._step = 0

    def step(self, batches: Iterator[list[Sample]], end: Callable[[str], None]) -> None:
        """Take a step; `end(part)` is called after each part but those inside the model, which `watch` sees."""
        samples = next(batches)
        end(WAIT)
        batch = self.show(samples)
        end(BATCH)
        self.compute_gradient(batch, end)
        gradient_norm(self._trained, clip=1.0)
        self._optimiser.step()
        self._average.update(self.model, step=self._step)
        self._optimiser.zero_grad(set_to_none=True)
        self._step += 1
        end(OPTIMISER)

    def show(self, samples: list[Sample]) -> Batch:
        """Return a batch of augmented views, on the device."""
        views = sample_augmentations(samples, (self.size, self.size), augmentation=Augmentation(), seed=0)
        return make_batch(samples, views, device=self.precision.device)

    def compute_gradient(self, batch: Batch, end: Callable[[str], None]) -> None:
        """Go forward and backward; `end` as in `step`."""
        with self.precision.autocast():
            prediction = self.model(batch.frames, batch.differences, batch.diff_valid)
        end(BETWEEN)
        loss = video_loss(prediction, batch.disparity, batch.mask)
        end(LOSS)
        loss.total.backward()
        end(BACKWARD)


def build(variant: str, *, encoder: str, frames: int) -> nn.Module:
    """Build a variant with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return variants.build(variant, encoder=encoder, max_frames=max(32, frames))


def watch(model: nn.Module, laps: Laps) -> None:
    """End a lap wherever one of the model's parts begins and ends."""
    for part, name in ((ENCODER, "pretrained"), (BRANCH, "branch"), (HEAD, "head")):
        module = getattr(model, name)
        if module is not None:
            module.register_forward_pre_hook(lambda *_: laps.end(BETWEEN))
            module.register_forward_hook(lambda *_, part=part: laps.end(part))


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Let torch compute on one core: on a busy machine, threads wait for the one that was interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def streaming(rendered: Rendered, *, frames: int, batch: int, workers: int) -> Generator[Iterator[list[Sample]]]:
    """Stream batches of windows without an end; the workers end with the block."""
    clips = open_shards(rendered.shards).clips(split="train")
    order = WindowSampler(tuple(clip.num_frames for clip in clips), WindowShape(frames))
    batches = stream_batches(clips, order, positions=DistributedPositions(batch=batch), workers=workers)
    try:
        yield batches
    finally:
        batches.close()
