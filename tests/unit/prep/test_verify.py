"""Whatever is wrong with shards is found and named: bits, files, records, clips that are not what they say."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vdaprep.analysis.verify import VerifyReport, count_frames, verify
from vdaprep.analysis.verify_shard import check_shard
from vdaprep.conversion.convert import convert_plan
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import make_plan
from vdaprep.errors import ShardError
from vdaprep.shards import codec, reader, writer
from vdaprep.shards.canonical import parse_sealed_json, sealed_json
from vdaprep.shards.dataset import find_shards
from vdaprep.shards.metadata import ClipMeta, DepthSpec, DiffSpec
from vdaprep.shards.records import DatasetRecord
from vdaprep.shards.writer import EncodedClip
from vdaprep.storage.output import LocalOutput
from vdaprep.workers.local import LocalExecutor


def check(*paths: Path, deep: bool = True) -> list[str]:
    return [str(finding) for finding in run(*paths, deep=deep).findings]


def run(*paths: Path, deep: bool = True) -> VerifyReport:
    return verify(paths, deep=deep, on_frames=lambda count: None)


@pytest.fixture(scope="session")
def tiny_shards(raw_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of small clips, one of which lost a frame."""
    out = tmp_path_factory.mktemp("tiny") / "shards"
    settings = Settings(short_side=15, clip_frames=3, frames_per_shard=3, diff_scale=4)
    plan = make_plan("tartanair", raw=raw_tiny, settings=settings, selection=Selection())
    convert_plan(plan, output=LocalOutput(out / plan.dataset), executor=LocalExecutor(1))
    return out


@pytest.fixture(scope="session")
def raw_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import write_raw

    lengths = {"abandonedfactory/Easy/P000": 5, "abandonedfactory/Easy/P011": 2}
    tree = write_raw(tmp_path_factory.mktemp("tiny") / "raw", lengths=lengths)
    image = tree.root / "abandonedfactory" / "Easy" / "P000" / "image_left" / "000004_left.png"
    image.write_bytes(image.read_bytes()[:-9])
    return tree.root


