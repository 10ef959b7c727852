"""What tests of data sets have in common: packing folders as they are published, and comparing with an export."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vdaprep.raw.frames import Frame


def pack_zips(root: Path, loose: Path, archives: Mapping[str, str], *, above: str = "") -> Path:
    """Put folders into zips in `root`.

    Args:
        root: A folder that is made.
        loose: The folders.
        archives: Globs below `loose` of the files of each zip, by its path.
        above: What of the paths below `loose` the zips leave out.
    """
    for name, glob in archives.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(root / name, "w") as file:
            for path in sorted(item for item in loose.glob(glob) if item.is_file()):
                file.write(path, path.relative_to(loose / above).as_posix())
    return root


def expect_exported(
    folder: Path,
    frames: Sequence[Frame],
    *,
    first: int = 0,
    depth_of: Callable[[Frame], np.ndarray] = lambda frame: frame.depth_m,
    relative_error: float = 1e-6,
    has_poses: bool = True,
) -> None:
    """Compare an exported trajectory with the frames that it was made of.

    Args:
        folder: What `vdaprep export` wrote.
        frames: The frames, their numbers counting up.
        first: The first one's number.
        depth_of: Returns the metres that a frame should have: nan unknown, inf sky.
        relative_error: How far depth may be off.
        has_poses: Whether there are any.
    """
    assert len(list(folder.glob("depth/*.npy"))) == len(frames)
    intrinsics = np.loadtxt(folder / "intrinsics.txt", ndmin=2)
    for index, frame in enumerate(frames):
        depth_m, expected = np.load(folder / f"depth/{first + index:06d}.npy"), depth_of(frame)
        known = np.isfinite(expected)
        assert np.array_equal(np.isnan(depth_m), np.isnan(expected))
        assert np.array_equal(np.isinf(depth_m), np.isinf(expected))
        assert np.allclose(depth_m[known], expected[known], rtol=relative_error, atol=0)
        assert np.allclose(intrinsics[index], frame.intrinsics, atol=1e-6)
    assert (folder / "camera_to_world.txt").exists() == has_poses
    if has_poses:
        poses = np.loadtxt(folder / "camera_to_world.txt").reshape(-1, 4, 4)
        assert np.allclose(poses, [frame.camera_to_world for frame in frames], atol=1e-6)
