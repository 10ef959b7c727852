"""Batches on the device before they are needed there."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace

import torch
from torch import Tensor

from vdatrain.batch import Batch
from vdatrain.reading import Sample


class Feed:
    """Turns samples into batches, each while the device is still at work on the one before.

    On a GPU all copies and the work on them run in a stream of their own, from pinned memory: neither the host nor the
    training's stream waits for them. show: makes a batch on the device. waited: seconds in which there was nothing to
    compute because there were no samples.
    """

    def __init__(
        self, samples: Iterator[list[Sample]], show: Callable[[Sequence[Sample]], Batch], *, device: torch.device
    ) -> None:
        self._samples = samples
        self._show = show
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ready: Batch | None = None
        self.waited = 0.0

    def prepare(self) -> None:
        """Begin to bring the next batch to the device, unless it is under way; raises what reading samples raises."""
        if self._ready is not None:
            return
        before = time.perf_counter()
        samples = next(self._samples)
        if self._is_idle():
            self.waited += time.perf_counter() - before
        with self._aside():
            self._ready = self._show([_pinned(sample) for sample in samples] if self._stream else samples)

    def peek(self) -> Batch:
        """Return the next batch and leave it the next."""
        self.prepare()
        assert self._ready is not None
        if self._stream is not None:
            _hand_over(self._ready, to=torch.cuda.current_stream(self._device), of=self._stream)
        return self._ready

    def close(self) -> None:
        """End the processes or threads that read."""
        if isinstance(self._samples, Generator):
            self._samples.close()

    def take(self) -> Batch:
        """Return the next batch for the current stream."""
        batch = self.peek()
        self._ready = None
        return batch

    def _is_idle(self) -> bool:
        """Say, without waiting, whether the device has done all that it was given."""
        return self._stream is None or torch.cuda.current_stream(self._device).query()

    def _aside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _pinned(sample: Sample) -> Sample:
    """Return the sample with its tensors in memory that a GPU reads by itself."""
    pageable = {name: value for name, value in _tensors(sample).items() if not value.is_pinned()}
    return replace(sample, **{name: value.pin_memory() for name, value in pageable.items()})


def _hand_over(batch: Batch, *, to: torch.cuda.Stream, of: torch.cuda.Stream) -> None:
    """Let the stream `to` wait for the batch, and its memory stay until that stream has used it."""
    to.wait_stream(of)
    for tensor in _tensors(batch).values():
        tensor.record_stream(to)
    if batch.images is not None:
        _hand_over(batch.images, to=to, of=of)
    if batch.images is not None:
        _hand_over(batch.images, to=to, of=of)


def _tensors(value: Sample | Batch) -> dict[str, Tensor]:
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: item for name, item in found.items() if isinstance(item, Tensor)}
