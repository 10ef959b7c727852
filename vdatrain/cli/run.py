"""The command `vdatrain run`."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vdaprep.errors import UsageError
from vdatrain.cli.options import StepOptions, with_step_options
from vdatrain.cli.output import console, errors, evaluation_table, warn
from vdatrain.config import WITHOUT_GPU

if TYPE_CHECKING:
    from vdatrain.config import TrainConfig
    from vdatrain.evaluation.evaluate import Evaluation
    from vdatrain.training.state import TrainState
    from vdatrain.training.trainer import TrainCallbacks


EXAMPLE = "vdatrain run --shards shards/ --variant conv --encoder tiny --size 112 --frames 8"


@with_step_options(on_cpu=WITHOUT_GPU)
def command(
    shards: Annotated[str | None, typer.Option(help="What vdaprep convert wrote, or its URL.", metavar="DIR")] = None,
    step: StepOptions = StepOptions(),  # noqa: B008 - it is frozen
    init: Annotated[str | None, typer.Option(help="Weights to begin with: a file, dinov2 or none.")] = None,
    stride: Annotated[int | None, typer.Option(help="Take every n-th frame.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the optimiser.")] = None,
    lr: Annotated[float | None, typer.Option(help="Greatest learning rate.", show_default="the preset's")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps to the greatest rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, crops.")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = None,
    mix: Annotated[
        str | None, typer.Option(help="How often each data set comes: tartanair=1,vkitti=3.", show_default="all once")
    ] = None,
    images_per_clip: Annotated[int | None, typer.Option(help="Single frames beside each window.")] = None,
    skip_bad: Annotated[
        int | None, typer.Option(help="Windows that may be unreadable, each replaced by another.")
    ] = None,
    stall_timeout: Annotated[
        float | None, typer.Option(help="Seconds until a read counts as stalled; 0: never.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that read.")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps between two lines of the log.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between two evaluations on held-out clips.")] = None,
    eval_windows: Annotated[int | None, typer.Option(help="Windows of each of those; 0: all.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps; 0: where it evaluates. It saves there anyway.")] = None,
    keep: Annotated[int | None, typer.Option(help="Checkpoints kept beside the last.")] = None,
    track: Annotated[str | None, typer.Option(help="tensorboard, wandb, both with a comma, or none.")] = None,
    cache: Annotated[
        str | None, typer.Option(help="Keep whole shards here, for slow disks and URLs.", metavar="DIR")
    ] = None,
    cache_size: Annotated[str | None, typer.Option(help="Most that it holds.")] = None,
    cache_free: Annotated[str | None, typer.Option(help="Room it leaves on its disk.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with any of these.", metavar="FILE")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/VARIANT")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    time_limit: Annotated[
        str | None, typer.Option(help="Save and leave after 11h30m, 90m or 3600 (seconds).", metavar="TIME")
    ] = None,
) -> None:
    """Train a variant; weights, log and the final evaluation go to the folder of the run."""
    options = {**step.given(), **locals()}  # None where nothing was given
    from vdaprep.units import parse_duration
    from vdatrain.config import TrainConfig
    from vdatrain.device import Precision, default_device
    from vdatrain.distributed.ranks import process_group
    from vdatrain.training import state, trainer
    from vdatrain.training.preemption import StopRequest

    stop = StopRequest(parse_duration(time_limit, "--time-limit") if time_limit else None)
    own = ("step", "config", "out", "resume", "time_limit")  # of no field of Config
    given = {name: value for name, value in options.items() if value is not None and name not in own}
    with process_group() as ranks:
        # The first rank alone reads the folder and says what it makes of the options.
        known = _settle(given, config, out, resume=resume) if ranks.is_first else None
        options, place = ranks.broadcast_from_rank0(known)
        settings, folder = TrainConfig(**options), Path(place)
        here = Precision(default_device(), settings.precision)
        begin = (state.load_state if resume else state.new_state)(settings, folder, precision=here, ranks=ranks)
        with _told(begin) as listener:
            result = trainer.train(begin, listener, stop=stop)
        if ranks.is_first:
            _print_result(begin, result)


def _settle(
    given: Mapping[str, Any], config: Path | None, out: Path | None, *, resume: bool
) -> tuple[dict[str, Any], str]:
    """Return the options of a run and its folder; raises UsageError as Config does."""
    from vdatrain.config import from_file, from_mapping
    from vdatrain.run_dir import stored_config

    if resume:
        folder = out or Path("runs", given.get("variant", "basic"))
        settings = _changed(stored_config(folder), given)
    else:
        asked = {**(from_file(config) if config else {}), **given}
        settings = from_mapping({**_defaults(asked), **asked}, where="vdatrain run")
        folder = out or Path("runs", settings.variant)
    return settings.options(), str(folder)


@contextmanager
def _told(run: "TrainState") -> "Generator[TrainCallbacks]":
    """Show and track the run while the block goes on, on the first rank alone."""
    from vdatrain.cli.progress import LiveView
    from vdatrain.training.trackers import start_tracking
    from vdatrain.training.trainer import TrainCallbacks, combine_callbacks

    if not run.ranks.is_first:
        yield TrainCallbacks()
        return
    if run.loaded is not None:
        errors.print(str(run.loaded), markup=False)
    with (
        start_tracking(run.config, run.folder, step=run.step, warn=warn) as tracking,
        LiveView(run.config, errors, begun=run.step) as view,
    ):
        yield combine_callbacks(view.listener(), tracking.listener())


def _print_result(run: "TrainState", result: "tuple[int, Evaluation] | None") -> None:
    from vdatrain.training.checkpoint import BEST_FILE

    if result is None:
        split = run.config.eval_split
        errors.print(f"{run.folder}: done; the shards have no split {split!r}, so nothing was evaluated.")
        return
    step, evaluation = result
    console.print(evaluation_table(evaluation))
    console.print(f"{run.folder / BEST_FILE}: the best weights, of step {step}", highlight=False, soft_wrap=True)


def _defaults(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a machine without a GPU takes instead of the defaults for one, and say so."""
    from vdatrain.device import default_device

    smaller = {name: value for name, value in WITHOUT_GPU.items() if name not in asked}
    if default_device().type != "cpu" or not smaller:
        return {}
    chosen = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in smaller.items())
    errors.print(f"no GPU here, so a smoke run: {chosen}")
    return smaller


def _changed(config: "TrainConfig", given: Mapping[str, Any]) -> "TrainConfig":
    """Return the run's configuration with what may be otherwise when it goes on; raises UsageError for the rest."""
    from vdatrain.config import CHANGEABLE, from_mapping

    stored = config.options()
    refused = [
        f"--{name.replace('_', '-')} {stored[name]} to {value}"
        for name, value in given.items()
        if stored[name] != value and name not in CHANGEABLE
    ]
    if refused:
        raise UsageError(f"--resume goes on as the run began; leave out what would change {', '.join(refused)}.")
    return from_mapping({**stored, **given}, where="vdatrain run --resume")
