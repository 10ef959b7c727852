"""A prediction of `vdaprep plan`, for a terminal and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from vdaprep.cli.views.output import make_table
from vdaprep.conversion.account import Account, grouped
from vdaprep.conversion.budget import Choice
from vdaprep.conversion.predict import Prediction, Room
from vdaprep.units import format_bytes

Profiles = Mapping[str, Prediction | None]


def to_json(
    choice: Choice, profiles: Profiles, place: Room | None, account: Account, *, command: Sequence[str]
) -> dict[str, Any]:
    """Return the plan as JSON has it; `disk` is None where the output is remote."""
    steps = [
        {
            "change": step.change,
            "bytes": step.prediction.bytes,
            "upper_bytes": step.prediction.upper_bytes,
            "fits": step.fits,
            "kept": step.kept,
        }
        for step in choice.steps
    ]
    return {
        "dataset": choice.plan.dataset,
        "options": choice.plan.options,
        **choice.prediction.to_json(),
        "listed": [asdict(item) for item in choice.plan.rejected],
        "account": account.to_json(),
        "disk": None if place is None else {**asdict(place), "suffices": place.suffices},
        "profiles": {
            name: None
            if found is None
            else {
                "bytes": found.bytes,
                "upper_bytes": found.upper_bytes,
                "bytes_by_kind": found.bytes_by_kind,
                "seconds": found.seconds,
                "chosen": found is choice.prediction,
            }
            for name, found in profiles.items()
        },
        "changes": list(choice.changes),
        "steps": steps,
        "command": list(command),
    }


def renderables(
    choice: Choice, profiles: Profiles, place: Room | None, account: Account, *, out: str
) -> Iterator[RenderableType]:
    """Lay the plan out for a terminal."""
    prediction = choice.prediction
    if choice.steps:
        tried = _count(len(choice.steps), "step")
        yield f"chosen to fit: {', '.join(choice.changes) or 'what was asked for'}; {tried} tried"
        yield ""
    yield _split_table(choice)
    yield _kind_table(prediction)
    yield _profile_table(choice, profiles)
    lacking = [name for name, found in profiles.items() if found is None]
    if lacking:
        yield f"{', '.join(lacking)}: not predicted, as the installed PyAV lacks the encoder"
    yield _how_sure(prediction)
    yield _how_large(prediction, place, out=out)
    yield (
        f"time: about {_duration(prediction.seconds)} with {_count(prediction.workers, 'worker')} "
        f"({1000 * prediction.seconds_per_frame:.1f} ms a frame and core, measured on the probes)"
    )
    for line in grouped(choice.plan.rejected):
        yield f"in the raw data: {line}"
    yield from account.lines()


def _split_table(choice: Choice) -> Table:
    table = make_table("split", "trajectories", "frames", "clips", "shards", "size", title=choice.plan.dataset)
    splits = choice.prediction.splits
    for name, split in splits.items():
        counts = (split.trajectories, split.frames, split.clips, split.shards)
        table.add_row(name, *(f"{count:,}" for count in counts), format_bytes(split.bytes))
    return table


def _kind_table(prediction: Prediction) -> Table:
    table = make_table("kind", "size", "KiB/frame", "share", title="predicted bytes")
    for kind, size in prediction.bytes_by_kind.items():
        _add_size(table, _KINDS.get(kind, kind), size, prediction)
    table.add_section()
    _add_size(table, "all", prediction.bytes, prediction)
    return table


def _profile_table(choice: Choice, profiles: Profiles) -> Table:
    """Put what is chosen beside what each profile would make of the same frames."""
    table = make_table("profile", "size", "at most", "KiB/frame", "time", title="the same frames by profile")
    rows = {name: found for name, found in profiles.items() if found is not None}
    if not any(found is choice.prediction for found in rows.values()):
        rows = {"other settings": choice.prediction, **rows}
    for name, found in rows.items():
        table.add_row(
            f"{name} (chosen)" if found is choice.prediction else name,
            format_bytes(found.bytes),
            format_bytes(found.upper_bytes),
            f"{found.bytes / found.frames / 1024:.1f}",
            _duration(found.seconds),
        )
    return table


_KINDS = {"tar": "tar headers and padding", "records": "records beside the tars"}


def _add_size(table: Table, name: str, size: int, prediction: Prediction) -> None:
    each = size / prediction.frames / 1024
    table.add_row(name, format_bytes(size), f"{each:.1f}", f"{size / prediction.bytes:.1%}")


def _how_sure(prediction: Prediction) -> str:
    sizes = ", ".join(f"{width}x{height}" for width, height in sorted(prediction.sizes))
    error = prediction.standard_error
    return (
        f"predicted from {_count(prediction.probes, 'frame')} of {prediction.frames:,}, each with the one before it, "
        f"stored at {sizes}: standard error {format_bytes(error)} "
        f"({error / prediction.bytes:.1%}), at most {format_bytes(prediction.upper_bytes)}"
    )


def _how_large(prediction: Prediction, place: Room | None, *, out: str) -> str:
    at_once = min(prediction.workers, sum(split.shards for split in prediction.splits.values()))
    text = (
        f"disk: {format_bytes(prediction.bytes)}, {format_bytes(prediction.peak_bytes)} at the peak if "
        f"{'a shard has' if at_once == 1 else f'{at_once} shards at once have'} to be made again"
    )
    if place is None:
        return f"{text}; how much is free at {out} is not known"
    there = f", {format_bytes(place.there)} of it is there" if place.there else ""
    if place.suffices:
        return f"{text}{there}; {format_bytes(place.free)} are free at {out}: it fits"
    free = f"{text}{there}; only {format_bytes(place.free)} are free at {out}: it does not fit"
    return f"{free}; --budget chooses settings that do, for example --budget {_round_down(place)}"


def _round_down(place: Room) -> str:
    """Propose nine tenths of what can be had, as a budget."""
    least = 0.9 * (place.free + place.there)
    unit, name = next(((unit, name) for unit, name in ((10**9, "GB"), (10**6, "MB")) if least >= unit), (1000, "KB"))
    return f"{int(least / unit)}{name}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
