"""A trained model as a file for others: weights under the published names, or an ONNX graph."""

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vdaprep.errors import UsageError, VdakitError
from vdaprep.storage.atomic import check_output, new_file, write_text
from vdatrain.config import TrainConfig
from vdatrain.data.batch import IMAGENET_MEAN, IMAGENET_STD
from vdatrain.inference.stream_graph import StreamStep
from vdatrain.models import tensor_files, variants
from vdatrain.models.canonical import canonical_focal_of
from vdatrain.models.layers.encoder import PATCH_SIZE
from vdatrain.models.layers.temporal import PUBLISHED_FRAMES
from vdatrain.models.loading import load_model
from vdatrain.models.weights import is_named_metric

_STREAMED = 3  # frames of a stream that are compared
ONNX_TOLERANCE = 1e-3  # greatest difference from the model, as a share of its greatest output
_OWN_TOOLS = ("vdakit", "torch", "timm")
_ONNX_TOOLS = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class OnnxShape:
    """The one window that an ONNX graph takes: `num_frames` frames of `size` x `size` pixels."""

    num_frames: int
    """Frames."""
    size: int
    """Pixels of a side."""
    stream: bool = False
    """Whether the window is the next frame of a stream, with caches beside it."""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.size < PATCH_SIZE or self.size % PATCH_SIZE:
            raise UsageError(
                f"an ONNX graph needs at least 1 frame and a size that is a multiple of {PATCH_SIZE}, found "
                f"--frames {self.num_frames} --size {self.size}."
            )


def export(path: Path, out: Path, *, frames: int | None = None, size: int | None = None, stream: bool = False) -> Path:
    """Write a run's averaged weights as `.pth`, `.safetensors` or `.onnx`, and FILE.json.

    frames, size: of the window that an ONNX graph takes, as trained where None. stream: an ONNX graph of one frame,
    what it remembers of those before being inputs and outputs, see `stream_graph`. Returns the path of the JSON.

    Raises UsageError for another ending, for frames or size where nothing has them, and for missing packages; DataError
    if the checkpoint is none; VdakitError if the graph does not agree with the model. Nothing is then written.
    """
    writer = _WRITERS.get(out.suffix)
    if writer is None:
        raise UsageError(f"--out {out}: ends in {out.suffix!r}, expected one of {', '.join(_WRITERS)}.")
    record = out.with_name(f"{out.name}.json")
    for written in (out, record):
        check_output(written, inputs=[path])
    if out.suffix != ".onnx" and (frames or size or stream):
        raise UsageError(
            f"--out {out}: holds weights for any --frames and --size, streamed or not; leave --frames, --size and "
            "--stream out, or write .onnx."
        )
    if stream and frames not in (None, 1):
        raise UsageError(f"--frames {frames}: a stream takes one frame at a time; leave it out.")
    model, config, _, data = load_model(path)
    if config.task == "metric" and out.suffix != ".onnx" and not is_named_metric(out):
        raise UsageError(
            f"--out {out}: weights that predict metres are known by their name; let it have the word metric, such as "
            f"metric_{out.name}."
        )
    num_frames = 1 if stream else config.frames if frames is None else frames
    shape = OnnxShape(num_frames, config.size if size is None else size, stream=stream)
    facts = writer(out, model.eval(), config, shape)
    write_text(
        record,
        json.dumps({**_facts(out, model, config), "trained_on": [asdict(terms) for terms in data], **facts}, indent=2)
        + "\n",
    )
    return record


def published_state(model: nn.Module) -> dict[str, Tensor]:
    """Return weights under the published names, time tables cut to the published length.

    The tables are functions of their length, so nothing is lost. A variant's own weights keep their names.
    """
    # In memory the head's weights are channels-last; a file holds them in the plain order.
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    return {
        name: value[:, :PUBLISHED_FRAMES].clone() if name.endswith(".pe") else value for name, value in state.items()
    }


def _facts(out: Path, model: nn.Module, config: TrainConfig) -> dict[str, Any]:
    """Say what the file is and how it is to be used."""
    own = variants.own_prefixes(config.variant)
    return {
        "file": out.name,
        "bytes": out.stat().st_size,
        "sha256": tensor_files.sha256_of(out),
        "variant": config.variant,
        "summary": variants.summary(config.variant),
        "encoder": config.encoder,
        "frames": config.frames,
        "size": config.size,
        "input": "frames [B, T, 3, H, W], RGB from 0 to 1, less mean, over std; H and W multiples of 14",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "output": _output(out, model),
        "own": {name: list(value.shape) for name, value in model.state_dict().items() if name.startswith(own)},
        "versions": _versions(_OWN_TOOLS),
    }


