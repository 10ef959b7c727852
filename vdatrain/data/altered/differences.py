"""Frame differences other than a window's own, for the ablations and controls of a study."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vdaprep.errors import UsageError
from vdaprep.shards.metadata import DiffSpec
from vdatrain.data.batch import Batch
from vdatrain.data.sampler import Window
from vdatrain.data.samples import Sample
from vdatrain.models.layers.difference import CELLS_PER_PATCH

_SCALE_TIMES_CELLS = 16
"""Differences are taken at 1/4 of the frame's scale for a model that is shown 4 cells a patch of 14 pixels."""


def decoded_spec(spec: DiffSpec | None, *, cells: int) -> DiffSpec:
    """Return how differences of decoded frames are taken for so many cells a patch.

    spec: how the stored ones were; None where there are none.
    """
    if spec is None or cells != CELLS_PER_PATCH:
        return DiffSpec(scale=_SCALE_TIMES_CELLS // cells, step=1 if spec is None else spec.step, origin="decoded")
    return replace(spec, origin="decoded")


def decoded(sample: Sample, *, cells: int = CELLS_PER_PATCH) -> Sample:
    """Return the sample with differences of its decoded frames, as `decoded_spec` says.

    Also where better ones, of the raw frames, are stored. The first frame, which has no frame before it in the window,
    then has none.
    """
    diff = decoded_spec(sample.diff, cells=cells)
    return replace(sample, diff=diff, differences=None, diff_valid=np.arange(len(sample.diff_valid)) > 0)


def shuffled(batch: Batch) -> Batch:
    """Give each window the differences of another clip, see `others_of`.

    The order of a batch follows from the seed, and so does this.
    """
    given = others_of(batch.keys)
    return replace(
        batch,
        differences=torch.stack([batch.differences[row] for row in given]),
        diff_valid=torch.stack([batch.diff_valid[row] for row in given]),
        images=None if batch.images is None else shuffled(batch.images),
    )


def others_of(keys: Sequence[str]) -> list[int]:
    """Return for each window of a batch the next one of another clip.

    Where all are of one, it is the next. keys: the windows' clips.
    """
    count = len(keys)
    given: list[int] = []
    for row, key in enumerate(keys):
        following = [(row + step) % count for step in range(1, count + 1)]
        given.append(next((other for other in following if keys[other] != key), following[0]))
    return given


def foreign_window(order: Sequence[Window], position: int) -> Window:
    """Return the window whose differences the one at `position` is shown.

    It is half the evaluation further on, or the next after that of another clip; raises UsageError if there is none.
    """
    count = len(order)
    others = (order[(position + count // 2 + step) % count] for step in range(count))
    found = next((window for window in others if window.clip != order[position].clip), None)
    if found is None:
        raise UsageError(
            "--differences shuffled: all windows of the evaluation are of one clip, and those of another one are to be "
            "shown; hold more clips out, or evaluate more windows."
        )
    return found
