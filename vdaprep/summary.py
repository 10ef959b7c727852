"""What came of a conversion, for people and for scripts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vdaprep.conclude import totals
from vdaprep.convert import Part
from vdaprep.meter import Meter, Speed
from vdaprep.schema import DatasetRecord, Rejection, ShardRecord
from vdaprep.sizes import human_bytes
from vdaprep.tasks import Amount


@dataclass(frozen=True)
class Summary:
    """What there is now, in `totals` as `dataset.json` has them; `work` is what this run did of it.

    `part` is empty for a whole conversion; `seconds` and `speed` are those of the work.
    """

    out: str
    part: str
    shards: int
    totals: Mapping[str, Any]
    rejected: tuple[Rejection, ...]
    work: Amount
    seconds: float
    speed: Speed

    @classmethod
    def of_dataset(cls, record: DatasetRecord, *, out: str, meter: Meter) -> "Summary":
        """Sum up a whole conversion."""
        return cls(
            out=out, part="", shards=len(record.shards), totals=record.totals, rejected=record.rejected, **_done(meter)
        )

    @classmethod
    def of_part(cls, part: Part, records: Sequence[ShardRecord], *, out: str, meter: Meter) -> "Summary":
        """Sum up a part of a conversion."""
        rejected = tuple(item for record in records for item in record.rejected)
        return cls(
            out=out, part=str(part), shards=len(records), totals=totals(records), rejected=rejected, **_done(meter)
        )

    def lines(self) -> Iterator[str]:
        """Say it in a few lines."""
        made = self.totals
        part = f" part {self.part.replace('-', ' ')}:" if self.part else ""
        each = f" ({human_bytes(made['bytes'] / made['frames'])} a frame)" if made["frames"] else ""
        yield (
            f"{self.out}:{part} {made['frames']} frames in {made['clips']} clips, {self.shards} shards, "
            f"{human_bytes(made['bytes'])}{each}"
        )
        if made["frames"]:
            kinds = ", ".join(f"{kind} {human_bytes(size)}" for kind, size in made["bytes_by_kind"].items())
            yield f"of that {kinds}; {len(self.rejected)} inputs rejected"
        if self.work.frames:
            yield f"{self.work.frames} frames in {timedelta(seconds=round(self.seconds))}: {self.speed}"
        if made["clamped_near"]:
            near = "depth pixels were nearer than the depth code goes; stored at its near end."
            yield f"{made['clamped_near']} {near}"
        if self.part:
            yield "After the last part: the same command with --finish instead of --part."

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "out": self.out,
            "part": self.part or None,
            "shards": self.shards,
            **self.totals,
            "rejected": len(self.rejected),
            "seconds": round(self.seconds, 3),
            "new_frames": self.work.frames,
            "bytes_in": self.work.bytes_in,
            "bytes_out": self.work.bytes_out,
            "frames_per_s": round(self.speed.frames, 2),
            "bytes_in_per_s": round(self.speed.bytes_in),
            "bytes_out_per_s": round(self.speed.bytes_out),
        }


def _done(meter: Meter) -> dict[str, Any]:
    seconds = meter.seconds
    return {"work": meter.work, "seconds": seconds, "speed": meter.mean_speed(seconds)}
