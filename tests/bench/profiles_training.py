"""Trainings on shards of two profiles, compared on held-out scenes: `python -m tests.bench.profiles_training`.

Rendered scenes of 320x240 are converted in profiles `standard` and `tiny`, and `conv` with the tiny encoder, which sees
frame differences, is trained on each, once a seed, with the same order of windows, views and first weights. Every run
is measured on every held-out scene as `standard` stores it, where depth is nearest to the truth and differences are
those of the raw frames, and as its own profile does. Of each metric it prints the difference of the two runs of a seed
on a scene, tiny less standard, averaged, with its 95 % interval over seeds and scenes, see
`vdatrain.evaluation.study.statistics`, and a bootstrap's.

Some ten minutes on one idle core; longer trainings would make better models.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table

from tests.bench.timing import new_table
from vdaprep.shards.dataset import open_shards
from vdatrain.evaluation.evaluate import evaluate_clips, plan_evaluation
from vdatrain.evaluation.study.statistics import PairedScenes, bootstrap_difference, difference
from vdatrain.inference.loading import load_predictor

PROFILES = ("standard", "tiny")
METRICS = {"absrel": "absrel", "delta1": "delta1", "tae": "TAE"}


@dataclass(frozen=True)
class Scale:
    """How much is rendered and trained."""

    trajectories: int = 20
    frames: int = 24
    size: str = "320x240"
    seeds: int = 3
    steps: int = 220
    pixels: int = 112
    window: int = 8


QUICK = Scale(trajectories=8, frames=4, size="64x48", seeds=2, steps=2, pixels=28, window=2)


def main() -> None:
    """Render, convert, train, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profiles_training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="make everything tiny: to see that it works")
    parser.add_argument("--steps", type=int, help=f"of each training, instead of {Scale.steps}")
    given = parser.parse_args()
    scale = QUICK if given.quick else Scale()
    steps = given.steps or scale.steps
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory() as folder:
        shards = convert(Path(folder), scale)
        runs = {
            (profile, seed): train(shards[profile], Path(folder) / f"{profile}-{seed}", scale, seed=seed, steps=steps)
            for seed in range(scale.seeds)
            for profile in PROFILES
        }
        for seen, title in (("standard", "in profile standard"), (None, "in the profile trained on")):
            found = {
                profile: np.stack(
                    [measure(runs[profile, seed], shards[seen or profile]) for seed in range(scale.seeds)]
                )
                for profile in PROFILES
            }
            console.print(table(found, title=title, scale=scale, steps=steps), "")


def convert(folder: Path, scale: Scale) -> Mapping[str, Path]:
    """Render the scenes and return the folder of shards of each profile."""
    raw = folder / "raw"
    size = ("--size", scale.size, "--trajectories", scale.trajectories, "--frames", scale.frames)
    call("vdaprep", "sample", "tartanair", "--out", raw, *size)
    for profile in PROFILES:
        call("vdaprep", "convert", "tartanair", "--raw", raw, "--out", folder / profile, "--profile", profile)
    return {profile: folder / profile for profile in PROFILES}


def train(shards: Path, out: Path, scale: Scale, *, seed: int, steps: int) -> Path:
    """Train on the shards' training split and return the averaged weights of the last step."""
    options = (
        "--variant", "conv", "--encoder", "tiny", "--frames", scale.window, "--size", scale.pixels, "--batch", 2,
        "--steps", steps, "--warmup", steps // 10, "--ema", 0.98, "--seed", seed, "--workers", 1, "--track", "none",
        "--eval-windows", 1, "--eval-every", 10 * steps, "--device", "cpu",
    )  # fmt: skip
    call("vdatrain", "run", "--shards", shards, "--out", out, *options)
    return out / "last.pt"


def measure(checkpoint: Path, shards: Path) -> Float64[np.ndarray, "scenes metrics"]:
    """Return METRICS on each held-out clip, which is a scene of its own."""
    predictor = load_predictor(checkpoint, device="cpu")
    rows: list[list[float]] = []
    for clip in open_shards(shards).clips(split="val"):
        plan = plan_evaluation(predictor, workers=0)
        [metrics] = evaluate_clips(predictor.model, [clip], plan, precision=predictor.precision).metrics.values()
        rows.append([getattr(metrics, name) for name in METRICS])
    return np.array(rows, np.float64)


def table(
    found: Mapping[str, Float64[np.ndarray, "seeds scenes metrics"]], *, title: str, scale: Scale, steps: int
) -> Table:
    """Lay out means by profile and the paired differences."""
    standard, tiny = (found[profile] for profile in PROFILES)
    seeds, scenes, _ = standard.shape
    caption = (
        f"conv, tiny encoder, {steps} steps of 2 windows of {scale.window} frames at {scale.pixels} pixels, "
        f"{seeds} seeds, {scenes} held-out scenes of {scale.frames} frames of {scale.size}. Differences are of runs of "
        "one seed on one scene, with intervals over seeds and scenes. All but delta1 are better if smaller."
    )
    columns = (*PROFILES, "tiny - standard", "95 % interval", "bootstrap's", "of standard", "seed by seed")
    made = new_table(f"training on profiles, held-out scenes {title}", "metric", columns, caption=caption)
    for number, name in enumerate(METRICS.values()):
        differences = tiny[..., number] - standard[..., number]
        pairs = PairedScenes.of_one_dataset(tiny[..., number], standard[..., number])
        made.add_row(
            name,
            *(f"{values[..., number].mean():.4f}" for values in (standard, tiny)),
            f"{differences.mean():+.4f}",
            *(f"{found.low:+.4f} .. {found.high:+.4f}" for found in (difference(pairs), bootstrap_difference(pairs))),
            f"{differences.mean() / standard[..., number].mean():+.1%}",
            " ".join(f"{value:+.4f}" for value in differences.mean(1)),
        )
    return made


def call(program: str, *arguments: object) -> None:
    """Run a program on one thread; raises RuntimeError with what it said on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: exit {done.returncode}: {done.stderr}")


if __name__ == "__main__":
    main()