@pytest.fixture
def tiny(tiny_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


def test_good_shards_are_whole(tiny: Path) -> None:
    seen: list[int] = []
    report = verify([tiny], deep=True, on_frames=seen.append)
    assert report.findings == ()
    assert (report.shards, report.clips, report.frames) == (3, 3, 6)
    assert sum(seen) == report.frames == count_frames([tiny])
    assert report.bytes == sum(tar.stat().st_size for tar in find_shards(tiny))
    for path in (tiny / "tartanair", tiny / "tartanair" / "train", find_shards(tiny)[0]):
        assert check(path) == check(path, deep=False) == []
    assert run(tiny, deep=False) == report


@pytest.mark.slow
def test_every_flipped_bit_is_found(tiny: Path) -> None:
    rng = np.random.default_rng(1)
    files = sorted(path for path in tiny.rglob("*") if path.is_file())
    assert len(files) == 7
    for turn in range(210):
        path = files[turn % len(files)]
        whole = path.read_bytes()
        position = int(rng.integers(len(whole)))
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert check(tiny), f"bit in byte {position} of {path.name}: {whole[position - 20 : position + 20]!r}"
        path.write_bytes(whole)
    assert check(tiny) == []


def test_every_bit_of_a_shard_alone_is_found_without_dataset_json(tiny: Path) -> None:
    tar = find_shards(tiny)[0]
    (tiny / "tartanair" / "dataset.json").unlink()
    record = tar.with_suffix(".json")
    whole = record.read_bytes()
    for position in range(0, len(whole), 7):
        record.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        assert check(tar), f"byte {position}: {whole[position - 20 : position + 20]!r}"
    record.write_bytes(whole)
    assert check(tar) == []
    assert check(tiny) == [
        f"{tiny / 'tartanair' / 'dataset.json'}: is missing: the conversion was not finished; run convert again."
    ]


def test_a_damaged_frame_is_named(tiny: Path) -> None:
    tar = find_shards(tiny)[0]
    entry = reader.read_record(tar).clips[0]
    data = bytearray(tar.read_bytes())
    data[entry.frame_offsets[1] + 600] ^= 4
    tar.write_bytes(data)
    found = check(tiny)
    assert f"{tar}: its SHA-256 is not the one in its record; the shard is damaged." in found
    differs = f"{tar}: frame 1 of clip {entry.key} differs from its checksum; the shard is damaged: "
    assert f"{differs}vdaprep repair makes it again." in found


def drop_tar(folder: Path) -> None:
    (folder / "train" / "shard-0001.tar").unlink()


def drop_both(folder: Path) -> None:
    drop_tar(folder)
    drop_record(folder)


def drop_record(folder: Path) -> None:
    (folder / "train" / "shard-0001.json").unlink()


def add_shard(folder: Path) -> None:
    for suffix in (".tar", ".json"):
        shutil.copy(folder / "val" / f"shard-0001{suffix}", folder / "val" / f"shard-0002{suffix}")


def swap_records(folder: Path) -> None:
    first, second = (folder / "train" / f"shard-000{i}.json" for i in (1, 2))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def swap_shards(folder: Path) -> None:
    swap_records(folder)
    first, second = (folder / "train" / f"shard-000{i}.tar" for i in (1, 2))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def cut(folder: Path) -> None:
    tar = folder / "train" / "shard-0001.tar"
    tar.write_bytes(tar.read_bytes()[:-5120])


def leave_rest(folder: Path) -> None:
    (folder / "train" / "shard-0009.tar.vdaprep-tmp").write_bytes(b"")


def edit(path: Path, **changes: object) -> None:
    """Change a record as a program would that knows its checksum."""
    path.write_bytes(sealed_json({**parse_sealed_json(path.read_bytes(), where="").values, **changes}))


def edit_by_hand(folder: Path) -> None:
    path = folder / "dataset.json"
    path.write_bytes(path.read_bytes().replace(b"theairlab", b"thefirlab"))


def edit_record_by_hand(folder: Path) -> None:
    path = folder / "train" / "shard-0001.json"
    path.write_bytes(path.read_bytes().replace(b'"clamped_near":0', b'"clamped_near":1'))


def end_record_in_zeros(folder: Path) -> None:
    """As a file system leaves it whose machine lost its power: as long as it should be."""
    path = folder / "train" / "shard-0001.json"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def put_zeros_behind_record(folder: Path) -> None:
    path = folder / "train" / "shard-0001.json"
    path.write_bytes(path.read_bytes() + bytes(512))


def end_tar_in_zeros(folder: Path) -> None:
    path = folder / "train" / "shard-0001.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-12000] + bytes(12000))


def count_wrong(folder: Path) -> None:
    path = folder / "dataset.json"
    edit(path, totals={**json.loads(path.read_bytes())["totals"], "clips": 7})


def forget_a_rejection(folder: Path) -> None:
    edit(folder / "dataset.json", rejected=[])


def write_json_by_hand(folder: Path) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1))


def garble_kinds(folder: Path) -> None:
    path = folder / "train" / "shard-0001.json"
    edit(path, kinds={**json.loads(path.read_bytes())["kinds"], "depth.zst": [3.5]})


def empty_totals(folder: Path) -> None:
    edit(folder / "dataset.json", totals=[])


HARM: dict[Callable[[Path], None], str] = {
    drop_tar: "train/shard-0001.tar: is missing, though its record is there",
    drop_both: "train/shard-0001.tar: is missing, dataset.json lists it",
    drop_record: "train/shard-0001.tar: has no record shard-0001.json beside it",
    add_shard: "val/shard-0002.tar: is not listed in dataset.json",
    swap_records: "train/shard-0001.json: is the record of shard-0002.tar, expected one of shard-0001.tar",
    swap_shards: "train/shard-0001.tar: dataset.json says sha256 ",
    cut: "the shard is cut or damaged",
    leave_rest: "shard-0009.tar.vdaprep-tmp: was left by a run that died",
    end_record_in_zeros: "train/shard-0001.json: holds bytes of zero, expected text; it was not written or",
    put_zeros_behind_record: "train/shard-0001.json: holds bytes of zero, expected text",
    end_tar_in_zeros: "train/shard-0001.tar: ",
    count_wrong: "dataset.json: says clips 7 in all, the records say 3",
    forget_a_rejection: "dataset.json: its list of rejected frames does not end with those of the records",
    garble_kinds: "shard-0001.json",  # types are checked at run time here, and by the program itself elsewhere
    empty_totals: "dataset.json: ",
    write_json_by_hand: "dataset.json: is not canonical JSON",
    edit_by_hand: "dataset.json: differs from the checksum that it holds; it was changed or damaged",
    edit_record_by_hand: "train/shard-0001.json: differs from the checksum that it holds",
}


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_files_that_are_missing_swapped_cut_or_too_many(harm: Callable[[Path], None], tiny: Path) -> None:
    harm(tiny / "tartanair")
    assert any(HARM[harm] in finding for finding in check(tiny, deep=False))


