"""Delete raw data (--consume) once all shards made of it were read back and found whole.

What may be deleted is an archive, with all of its parts, all of whose frames the plan uses, or the loose files of a
trajectory; an archive that holds more that is known only with --consume-unused. Always kept: archives without frames of
the plan, those that hold what nothing recognises or bytes that are no member's, whatever a rejected frame or a listing
problem concerns, what is behind a link, and what has changed since it was listed.
"""

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vdaprep.conversion.account import locate_unknown
from vdaprep.conversion.clips import PlannedShard
from vdaprep.conversion.convert import announce, make_verified, take_over, write_dataset_record
from vdaprep.conversion.plan import ConversionPlan, RawData
from vdaprep.conversion.saved_plan import LostTrajectory, Prepared, save_plan
from vdaprep.errors import UsageError
from vdaprep.raw.frames import Trajectory
from vdaprep.raw.tree import Location
from vdaprep.shards.records import DatasetRecord, Rejection, ShardRecord
from vdaprep.storage.output import OutputDir
from vdaprep.storage.urls import is_url, redact
from vdaprep.units import format_bytes
from vdaprep.workers.progress import OnProgress, ignore
from vdaprep.workers.tasks import Executor


@dataclass(frozen=True)
class FileState:
    """Identity of a file when it was listed; another file under its name is not deleted."""

    path: str
    """Below the root."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Time of its last change."""
    inode: int
    """Number of the file on its disk."""


