"""What can go wrong for a user: a tree of exceptions whose text is the sentence to show.

VdakitError              exit 1; anything below
├── UsageError           exit 2; options that cannot be, or that contradict what is there
├── DataError            exit 1; a raw tree, an archive or a file that is not what it should be
│   └── FrameError       one frame is unusable: it is rejected, the conversion goes on
├── OutputError          exit 1; what was made cannot be stored: a full disk, a server that refuses
│   └── PlaceError       exit 2; also a UsageError: an output that is an input, or a folder where a file is wanted
├── WorkerError          exit 1; processes that did the work died
├── DivergedError        exit 1; a model's numbers are not finite any more
├── MissingExtraError    exit 1; also an ImportError: a package that an extra of vdakit brings is not installed
└── ShardError           exit 1; a shard, a record or a member breaks the contract of `schema`
"""

from typing import TypeVar

_Kind = TypeVar("_Kind", bound=BaseException)


class VdakitError(Exception):
    """Base of all errors that a user can mend: `str(error)` is one sentence.

    `exit_code` is what the process ends with.
    """

    exit_code = 1


class UsageError(VdakitError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class DataError(VdakitError):
    """Raw data is missing, damaged, or not in the layout it should have."""


class FrameError(DataError):
    """One frame cannot be used: `file` is its path in the raw tree, `reason` what is wrong."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason

    def __reduce__(self) -> tuple[type["FrameError"], tuple[str, str]]:
        return FrameError, (self.file, self.reason)


class ShardError(VdakitError):
    """A shard, its record or one of its members is not what the contract promises."""


class OutputError(VdakitError):
    """What was made cannot be stored where it should go."""


class PlaceError(OutputError, UsageError):
    """The command line asks for an output in a place that cannot be one."""


class WorkerError(VdakitError):
    """Processes that did the work died."""


class DivergedError(VdakitError):
    """A model predicts, or its gradient holds, what is not finite: it learns nothing more."""


_EXTRAS = {
    "torch": "train", "timm": "train", "webdataset": "train", "tensorboard": "train", "safetensors": "train",
    "jinja2": "report", "plotly": "report",
    "matplotlib": "plot", "ray": "ray", "wandb": "wandb", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx",
    "PIL": "train", "obstore": "cloud", "h5py": "h5",
}  # fmt: skip
"""Which extra brings a module that not everybody needs."""


class MissingExtraError(VdakitError, ImportError):
    """A package of some functions only is not installed; the sentence names its extra."""

    @classmethod
    def of(cls, subject: str, error: ModuleNotFoundError) -> "MissingExtraError | None":
        """Return what to raise, beginning with `subject`; None if no extra brings the module."""
        module = (error.name or "").partition(".")[0]
        if module not in _EXTRAS:
            return None
        return cls(f"{subject} {module}, which is not installed: pip install 'vdakit[{_EXTRAS[module]}]'.")


def origin_of(error: BaseException, kind: type[_Kind]) -> _Kind | None:
    """Return the error of a kind that another came of, or None.

    It came of what it was raised from, and of what was handled as it was raised. A signal's error can arrive in code
    that turns any error into one of its own, as CPython 3.11 does where a class is made.
    """
    waiting, seen = [error], {id(error)}
    while waiting:
        found = waiting.pop()
        if isinstance(found, kind):
            return found
        for origin in (found.__cause__, found.__context__):
            if origin and id(origin) not in seen:
                seen.add(id(origin))
                waiting.append(origin)
    return None
