"""How long servers may take, and how often they are asked: one policy for both programs."""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long a server may take until a request counts as failed, and pauses between."""

    connect_s: int | float = 10
    """Longest wait for a connection, in seconds."""
    answer_s: int | float = 30
    """Longest wait for the next byte of an answer, in seconds."""
    least_bytes_per_s: int = 50_000
    """A whole answer may take both of the above and its bytes at this rate, so that a trickle is no answer either."""
    waits_s: tuple[int | float, ...] = (1, 4, 16)
    """Pauses before a failed request is sent again, in seconds; after the last there is no further try."""

    def longest_s(self, size: int) -> int | float:
        """Return the seconds that an answer of `size` bytes may take."""
        return self.connect_s + self.answer_s + size / self.least_bytes_per_s


POLICY = RetryPolicy()


class TransientError(Exception):
    """A request failed in a way that may pass: its text says how."""


class UnreachableError(OSError):
    """A server did not answer, asked as often as the policy says; `strerror` is the sentence."""


def attempt(action: Callable[[], Result]) -> Result:
    """Do it again while it raises TransientError and POLICY allows; then UnreachableError."""
    failures = 0
    while True:
        try:
            return action()
        except TransientError as error:
            wait_or_raise(error, failures)
            failures += 1


def wait_or_raise(error: TransientError, failures: int) -> None:
    """Wait after failure number `failures` + 1; UnreachableError if it was the last."""
    if failures == len(POLICY.waits_s):
        reason = f"the server does not answer: {error}; it was asked {failures + 1} times"
        raise UnreachableError(errno.EIO, reason) from error
    time.sleep(POLICY.waits_s[failures])
