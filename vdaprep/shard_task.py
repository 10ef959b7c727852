"""A shard that is to be made: from its place in a plan to its tar with a record."""

from dataclasses import dataclass

from vdaprep import manifest, shards, sources
from vdaprep.archive import Reader
from vdaprep.clips import PlannedShard
from vdaprep.encode import ClipEncoder, EncodedClip
from vdaprep.outputs import Output
from vdaprep.plan import Plan
from vdaprep.schema import Rejection, ShardRecord
from vdaprep.tasks import Amount, Tick


@dataclass(frozen=True)
class ShardTask:
    """A shard to make; `plan` is without its shards."""

    plan: Plan
    output: Output
    shard: PlannedShard

    def __str__(self) -> str:
        return self.output.place(self.shard.name)


def encode_shard(task: ShardTask, tick: Tick) -> tuple[str, ShardRecord]:
    """Encode and write a shard, ticking frames and bytes. Returns its name and its record."""
    plan, shard = task.plan, task.shard
    rejected: list[Rejection] = []
    with Reader(plan.raw) as reader:
        encoder = ClipEncoder(
            dataset=plan.dataset,
            source=sources.load(plan.dataset),
            reader=reader,
            options=plan.settings.source,
            encoding=plan.settings.encoding(manifest.load(plan.dataset)),
        )
        ticks = _Ticks(reader, tick)
        clips = (
            ticks.counted(encoded)
            for clip in shard.clips
            for encoded in encoder.encode(clip, split=shard.split, rejected=rejected, on_frame=ticks.frame)
        )
        record = shards.write_shard(
            task.output,
            shard.name,
            clips,
            options=plan.options,
            plan=shard.fingerprint(),
            rejected=rejected,
        )
        ticks.written(record.tar_bytes)
    return shard.name, record


class _Ticks:
    """Tells of frames as they are encoded, with the bytes that were read for them, and of the bytes of clips."""

    def __init__(self, reader: Reader, tick: Tick) -> None:
        self._reader = reader
        self._tick = tick
        self._in = 0
        self._out = 0

    def frame(self) -> None:
        """Tell of a frame."""
        before, self._in = self._in, self._reader.bytes_read
        self._tick(Amount(frames=1, bytes_in=self._in - before))

    def counted(self, clip: EncodedClip) -> EncodedClip:
        """Tell of a clip's bytes, roughly: what the tar adds is told of in the end."""
        self.written(self._out + sum(len(data) for frame in clip.frames for _, data in frame))
        return clip

    def written(self, total: int) -> None:
        """Tell of what there is beyond the bytes told of before."""
        self._tick(Amount(bytes_out=total - self._out))
        self._out = total
