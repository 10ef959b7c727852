"""Make the shards and the run of version 1: `python -m tests.golden.make FOLDER`, from the top of the repository.

It was run once, with FOLDER tests/golden. What it makes today is for looking at, not for replacing the files that are
there: they are what the program of that day wrote, and `test_golden.py` asks whether today's program reads it.
"""

import argparse
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import torch
import zstandard

ROOT = Path(__file__).parents[2]
# One data set for each kind of depth code (linear, half, log), and a seed whose scene shows sky.
DATASETS = {"vkitti": 1, "mvs-synth": 4, "tartanair": 3}
STEPS, SAVED_AT = 12, 6

# One thread, and kernels that every x86-64 processor with AVX2 has. Where each processor chooses its own, they round
# differently, and after ten steps a training from scratch is another one: with AVX-512 the loss was 4.212, with AVX2
# 4.233. OpenBLAS is told as well: poses are numpy's products and inverses of matrices, of rendered frames (with them
# all pixels) as of vkitti and mvs-synth, and its kernels for Intel's AVX-512 round them otherwise than all others.
PORTABLE_KERNELS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "NEHALEM",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "ATEN_CPU_CAPABILITY": "default",
    "CUDA_VISIBLE_DEVICES": "",
}


def call(program: str, *arguments: object, cwd: Path = ROOT) -> str:
    """Run vdaprep or vdatrain as a process of its own and return its stdout; raises RuntimeError with its stderr."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", program, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **PORTABLE_KERNELS, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{program} {' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def losses(folder: Path) -> dict[int, float]:
    """Return the losses in a run's log, by step."""
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["step"]: line["total"] for line in lines if "total" in line}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden.make", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    make_shards(folder / "shard_v1", scratch=folder / "scratch")
    make_run(folder / "run_v1", shards=folder / "shard_v1", scratch=folder / "scratch")
    shutil.rmtree(folder / "scratch")


# -------------------------------------------------------------------------------------------------------------- shards


def make_shards(out: Path, *, scratch: Path) -> None:
    """Convert a rendered clip of each kind of depth, some of it unknown, and keep what it decodes to in arrays.npz."""
    arrays: dict[str, np.ndarray] = {}
    for dataset, seed in DATASETS.items():
        raw = (scratch / "raw" / dataset).absolute()
        size = ("--size", "64x48", "--trajectories", 1, "--frames", 6, "--seed", seed)
        call("vdaprep", "sample", dataset, "--out", raw, *size)
        forget_a_corner(raw)
        call("vdaprep", "convert", dataset, "--raw", raw, "--out", out.absolute(), "--workers", 1, "--profile", "v1")
        exported = (scratch / "exported" / dataset).absolute()
        call("vdaprep", "export", (out / dataset).absolute(), "--out", exported)
        decoded = read_exported(exported) | read_tar(out / dataset / "train" / "shard-0001.tar")
        arrays |= {f"{dataset}/{name}": value for name, value in decoded.items()}
    np.savez_compressed(out / "arrays.npz", **arrays)


def forget_a_corner(raw: Path) -> None:
    """Make a corner of every raw depth map unknown, as each data set says that; the renderer knows everything."""
    corner = slice(-6, None), slice(0, 9)
    for path in sorted(raw.rglob("*.npy")):
        depth = np.load(path)
        depth[corner] = np.nan
        np.save(path, depth)
    for path in sorted(raw.rglob("depth_*.png")):
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        depth[corner] = 0
        cv2.imwrite(str(path), depth)
    for path in sorted(raw.rglob("*.exr")):
        with OpenEXR.File(str(path), separate_channels=True) as file:
            depth = file.channels()["Y"].pixels.copy()
        depth[corner] = 0
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, {"Y": depth}).write(str(path))


def read_exported(folder: Path) -> dict[str, np.ndarray]:
    """Return what `vdaprep export` wrote of the one trajectory below a folder."""
    [table] = folder.rglob("intrinsics.txt")
    images = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in sorted((table.parent / "rgb").iterdir())]
    return {
        "rgb": np.stack(images),
        "depth_m": np.stack([np.load(path) for path in sorted((table.parent / "depth").iterdir())]),
        "intrinsics": np.loadtxt(table),
        "camera_to_world": np.loadtxt(table.with_name("camera_to_world.txt")).reshape(-1, 4, 4),
    }


def read_tar(path: Path) -> dict[str, np.ndarray]:
    """Return what a tar of one clip holds that is not exported, read without any part of the program."""
    with tarfile.open(path) as tar:
        members = {member.name.partition(".")[2]: tar.extractfile(member).read() for member in tar}
    meta = json.loads(members["json"])
    scale = meta["diff"]["scale"]
    shape = (3, -(-meta["height"] // scale), -(-meta["width"] // scale))
    packed = [members[f"f{frame:03d}.diff.zst"] for frame in range(len(meta["frame_ids"]))]
    steps = [np.frombuffer(zstandard.decompress(data), np.int8).reshape(shape) for data in packed]
    return {
        "differences": np.stack(steps),
        "diff_step": np.array(meta["diff"]["step"]),
        "diff_valid": np.array(meta["diff_valid"]),
        "disparity_min": np.array(meta["disparity_min"]),
        "disparity_max": np.array(meta["disparity_max"]),
    }


# ----------------------------------------------------------------------------------------------------------------- run


def make_run(out: Path, *, shards: Path, scratch: Path) -> None:
    """Train, and keep of it what resuming at SAVED_AT needs, what the steps after it lost, and an evaluation.

    The weights that are not trained are rounded to 64ths, so that xz makes a tenth of the checkpoint.
    """
    step = ("--encoder", "tiny", "--frames", 3, "--size", 28, "--batch", 2, "--workers", 0, "--track", "none")
    drawn, run = scratch / "drawn", scratch / "run"
    call("vdatrain", "run", "--shards", shards, "--variant", "basic", "--out", drawn, *step, "--steps", 1, "--ema", 0)
    weights = torch.load(drawn / "last.pt", weights_only=True)["model"]
    torch.save({name: torch.round(value * 64) / 64 for name, value in weights.items()}, scratch / "start.pth")
    trained = ("--variant", "diff", "--init", scratch / "start.pth", "--preset", "adapter", "--lr", 0.01, "--ema", 0.9)
    often = ("--steps", STEPS, "--warmup", 2, "--log-every", 1, "--save-every", SAVED_AT)
    call("vdatrain", "run", "--shards", shards, "--out", run, *step, *trained, *often)
    out.mkdir()
    checkpoint = run / f"step-{SAVED_AT:06d}.pt"  # was last.pt when step 6 was done
    (out / "last.pt.xz").write_bytes(lzma.compress(checkpoint.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    shutil.copy(run / "config.json", out)
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    before = "".join(line for line in lines if json.loads(line)["step"] <= SAVED_AT)
    (out / "log.jsonl").write_text(before, encoding="utf-8")
    found = call("vdatrain", "eval", "--shards", shards, "--checkpoint", checkpoint, "--split", "train", "--json")
    later = {str(number): loss for number, loss in losses(run).items() if number > SAVED_AT}
    expected = {"losses": later, "evaluation": json.loads(found)["average"]}
    (out / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
