"""A teacher: weights that predict relative disparity, with their hash and licence."""

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vdaprep.errors import UsageError
from vdaprep.shards.metadata import DiffSpec
from vdaprep.shards.records import DataTerms
from vdatrain.inference.predictor import Predictor
from vdatrain.inference.video import VideoFrame
from vdatrain.models import published, tensor_files
from vdatrain.models.weights import read_weights


@dataclass(frozen=True)
class Teacher:
    """Weights that label; made by `as_teacher`."""

    predictor: Predictor
    """The model."""
    facts: dict[str, str]
    """Name, SHA-256 of the file, licence, and the pixels of the short side that the model sees."""
    terms: tuple[DataTerms, ...]
    """The licences of the weights, or of the data that they were trained on, as far as that is known."""
    sees_time: bool
    """Whether it was trained on videos; an image model's scale changes from frame to frame."""

    def disparities(
        self, frames: Iterable[VideoFrame], *, diff: DiffSpec, single: bool
    ) -> Generator[Float32[np.ndarray, "h w"]]:
        """Yield each frame's disparity, of a video with one scale and shift.

        single: whether it is one frame alone, which is then predicted without any beside it.
        """
        predictor = replace(self.predictor, diff=diff)
        if single:
            [frame] = frames
            yield predictor.predict_window([predictor.prepare(frame)])[0].cpu().numpy()
            return
        with closing(predictor.predict_frames(frames)) as maps:
            for disparity in maps:
                yield disparity.cpu().numpy()


def as_teacher(weights: str | Path, predictor: Predictor) -> Teacher:
    """Say what is known of a predictor's weights.

    Args:
        weights: What `predictor` was loaded from: a file, or published weights by name.
        predictor: The loaded model.

    Raises:
        UsageError: It predicts depth in metres, not disparity, so near and far would swap.
    """
    if predictor.metric:
        raise UsageError(
            f"--teacher {weights}: predicts depth in metres, expected relative disparity, which labels of kind "
            "`relative` hold; take relative weights, such as vda-small."
        )
    known = published.named(weights)
    path = published.fetch(known.name).path if known else Path(weights)
    found = read_weights(path)
    terms = (known.terms,) if known else found.data
    facts = {
        "teacher": known.name if known else path.name,
        "teacher_sha256": tensor_files.sha256_of(path),
        "teacher_licence": "; ".join(item.named() for item in terms) or "not said",
        "teacher_size": str(predictor.size),
    }
    return Teacher(predictor, facts, terms, sees_time=not found.lacks)