def state_of(root: Path, path: str) -> FileState | None:
    """Return the identity of a file below `root`; None if it is no regular one, or linked."""
    try:
        with _parent(root, path) as folder:
            found = os.stat(PurePosixPath(path).name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return FileState(path, found.st_size, found.st_mtime_ns, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def has_changed(root: Path, file: FileState) -> bool:
    """Return whether there is another file now; one that is gone has not changed."""
    return os.path.lexists(root / file.path) and state_of(root, file.path) != file


def delete(root: Path, file: FileState) -> bool:
    """Delete a file below `root` unless it changed; returns whether. Raises OSError."""
    if has_changed(root, file):
        return False
    with contextlib.suppress(FileNotFoundError), _parent(root, file.path) as folder:
        os.unlink(PurePosixPath(file.path).name, dir_fd=folder)
    return True


def delete_empty_folders(root: Path, paths: Iterable[str]) -> None:
    """Delete the folders of these files, and those above up to `root`, as far as they are empty."""
    folders = {folder for path in paths for folder in PurePosixPath(path).parents if folder.name}
    for folder in sorted(folders, key=lambda item: len(item.parts), reverse=True):
        with contextlib.suppress(OSError), _parent(root, str(folder)) as parent:
            os.rmdir(folder.name, dir_fd=parent)


@contextlib.contextmanager
def _parent(root: Path, path: str) -> Generator[int]:
    """Open the folder of a path below `root`, through real folders only; raises OSError."""
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise OSError(f"{path} leads out of {root}")
    with contextlib.ExitStack() as opened:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        opened.callback(os.close, folder)
        for part in parts[:-1]:
            folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            opened.callback(os.close, folder)
        yield folder


_BESIDE_FRAMES = (".txt", ".json", ".csv", ".md")  # what an archive of frames may hold besides them


@dataclass(frozen=True)
class RawItem:
    """An archive, or a trajectory's loose files."""

    name: str
    """The archive's path below the root, or the trajectory's name."""
    trajectories: frozenset[str]
    """Trajectories whose frames it holds."""
    files: tuple[FileState, ...]
    """The archive, or the files of frames."""
    tables: tuple[FileState, ...] = ()
    """Files that frames of other cameras may need, too."""
    unused: str = ""
    """What an archive holds besides frames of the plan; empty: nothing."""

    @property
    def bytes(self) -> int:
        """Bytes that deleting it frees."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Consumption:
    """What a conversion may delete of its raw data."""

    root: Path
    """Folder of the raw data."""
    plan: ConversionPlan
    """What is converted."""
    items: tuple[RawItem, ...]
    """What may be deleted."""
    kept: tuple[tuple[str, str], ...]
    """What is kept: (name, reason)."""

    def deleted(self) -> Iterator[str]:
        """Describe what will be deleted that holds nothing but what is converted."""
        for item in self.items:
            if not item.unused:
                files = f" in {len(item.files)} files" if len(item.files) > 1 else ""
                yield f"{self.root / item.name}: will be deleted, {format_bytes(item.bytes)}{files}"

    def deleted_unused(self) -> Iterator[str]:
        """Describe what will be deleted though not all of it is converted."""
        for item in self.items:
            if item.unused:
                yield (
                    f"{self.root / item.name}: will be deleted, {format_bytes(item.bytes)}, and with it frames that "
                    f"are not converted: it also holds {item.unused}"
                )
        if self.plan.settings.frame_stride > 1:
            yield "the frames that --frame-stride leaves out will be deleted with the others"
        if self.plan.settings.first_frames is not None:
            yield "the frames that --first-frames leaves out will be deleted with the others"

    def left(self) -> Iterator[str]:
        """Describe what is kept, and why."""
        for name, reason in self.kept:
            yield f"{self.root / name}: kept: {reason}"


def survey(prepared: Prepared, *, take_unused: bool = False) -> Consumption:
    """Find what may be deleted; `take_unused`: also archives that hold more.

    Raises UsageError if raw data is not on this machine.
    """
    plan, found = prepared.plan, prepared.found
    if is_url(plan.raw):
        raise UsageError(f"--consume: deletes raw data of this machine; {redact(plan.raw)} is a URL.")
    if found is None:
        return Consumption(Path(plan.raw), plan, (), ())
    uses = _uses(_planned(plan, found.trajectories))
    problems = [*plan.rejected, *found.problems]
    unknown: defaultdict[str, list[str]] = defaultdict(list)
    for location in locate_unknown(found):
        unknown[location.container].append(location.member)
    items: list[RawItem] = []
    kept: list[tuple[str, str]] = []
    for use in (*_archives(uses, found), *_loose(uses)):
        states = (_states(found.raw, names) for names in use.names)
        item = RawItem(use.name, frozenset(use.trajectories), *states, unused=use.unused)
        reason = _problem(item, problems, use.names[0]) or _not_accounted(use, found, unknown)
        if len(item.files) < len(use.names[0]):
            reason = reason or "a link leads there, or it is no plain file"
        if item.unused and not take_unused:
            reason = reason or f"this run does not use {item.unused} in it; --consume-unused deletes it all the same"
        if reason:
            kept.append((item.name, reason))
        else:
            items.append(item)
    return Consumption(Path(found.raw), plan, tuple(items), tuple(kept))


def _not_accounted(use: "_Use", found: RawData, unknown: Mapping[str, list[str]]) -> str:
    """Say what of an archive nothing knows the use of; empty if there is no such thing."""
    if not use.is_archive:
        return ""
    if members := unknown.get(use.name):
        return f"nothing recognises {_counted(members)} in it"
    archive = found.archives.get(use.name)
    return "" if archive is None or archive.accounted else "not every byte of it is a member's"


def _planned(plan: ConversionPlan, found: Iterable[Trajectory]) -> list[Trajectory]:
    """List the plan's trajectories with their files, or those that are left of them."""
    of_plan = {clip.trajectory.name: clip.trajectory for shard in plan.shards for clip in shard.clips}
    left = {item.name: item for item in found}
    planned = (left.get(name) if isinstance(item, LostTrajectory) else item for name, item in of_plan.items())
    return [item for item in planned if item is not None]


@dataclass
class _Use:
    """What may be deleted: who uses it, its files, files beside them, what else it holds.

    An archive in parts goes as a whole, as none of them can be read without those before it, and its last part first:
    what an interruption leaves can still be listed, and is named.
    """

    name: str
    trajectories: set[str] = field(default_factory=set[str])
    frames: set[str] = field(default_factory=set[str])
    tables: set[str] = field(default_factory=set[str])
    is_archive: bool = False
    files: tuple[str, ...] = ()
    unused: str = ""

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Paths below the root: what is deleted, and what with it if nothing else is left."""
        return ([*reversed(self.files)], []) if self.is_archive else (sorted(self.frames), sorted(self.tables))


def _uses(trajectories: Iterable[Trajectory]) -> list[_Use]:
    """List archives and, as one each, the loose files of every trajectory."""
    uses: dict[tuple[str, str], _Use] = {}

    def use_of(location: Location, trajectory: Trajectory) -> _Use:
        loose = not location.container
        key = ("", trajectory.name) if loose else (location.container, "")
        use = uses.setdefault(key, _Use(trajectory.name if loose else location.container, is_archive=not loose))
        use.trajectories.add(trajectory.name)
        return use

    for trajectory in trajectories:
        for location in (place for frame in trajectory.frames for place in (frame.rgb, frame.depth)):
            if location is not None:
                use_of(location, trajectory).frames.add(location.member)
        for location in trajectory.shared.values():
            use_of(location, trajectory).tables.add(location.member)
    return [uses[key] for key in sorted(uses)]


def _archives(uses: Iterable[_Use], found: RawData) -> Iterator[_Use]:
    """Yield the archives that hold frames, and what else they hold; others are kept."""
    held: defaultdict[str, list[str]] = defaultdict(list)
    for location in found.files.values():
        if location.container:
            held[location.container].append(location.member)
    for use in uses:
        if use.is_archive and use.frames:
            more = [
                member
                for member in held[use.name]
                if member not in use.frames and not member.lower().endswith(_BESIDE_FRAMES)
            ]
            use.unused = _counted(more)
            use.files = found.archives[use.name].files
            yield use


def _counted(files: Sequence[str]) -> str:
    if len(files) < 2:
        return "".join(files)
    return f"{len(files)} files like {files[0]}"


def _loose(uses: Iterable[_Use]) -> Iterator[_Use]:
    return (use for use in uses if not use.is_archive and use.frames)


def _states(root: str, names: Iterable[str]) -> tuple[FileState, ...]:
    states = (state_of(Path(root), name) for name in names)
    return tuple(state for state in states if state is not None)


def _problem(item: RawItem, problems: Iterable[Rejection], names: list[str]) -> str:
    own = {item.name, *item.trajectories, *names}
    for problem in problems:
        if problem.file in own or problem.file.partition(": ")[0] in own:
            return f"{problem.file} {problem.reason}"
    return ""


# ------------------------------------------------------------------------------------------------------ while it runs


class Consumer:
    """Deletes raw data as its shards are found whole; tells `notice` of each deletion."""

    def __init__(self, consumption: Consumption, notice: Callable[[str], None]) -> None:
        self._consumption = consumption
        self._notice = notice
        self._waiting = [(item, _shards_of(item, consumption.plan)) for item in consumption.items]
        self._kept = len(consumption.kept)
        self.freed_bytes = 0

    def waits_for(self, name: str) -> bool:
        """Return whether raw data is kept until a shard is found whole."""
        return any(name in shards for _, shards in self._waiting)

    def order(self, shards: Iterable[PlannedShard]) -> list[PlannedShard]:
        """Put shards of the same raw data next to each other, across splits, to free it early."""
        return sorted(shards, key=lambda shard: (shard.clips[0].trajectory.name, shard.split, shard.number))

    def on_whole(self, shard: PlannedShard, record: ShardRecord) -> None:
        """Delete raw data all of whose shards are whole; what rejected frames concern is kept."""
        affected = _trajectories_of(record.rejected, shard)
        kept = [item for item, _ in self._waiting if item.trajectories & affected]
        for item in kept:
            self._notice(f"{self._consumption.root / item.name}: kept: frames of it were rejected.")
        self._kept += len(kept)
        due: list[RawItem] = []
        rest: list[tuple[RawItem, set[str]]] = []
        for item, shards in self._waiting:
            shards.discard(shard.name)
            if item not in kept and not shards:
                due.append(item)
            elif item not in kept:
                rest.append((item, shards))
        self._waiting = rest
        for item in due:
            self._delete(item)

    def summary(self) -> str:
        """Describe what was freed."""
        kept = f"; {self._kept} archives and folders are kept" if self._kept else ""
        return f"{self._consumption.root}: {format_bytes(self.freed_bytes)} of raw data freed{kept}"

    def _delete(self, item: RawItem) -> None:
        root = self._consumption.root
        try:
            changed = [file.path for file in item.files if has_changed(root, file)]
            changed = changed or [file.path for file in item.files if not delete(root, file)]
        except OSError as error:
            self._notice(f"{root / item.name}: cannot be deleted ({error.strerror}).")
            return
        if changed:
            self._notice(f"{root / changed[0]}: kept: it has changed since it was listed.")
            return
        if item.tables and _holds_only(root, item):
            for table in item.tables:
                delete(root, table)
        delete_empty_folders(root, [file.path for file in (*item.files, *item.tables)])
        self.freed_bytes += item.bytes
        self._notice(f"{root / item.name}: deleted, {format_bytes(item.bytes)} freed; its shards were read back.")


def _shards_of(item: RawItem, plan: ConversionPlan) -> set[str]:
    return {
        shard.name for shard in plan.shards if any(clip.trajectory.name in item.trajectories for clip in shard.clips)
    }


def _trajectories_of(rejected: Iterable[Rejection], shard: PlannedShard) -> set[str]:
    """Name the trajectories of rejected frames; all of the shard's where it is not clear."""
    files = {item.file for item in rejected}
    if not files:
        return set()
    trajectories = {clip.trajectory.name: clip.trajectory for clip in shard.clips}
    named = {
        name: {str(place) for frame in item.frames for place in (frame.rgb, frame.depth)}
        for name, item in trajectories.items()
    }
    found = {name for name, places in named.items() if places & files}
    explained = files <= set().union(*named.values())
    return found if explained else set(trajectories)


def _holds_only(root: Path, item: RawItem) -> bool:
    """Return whether the folder of a trajectory's files holds only its tables now."""
    tables = {file.path for file in item.tables}
    paths = [PurePosixPath(file.path) for file in (*item.files, *item.tables)]
    top = Path(os.path.commonpath([path.parent for path in paths]))
    below = (Path(folder, name) for folder, _, names in os.walk(root / top) for name in names)
    return all(path.relative_to(root).as_posix() in tables for path in below)


def convert_and_consume(
    plan: ConversionPlan, consumer: Consumer, *, output: OutputDir, executor: Executor, on_progress: OnProgress = ignore
) -> DatasetRecord:
    """Do what `convert_plan` does, deleting raw data on the way; the plan is saved before.

    Raises what `convert_plan` does; ShardError if a shard is not whole, before anything that it was made of is deleted.
    """
    announce(plan, plan.shards, output, on_progress)
    with output.lock():
        records = take_over(plan, plan.shards, output, on_progress)
        save_plan(plan, output)
        wanted = [shard for shard in plan.shards if shard.name not in records or consumer.waits_for(shard.name)]
        planned = {shard.name: shard for shard in plan.shards}
        made = make_verified(
            plan, consumer.order(wanted), records, output=output, executor=executor, on_progress=on_progress
        )
        with contextlib.closing(made):
            for name, record in made:
                records[name] = record
                consumer.on_whole(planned[name], record)
        return write_dataset_record(plan, output, records)
