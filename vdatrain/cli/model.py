"""Options of the commands that use a trained model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vdatrain.config import EncoderName, PrecisionName

if TYPE_CHECKING:
    from vdatrain.inference.predictor import Predictor


@dataclass(frozen=True)
class ModelOptions:
    """Which model, where it computes and at which size."""

    checkpoint: Path = field(metadata={"metavar": "FILE"})
    """best.pt or last.pt of a run; published weights by name, such as vda-small, or as a file, with --encoder."""
    encoder: EncoderName | None = None
    """Encoder of weights without a configuration."""
    metric: bool | None = field(
        default=None, metadata={"option": "--metric/--no-metric", "show_default": "as the file's name says"}
    )
    """Whether those weights predict depth in metres; a run's checkpoint says so itself."""
    size: int | None = field(default=None, metadata={"show_default": "as trained; 518 with --encoder"})
    """Pixels of the short side that the model sees."""
    precision: PrecisionName | None = field(default=None, metadata={"show_default": "as trained"})
    """Numbers that it computes in."""
    attention: str | None = field(default=None, metadata={"show_default": "as trained"})
    """Frames that a frame sees: full, causal (none after it), or chunk:8 (those of its own 8 and before)."""
    device: str | None = field(default=None, metadata={"show_default": "the GPU if there is one"})
    """cpu, cuda or cuda:N."""

    def load(self) -> "Predictor":
        """Load the model; raises as `load_predictor`."""
        from vdatrain.inference.loading import load_predictor

        return load_predictor(
            self.checkpoint,
            encoder=self.encoder,
            metric=self.metric,
            device=self.device,
            size=self.size,
            precision=self.precision,
            attention=self.attention,
        )
