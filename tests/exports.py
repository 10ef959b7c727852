"""What tests of data sets have in common: packing folders as they are published, and comparing with an export."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vdaprep.raw.frames import Frame


def pack_zips(root: Path, loose: Path, archives: Mapping[str, Sequence[str]], *, above: str = "") -> Path:
    """Put folders into zips in `root`.

    Args:
        root: A folder that is made.
        loose: The folders.
        archives: Globs below `loose` of the files of each zip, by its name.
        above: What of the paths below `loose` the zips leave out.
    """
    root.mkdir(exist_ok=True)
    for name, globs in archives.items():
        with zipfile.ZipFile(root / name, "w") as file:
            for path in sorted(item for glob in globs for item in loose.glob(glob) if item.is_file()):
                file.write(path, path.relative_to(loose / above).as_posix())
    return root


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """What every shard and record below a folder holds, by its path there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("shard-*")}


def expect_exported(
    folder: Path,
    frames: Mapping[int, Frame],
    *,
    depth_of: Callable[[Frame], np.ndarray] = lambda frame: frame.depth_m,
    relative_error: float = 1e-6,
    pose_error: float | None = 1e-6,
) -> None:
    """Compare an exported trajectory with the frames that it was made of.

    Args:
        folder: What `vdaprep export` wrote.
        frames: The frames, ascending, by the numbers that they should have.
        depth_of: Returns the metres that a frame should have: nan unknown, inf sky.
        relative_error: How far depth may be off.
        pose_error: How far numbers of a pose may be off; None: poses are not compared.
    """
    assert sorted(path.stem for path in (folder / "depth").iterdir()) == [f"{number:06d}" for number in frames]
    intrinsics = np.loadtxt(folder / "intrinsics.txt", ndmin=2)
    for row, (number, frame) in enumerate(frames.items()):
        depth_m, expected = np.load(folder / f"depth/{number:06d}.npy"), depth_of(frame)
        known = np.isfinite(expected)
        assert np.array_equal(np.isnan(depth_m), np.isnan(expected))
        assert np.array_equal(np.isinf(depth_m), np.isinf(expected))
        assert np.allclose(depth_m[known], expected[known], rtol=relative_error, atol=0)
        assert np.allclose(intrinsics[row], frame.intrinsics, atol=1e-6)
    if pose_error is not None:
        poses = np.loadtxt(folder / "camera_to_world.txt").reshape(-1, 4, 4)
        assert np.allclose(poses, [frame.camera_to_world for frame in frames.values()], atol=pose_error)
