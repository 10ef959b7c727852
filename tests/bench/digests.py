"""What a change that is to change nothing must leave as it is: `python -m tests.bench.digests [OPTIONS]`.

Prints the SHA-256 of every tar that comes of a rendered sample of each data set and, with --data, of the real frames in
that folder; then the losses of a training on the rendered tars. With --check it compares them with
`tests/golden/digests.json`, names what differs and exits with 1; with --write it puts there what it found, for a change
that does change what is rendered (real frames keep theirs without --data).

Digests hold for the versions of numpy, OpenCV and zstandard that they were taken with (numpy 2.4.6, OpenCV 5.0.0,
zstandard 0.25.0): rendered pixels are sums of floats, and all tars hold what JPEG and zstd made of them. With others
compare with the program as it was, on the same machine. Rendered frames also differ on processors without AVX2.
Losses are compared to 1e-6, and computed with kernels that every x86-64 processor has (`PORTABLE_KERNELS`), since those
of another processor round differently; so may another version of torch.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.golden.make import ROOT, call, losses
from vdaprep.synthetic import layouts

EXPECTED = ROOT / "tests" / "golden" / "digests.json"
SAMPLE = ("--size", "96x72", "--trajectories", 4, "--frames", 8, "--archives")
TRAINING = (
    "--variant", "conv", "--encoder", "tiny", "--frames", 4, "--size", 28, "--batch", 2, "--steps", 20, "--warmup", 5,
    "--ema", 0, "--seed", 0, "--log-every", 1, "--eval-every", 20, "--workers", 0, "--track", "none",
)  # fmt: skip
RELATIVE_ERROR = 1e-6


@dataclass(frozen=True)
class Real:
    """Real frames below --data: the data set that they are of, and what its conversion is told besides."""

    dataset: str
    options: tuple[str, ...] = ()


REAL = {
    "tartanair-real": Real("tartanair"),
    "tartanair": Real("tartanair", ("--intrinsics", "495.558,495.482,269.503,169.194")),
    "vkitti": Real("vkitti"),
    "mvs-synth": Real("mvs-synth"),
}


def main() -> None:
    """Print the digests and the losses, and with --check compare them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.digests", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="convert the real frames in this folder, too")
    use = parser.add_mutually_exclusive_group()
    use.add_argument("--check", action="store_true", help="compare with tests/golden/digests.json")
    use.add_argument("--write", action="store_true", help="write tests/golden/digests.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), data=options.data)
    print_all(found)
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    if options.write:
        EXPECTED.write_text(json.dumps(expected | found, indent=2) + "\n", encoding="utf-8")
    if not options.check:
        return
    wrong = list(differences(found, expected))
    sys.stdout.write("".join(f"{line}\n" for line in wrong) or "all as expected\n")
    sys.exit(bool(wrong))


def measure(folder: Path, *, data: Path | None) -> dict[str, Any]:
    """Return digests by the name of the conversion and the tar's place, and losses by step."""
    found: dict[str, Any] = {"rendered": {}}
    for name in layouts.names():
        raw = folder / "raw" / name
        call("vdaprep", "sample", name, "--out", raw, *SAMPLE)
        found["rendered"][name] = convert(Real(name), raw=raw, out=folder / "shards")
    if data is not None:
        data = data.absolute()
        found["real"] = {
            name: convert(real, raw=data / name, out=folder / "real" / name) for name, real in REAL.items()
        }
    call("vdatrain", "run", "--shards", folder / "shards", "--out", folder / "run", *TRAINING)
    found["losses"] = {str(step): float(f"{loss:.9g}") for step, loss in losses(folder / "run").items()}
    return found


def convert(real: Real, *, raw: Path, out: Path) -> dict[str, str]:
    """Convert raw data and return the SHA-256 of each tar by its place in the data set's folder."""
    call(
        "vdaprep", "convert", real.dataset, "--raw", raw, "--out", out, "--workers", 2, "--profile", "v1", *real.options
    )
    tars = sorted((out / real.dataset).glob("*/*.tar"))
    return {str(tar.relative_to(out / real.dataset)): hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars}


def print_all(found: dict[str, Any]) -> None:
    """Print a line for each tar (name, split, SHA-256) and each loss."""
    for kind in ("rendered", "real"):
        for name, tars in found.get(kind, {}).items():
            for tar, digest in tars.items():
                sys.stdout.write(f"{name} ({kind}) {tar} {digest}\n")
    for step, loss in found["losses"].items():
        sys.stdout.write(f"loss {step} {loss:.9g}\n")


def differences(found: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    """Name what was found otherwise than expected; real frames only if there were any."""
    for kind in found.keys() - {"losses"}:
        for name in sorted(found[kind].keys() | expected[kind].keys()):
            here, there = found[kind].get(name, {}), expected[kind].get(name, {})
            for tar in sorted(here.keys() | there.keys()):
                if here.get(tar) != there.get(tar):
                    yield f"{name} ({kind}) {tar}: is {here.get(tar)}, expected {there.get(tar)}"
    for step in sorted(found["losses"].keys() | expected["losses"].keys(), key=int):
        here, there = found["losses"].get(step), expected["losses"].get(step)
        if here is None or there is None or not abs(here - there) <= RELATIVE_ERROR * abs(there):
            yield f"loss {step}: is {here}, expected {there}"


if __name__ == "__main__":
    main()
