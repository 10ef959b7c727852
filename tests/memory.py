"""How much memory a process has taken, for tests that bound it.

`getrusage` is no use there: its peak of a new process begins with that of the one that started it, and in a process
that was large once it does not grow. The kernel's high-water mark is of this program alone, and can be set back.
"""

from pathlib import Path


def peak_kib() -> int:
    """Return the most memory that this program had since it began or since `forget_peak`, in KiB."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


def forget_peak() -> None:
    """Let the peak be what this program has now."""
    Path("/proc/self/clear_refs").write_text("5")
