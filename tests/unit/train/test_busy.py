"""How torch's threads on the CPU wait for each other: asleep, unless the environment says otherwise."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import contextlib, sys
from vdatrain import cli
sys.argv = ["vdatrain", "--help"]
with contextlib.suppress(SystemExit):
    cli.main()
assert "torch" not in sys.modules
import torch
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "active"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "1000"}, None),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="libgomp says how it waits; others may not")
def test_the_policy_is_set_before_torch_reads_it(given: dict[str, str], policy: str | None) -> None:
    """By what libgomp itself prints as torch loads it."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    [found] = [line for line in result.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    assert policy is None or f"'{policy}'" in found
    if "GOMP_SPINCOUNT" in given:
        assert "GOMP_SPINCOUNT = '1000'" in result.stderr
