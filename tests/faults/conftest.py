"""What tests of faults share: a clean run to compare disturbed ones with."""

import time

import pytest

from tests.conftest import toy_frame
from tests.faults.faults import Clean, Run, files
from vdaprep.synthetic import layouts
from vdaprep.synthetic.sample import unpack


@pytest.fixture(scope="session")
def clean(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """Three trajectories of 80 frames in all, which are twelve shards, converted by one worker and by two.

    In profile `standard`, or that which a test's parameter names; for `recode` the shards of `standard`, recoded.
    """
    name = getattr(request, "param", "standard")
    options = ("--profile", "tiny" if name == "recode" else name)
    folder = tmp_path_factory.mktemp("clean")
    layout = layouts.load("tartanair")
    for number, (name, count) in enumerate([("P000", 40), ("P001", 21), ("P011", 19)]):
        shots = ((toy_frame(number, i, width=160, height=120),) for i in range(count))
        unpack(folder / "raw", layout.encode_files(f"abandonedfactory/Easy/{name}", shots))
    source, command = folder / "raw", "convert"
    if name == "recode":
        assert Run(source, folder / "shards").end() == (0, "")
        source, command = folder / "shards", "recode"
    seconds: dict[int, float] = {}
    for workers in (1, 2):
        start = time.monotonic()
        code, said = Run(source, folder / f"out{workers}", *options, workers=workers, command=command).end()
        seconds[workers] = time.monotonic() - start
        assert (code, said) == (0, "")
    assert files(folder / "out1") == files(folder / "out2")
    return Clean(source, files(folder / "out1"), seconds, options, command)
