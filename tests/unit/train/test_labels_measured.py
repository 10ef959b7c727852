"""What has no metres is never measured in metres."""

from pathlib import Path

import pytest
import torch

from tests.unit.prep.test_labels import clip_of, labelled, written
from vdaprep.errors import DataError, ShardError
from vdaprep.shards.writer import EncodedClip
from vdatrain.device import Precision
from vdatrain.evaluation.evaluate import evaluate_clips, plan_evaluation
from vdatrain.evaluation.long import evaluate_long
from vdatrain.inference.predictor import Predictor
from vdatrain.models.variants import build

TEACHER = (
    DataError,
    "data set toy: clip toy-t-000000 has a teacher's disparity, .* and errors of depth and TAE need metres",
)
NONE = ShardError, "its frames have no depth, expected labels; vdatrain label makes those of a teacher"


@pytest.mark.parametrize(("clip", "refusal"), [(labelled(), TEACHER), (clip_of(2, []), NONE)], ids=["relative", "none"])
def test_no_figure_is_taken_without_metres(
    clip: EncodedClip, refusal: tuple[type[Exception], str], tmp_path: Path
) -> None:
    stored = written(tmp_path, clip)
    model = build("basic", encoder="tiny")
    predictor = Predictor(model, Precision(torch.device("cpu")), size=28)
    kind, sentence = refusal
    with pytest.raises(kind, match=sentence):
        evaluate_clips(model, [stored], plan_evaluation(predictor, frames=2), precision=predictor.precision)
    with pytest.raises(kind, match=sentence):
        evaluate_long([stored], predictor)
