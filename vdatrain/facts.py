"""What a run was computed with: versions, and the state of the work tree around it."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = ("vdakit", "numpy", "timm", "webdataset", "opencv-python-headless", "zstandard")
_PATIENCE_S = 10


def versions() -> dict[str, str]:
    """Return the versions of Python, of CUDA where torch has it, and of the packages that figures depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "torch": str(torch.__version__)}
    found.update({name: version for name in _PACKAGES if (version := _version(name))})
    return {**found, **({"cuda": torch.version.cuda} if torch.version.cuda else {})}


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """Return the commit of the work tree that `folder` lies in and whether it was changed; None outside of any."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None if it is not installed, fails, or takes too long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