def _output(out: Path, model: nn.Module) -> str:
    """Say what comes out of a file: a graph ends in disparity, weights in what the head gives."""
    canonical_px = canonical_focal_of(model)
    if canonical_px is None:
        return "relative disparity [B, T, H, W], 0 or more, greater is nearer"
    what, depth = ("disparity", "1 / disparity") if out.suffix == ".onnx" else ("depth", "depth")
    return (
        f"{what} [B, T, H, W] in a camera of {canonical_px:g} pixels focal length; metres along z are {depth} * f / "
        f"{canonical_px:g}, f the focal length in pixels of the frames given"
    )


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# ------------------------------------------------------------------------------------------------------------ weights


def _write_pth(out: Path, model: nn.Module, config: TrainConfig, shape: OnnxShape) -> dict[str, Any]:
    tensor_files.save(out, published_state(model))
    return {}


def _write_safetensors(out: Path, model: nn.Module, config: TrainConfig, shape: OnnxShape) -> dict[str, Any]:
    from safetensors.torch import save

    with new_file(out) as file:
        file.write(save(published_state(model), metadata={"format": "pt"}))
    return {}


# --------------------------------------------------------------------------------------------------------------- onnx


def _write_onnx(out: Path, model: nn.Module, config: TrainConfig, shape: OnnxShape) -> dict[str, Any]:
    """Trace, compare with onnxruntime if it is there, and write; returns the JSON's part."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--out {out}: needs {' and '.join(missing)}; pip install 'vdakit[onnx]'.")
    longest = max(PUBLISHED_FRAMES, config.frames)
    if shape.num_frames > longest:
        raise UsageError(f"--frames {shape.num_frames}: the model takes at most {longest}.")
    uses = variants.uses_differences(config.variant)
    inputs = _example(shape, cells=variants.cells_per_patch(config.variant) if uses else None)
    outputs = ["disparity"]
    if shape.stream:
        model = StreamStep(model, inputs)
        inputs, outputs = inputs | model.caches, [*outputs, *(f"next_{name}" for name in model.caches)]
    graph = _trace(model, inputs, outputs)
    error = None
    if importlib.util.find_spec("onnxruntime"):
        error = _disagreement(model, graph, inputs)
        if not error <= ONNX_TOLERANCE:
            raise VdakitError(
                f"{out}: the graph's output differs from the model's by {error:.2g} of its range, expected at most "
                f"{ONNX_TOLERANCE}; it was not written; try other versions of onnx and onnxruntime, or export weights."
            )
    with new_file(out) as file:
        file.write(graph)
    return {
        "frames": shape.num_frames,
        "size": shape.size,
        "inputs": {name: list(value.shape) for name, value in inputs.items()},
        "outputs": outputs,
        "error": error,
        "versions": _versions((*_OWN_TOOLS, *_ONNX_TOOLS)),
    }


def _example(shape: OnnxShape, *, cells: int | None) -> dict[str, Tensor]:
    """Make the inputs of one window, by the names of the model's arguments.

    cells: rows and columns of differences that it takes a patch; None: it takes none.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = {"frames": torch.randn(1, shape.num_frames, 3, shape.size, shape.size, generator=generator)}
    if cells is not None:
        side = cells * shape.size // PATCH_SIZE
        inputs["differences"] = 0.1 * torch.randn(1, shape.num_frames, 3, side, side, generator=generator)
        inputs["diff_valid"] = torch.arange(shape.num_frames)[None] > (-1 if shape.stream else 0)
    return inputs


def _trace(model: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> bytes:
    """Return the model as a protocol buffer of ONNX, weights inside.

    Through torch.export: torch's older exporter is deprecated and cannot resample the encoder's position table.
    """
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def _disagreement(model: nn.Module, graph: bytes, inputs: Mapping[str, Tensor]) -> float:
    """Return the greatest difference from the model's disparity, as a share of the greatest.

    Of a stream that of a few frames, each side going on with its own caches.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    theirs = {name: value.numpy() for name, value in inputs.items()}
    ours = dict(inputs)
    worst = 0.0
    for _ in range(_STREAMED if isinstance(model, StreamStep) else 1):
        found = [np.asarray(value) for value in session.run(None, theirs)]
        with torch.no_grad():
            given = model(*ours.values())
        expected = given if isinstance(given, tuple) else (given,)
        worst = max(worst, _share(found[0], expected[0]))
        names = list(inputs)[len(inputs) - len(found) + 1 :]
        theirs |= dict(zip(names, found[1:], strict=True))
        ours |= dict(zip(names, expected[1:], strict=True))
    return worst


def _share(found: np.ndarray, expected: Tensor) -> float:
    """Return the greatest difference of two outputs, as a share of the greatest value expected."""
    difference = (torch.from_numpy(found) - expected).abs().max()
    return (difference / expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)).item()


_WRITERS: Mapping[str, Callable[[Path, nn.Module, TrainConfig, OnnxShape], dict[str, Any]]] = MappingProxyType(
    {".pth": _write_pth, ".safetensors": _write_safetensors, ".onnx": _write_onnx}
)
