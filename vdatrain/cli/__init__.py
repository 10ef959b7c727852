"""The command line of vdatrain; how commands are found and run is vdaprep.cli.group's.

run, study, plan, eval, benchmark, compare, infer, label, export, variants, recipes   the commands
model       the options of commands that use a trained model
views       what the commands print
"""

import os
import sys

from vdaprep.cli.group import exits, make_app
from vdaprep.errors import origin_of
from vdatrain.cli.views.output import errors
from vdatrain.distributed.launch import is_main_process, rank_prefix

_INTERRUPTED = 130
_STOPPED = "vdatrain: stopped; a run goes on from its last checkpoint with --resume."

app = make_app(__name__, help="Train Video Depth Anything variants on shards, and compare them.")


def main() -> None:
    """Run vdatrain; Ctrl-C ends it with a sentence and exit 130."""
    _sleep_at_barriers()
    with exits("vdatrain", prefix=rank_prefix):
        try:
            app()
        except SystemExit as exit_:  # which is all that typer leaves of a KeyboardInterrupt
            if exit_.code == _INTERRUPTED and is_main_process():
                errors.print(_STOPPED)
            raise
        except Exception as error:
            if not origin_of(error, KeyboardInterrupt):
                raise
            if is_main_process():
                errors.print(_STOPPED)
            sys.exit(_INTERRUPTED)


def _sleep_at_barriers() -> None:
    """Let torch's CPU threads sleep while they wait, unless the environment says how.

    libgomp, which torch brings, spins for milliseconds at each of a step's thousands of barriers, and where another
    process has the other thread's core that time is lost: beside two busy loops on two cores a step of the tiny encoder
    took 5.2 s, and takes 1.1 s asleep; with the least seen, 0.63 and 0.46 s. It is read as torch is imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"