def test_a_clip_key_twice(tiny: Path) -> None:
    add_shard(tiny / "tartanair")
    assert any(
        "clip tartanair-abandonedfactory-easy-p011-000000 is also in val/shard-0001.tar" in s for s in check(tiny)
    )


def test_paths_may_be_short(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, path in (("train", "shard-0001.tar"), ("train", "."), (".", "train"), (".", "."), ("train", "..")):
        monkeypatch.chdir(tiny / "tartanair" / folder)
        assert check(Path(path)) == []


def test_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.tar", tmp_path / "none"):
        with pytest.raises(ShardError, match="there are no shards here; vdaprep convert makes them"):
            check(path)


# --------------------------------------------------------------------------- well-formed shards with contents that lie

SPEC, DIFF = DepthSpec("linear", 0.0, unit_m=0.01), DiffSpec(4, 2)
OPTIONS = {
    "depth": SPEC.to_json(), "diff": DIFF.to_json(), "rgb": "jpeg:90", "clip_frames": 64, "short_side": None,
}  # fmt: skip


def lie(tmp_path: Path, *, frames: int = 3, members: dict[str, bytes] | None = None, **meta: object) -> list[str]:
    """Write a shard whose record is right and whose clip differs in `meta`, or in `members` of its last frame."""
    depth_m = np.full((8, 8), 2.0, np.float32)
    depth_m[0] = 4.0
    zero = np.zeros((2, 2, 3), np.float32)
    good = {
        "rgb.jpg": codec.encode_rgb(np.zeros((8, 8, 3), np.uint8), quality=90),
        "depth.zst": codec.encode_depth(depth_m, SPEC)[0],
        "diff.zst": codec.encode_diff(zero, None, DIFF),
    }
    truth = ClipMeta(
        dataset="toy",
        split="train",
        trajectory="t",
        frame_ids=tuple(range(frames)),
        height=8,
        width=8,
        intrinsics=((1.0, 1.0, 0.0, 0.0),) * frames,
        camera_to_world=(tuple(map(tuple, np.eye(4).tolist())),) * frames,
        depth=SPEC,
        disparity_min=0.25,
        disparity_max=0.5,
        diff=DIFF,
        diff_valid=(False, True, True)[:frames],
    )
    last = {**good, **(members or {})}
    content = tuple(tuple((last if i == frames - 1 else good).items()) for i in range(frames))
    clip = EncodedClip("toy-t-000000", dataclasses.replace(truth, **meta), content, clamped_near=0)
    tar = tmp_path / "toy" / "train" / "shard-0001.tar"
    writer.write_shard(LocalOutput(tar.parent), tar.name, [clip], options=OPTIONS, plan="p", rejected=[])
    assert check_shard(tar, deep=False, on_frames=lambda count: None).findings == ()
    return [finding.what for finding in check_shard(tar, deep=True, on_frames=lambda count: None).findings]


def test_the_truth_is_no_lie(tmp_path: Path) -> None:
    assert lie(tmp_path) == []


def pose(scale: float) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return (tuple(map(tuple, np.diag([scale, 1.0, 1.0, 1.0]).tolist())),) * 3


LIES: list[tuple[dict[str, object], str]] = [
    ({"split": "val"}, "is of split val, found in train"),
    ({"trajectory": "u"}, "is of clip toy-u-000000, found in clip toy-t-000000"),
    ({"frame_ids": (0, 1, 3)}, "its frame numbers do not follow one another"),
    ({"height": 9}, "is 8x8 pixels, its metadata says 8x9"),
    ({"disparity_min": 0.2}, "says disparity 0.2"),
    ({"disparity_max": 0.6}, "its frames have 0.25 to 0.5"),
    ({"depth": DepthSpec("linear", 0.0, unit_m=0.02)}, "its depth code is not the one of the options"),
    ({"diff": DiffSpec(2, 2)}, "its differences are not those of the options"),
    ({"diff_valid": (False, True, False)}, "says that a difference inside the clip is not valid"),
    ({"camera_to_world": pose(-1.0)}, "holds a pose that is not a rotation and a translation"),
    ({"camera_to_world": pose(1.1)}, "holds a pose that is not a rotation and a translation"),
    ({"intrinsics": ((0.0, 1.0, 0.0, 0.0),) * 3}, "intrinsics holds a focal length that is not positive"),
]


@pytest.mark.parametrize(("meta", "sentence"), LIES, ids=[next(iter(meta)) for meta, _ in LIES])
def test_metadata_that_lies(meta: dict[str, object], sentence: str, tmp_path: Path) -> None:
    [found] = lie(tmp_path, **meta)
    assert sentence in found


def ones() -> bytes:
    return codec.encode_diff(np.full((2, 2, 3), 9, np.float32), np.zeros((2, 2, 3), np.float32), DIFF)


MEMBERS: list[tuple[dict[str, bytes], str]] = [
    ({"rgb.jpg": b"\xff\xd8 \xff\xd9"}, "the JPEG does not say its size"),
    ({"depth.zst": b"1234"}, "f002.depth.zst: not readable as zstd"),
    ({"diff.zst": codec.pack_codes(np.zeros((2, 2), np.uint16), SPEC)}, "f002.diff.zst: holds 8 bytes when unpacked"),
    ({"depth.zst": codec.pack_codes(np.full((8, 8), 400, np.uint16), SPEC)}, ""),
]


@pytest.mark.parametrize(("members", "sentence"), MEMBERS, ids=["rgb", "depth", "diff", "other depth in range"])
def test_members_that_do_not_decode(members: dict[str, bytes], sentence: str, tmp_path: Path) -> None:
    found = lie(tmp_path, members=members)
    assert sentence in found[0] if sentence else found == []


def test_a_difference_that_should_be_zero(tmp_path: Path) -> None:
    [found] = lie(tmp_path, members={"diff.zst": ones()}, frames=1)
    assert "is not zero, though the metadata says that it is not valid" in found


def test_a_record_of_other_members_is_noticed(tmp_path: Path) -> None:
    lie(tmp_path)
    path = tmp_path / "toy" / "train" / "shard-0001.json"
    kinds = json.loads(path.read_bytes())["kinds"]
    edit(path, kinds={**kinds, "rgb.jpg": [4, kinds["rgb.jpg"][1]]})
    [found] = check_shard(path.with_suffix(".tar"), deep=True, on_frames=lambda count: None).findings
    assert "of its members, expected" in found.what


def test_a_record_whose_clips_share_bytes_is_noticed(tmp_path: Path) -> None:
    lie(tmp_path)
    path = tmp_path / "toy" / "train" / "shard-0001.json"
    [entry] = json.loads(path.read_bytes())["clips"]
    edit(path, clips=[entry, entry])
    found = [str(item) for item in check_shard(path.with_suffix(".tar"), deep=True, on_frames=expect_some).findings]
    assert [text for text in found if "clip toy-t-000000: lies at bytes 0 to" in text] == found


def expect_some(count: int) -> None:
    assert count > 0


def test_a_trajectory_in_two_splits_and_frames_twice(tmp_path: Path) -> None:
    lie(tmp_path)
    folder = tmp_path / "toy"
    clip = reader.read_record(folder / "train" / "shard-0001.tar").clips[0]
    shutil.copytree(folder / "train", folder / "val")
    record = reader.read_record(folder / "val" / "shard-0001.tar")
    assert record.clips == (clip,)
    found = check(folder)
    assert any("clip toy-t-000000 is also in train/shard-0001.tar" in text for text in found)
    assert any("is of split train, found in val" in text for text in found)


def test_dataset_json_of_an_old_digest_is_noticed(tiny: Path) -> None:
    path = tiny / "tartanair" / "dataset.json"
    record = DatasetRecord.from_bytes(path.read_bytes(), where="")
    other = hashlib.sha256(b"other").hexdigest()
    changed = dataclasses.replace(
        record, shards=(dataclasses.replace(record.shards[0], record_sha256=other), *record.shards[1:])
    )
    path.write_bytes(changed.to_bytes())
    [found] = check(tiny, deep=False)
    assert f"dataset.json says record_sha256 {other}, found " in found
