"""Names, metadata and records: what the contract takes and what it refuses."""

import dataclasses
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdaprep.errors import ShardError
from vdaprep.shards.canonical import canonical_json
from vdaprep.shards.metadata import ClipMeta, DepthSpec, DiffSpec
from vdaprep.shards.names import clip_key, member_kind, member_name
from vdaprep.shards.records import ClipEntry, DatasetRecord, Rejection, ShardRecord, ShardSummary

POSE = ((1.0, 0.0, 0.0, 0.5), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.25), (0.0, 0.0, 0.0, 1.0))
META = ClipMeta(
    dataset="tartanair",
    split="train",
    trajectory="a/Easy/P000",
    frame_ids=(3, 4),
    height=48,
    width=64,
    intrinsics=((32.0, 32.0, 31.6, 23.6),) * 2,
    camera_to_world=(POSE, POSE),
    depth=DepthSpec("log", 0.0005, near_m=0.1, far_m=1000.0),
    disparity_min=0.01,
    disparity_max=0.9,
    diff=DiffSpec(4, 2),
    diff_valid=(False, True),
    source={"layout": "v1"},
)
PLAIN = {"packing": "bytes", "steps": 1}
RELATIVE = dataclasses.replace(
    META,
    intrinsics=None,
    camera_to_world=None,
    depth=DepthSpec("relative", 0.0, packing="nibbles"),
    disparity_min=0.0,
    disparity_max=1.0,
    teacher_disparity=(-2.5, 31.25),
)
UNLABELLED = dataclasses.replace(
    RELATIVE, depth=None, disparity_min=0.0, disparity_max=0.0, teacher_disparity=None, diff=None
)
SHA256 = "ab" * 32
ENTRY = ClipEntry("a-000003", 0, 3000, 2, (1024, 2048), crc32=(1, 2, 3))
RECORD = ShardRecord(
    tar_name="shard-0001.tar",
    tar_bytes=10240,
    tar_sha256=SHA256,
    clips=(ENTRY,),
    options={"jpeg_quality": 95},
    plan="cd",
    kinds={"json": [1, 500]},
    rejected=(Rejection("x.png", "is cut short"),),
)
DATASET = DatasetRecord(
    dataset="tartanair",
    source={"title": "TartanAir"},
    options={"jpeg_quality": 95},
    splits={"train": ["a/Easy/P000"]},
    totals={"frames": 2},
    shards=(ShardSummary("train", "shard-0001.tar", 10240, SHA256, SHA256, 1, 2),),
    rejected=(),
)


@given(st.text(max_size=150), st.integers(0, 999_999))
def test_keys_are_plain(trajectory: str, frame: int) -> None:
    key = clip_key("tartanair", trajectory, frame)
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert len(member_name(key, 999, "depth.zst").encode()) <= 100
    assert member_kind(member_name(key, 7, "rgb.jpg")) == (key, 7, "rgb.jpg")
    assert member_kind(member_name(key, None, "json")) == (key, None, "json")


def test_key_is_readable() -> None:
    assert clip_key("tartanair", "Office/Easy/P003", 64) == "tartanair-office-easy-p003-000064"


def test_long_names_stay_apart() -> None:
    assert clip_key("d", "x" * 200 + "1", 0) != clip_key("d", "x" * 200 + "2", 0)


def test_json_is_canonical() -> None:
    assert canonical_json({"b": 1, "a": [0.1, None, "é"]}) == b'{"a":[0.1,null,"\\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json(float("nan"))


def test_records_come_back() -> None:
    assert ClipMeta.from_bytes(META.to_bytes(), where="m") == META
    assert ShardRecord.from_bytes(RECORD.to_bytes(), where="r") == RECORD
    assert DatasetRecord.from_bytes(DATASET.to_bytes(), where="d") == DATASET
    without_poses = dataclasses.replace(META, camera_to_world=None, diff=None)
    for meta in (without_poses, RELATIVE, UNLABELLED):
        assert ClipMeta.from_bytes(meta.to_bytes(), where="m") == meta


def test_what_is_not_known_is_null() -> None:
    value = json.loads(UNLABELLED.to_bytes())
    unknown = ("depth", "disparity_min", "disparity_max", "intrinsics", "camera_to_world")
    assert all(value[name] is None for name in unknown)
    assert "teacher_disparity" not in json.loads(META.to_bytes())  # so that shards of metres stay as they were
    assert UNLABELLED.kinds_of(0) == ("rgb.jpg",)


@pytest.mark.parametrize("record", [RECORD, DATASET], ids=["shard", "data set"])
def test_a_record_that_was_changed_is_refused(record: ShardRecord | DatasetRecord) -> None:
    data = record.to_bytes()
    for old, new in ((b'"clips":', b'"clipz":'), (b"0", b"1"), (b"}", b',"more":1}'), (b"1", b"NaN")):
        assert old in data
        with pytest.raises(
            ShardError, match=r"^r: (differs from the checksum that it holds|not valid JSON|schema ver)"
        ):
            type(record).from_bytes(data.replace(old, new, 1), where="r")


def test_shard_record_has_the_published_shape() -> None:
    value = json.loads(RECORD.to_bytes())
    assert value["tar"] == {"name": "shard-0001.tar", "bytes": 10240, "sha256": SHA256}
    assert set(value["clips"][0]) == {"key", "offset", "bytes", "frames", "frame_offsets", "crc32"}


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("schema_version", 3, "schema version 3, this program reads versions 1 and 2"),
        ("schema_version", True, "schema version true, this program reads versions 1 and 2"),
        ("height", "48", 'height is "48", expected a whole number'),
        ("intrinsics", [[1, 2, 3]] * 2, "expected 2x4 finite numbers"),
        ("intrinsics", [[1, 2, 3, "4"]] * 2, "expected 2x4 finite numbers"),
        ("intrinsics", [[1, 2, 3, float("inf")]] * 2, "Infinity is no number of JSON"),
        ("intrinsics", [[1, 2, 3, 10**400]] * 2, "no finite number of float64"),
        ("camera_to_world", [[[1, 0, 0, 0]] * 3] * 2, "expected 2x4x4 finite numbers"),
        ("camera_to_world", [POSE], "expected 2x4x4 finite numbers"),
        ("camera_to_world", [[[1e300] * 4] * 4] * 2, "expected numbers of at most 1e\\+12"),
        ("depth", {"kind": "zip", "relative_error": 0, **PLAIN}, "depth kind 'zip'"),
        ("depth", {"kind": "linear", "relative_error": 0, "unit_m": 1, "packing": "rar", "steps": 1}, "packing 'rar'"),
        ("depth", {"kind": "linear", "relative_error": 0, "unit_m": 1, "packing": "nibbles", "steps": 3}, "3 steps"),
        ("depth", {"kind": "log", "relative_error": 0.1, "packing": "interpolation", "steps": 2}, "2 steps"),
        ("rgb", {"codec": "gif", "group": 1}, "codec 'gif' of frames"),
        ("rgb", {"codec": "h264", "group": 1}, "in groups of 1"),
        ("rgb", {"codec": "jpeg", "group": 8}, "in groups of 8"),
        ("depth", {"kind": "log", "relative_error": 0.1, **PLAIN}, "impossible settings"),
        ("disparity_min", 2.0, "disparity range 2.0 to 0.9"),
        ("diff", {"scale": 4, "step": 2, "origin": "made up"}, "differences are 'made up'"),
        ("diff", {"scale": 0, "step": 2, "origin": "stored"}, "diff.scale is 0, expected 1 to 4096"),
        ("surprise", 1, "surprise is not known here"),
        ("width", 2**26, "is 67108864x48 pixels"),
        ("width", 2**30, "width is 1073741824, expected 1 to"),
        ("frame_ids", [-1, 2], "frame_ids holds -1"),
        ("frame_ids", list(range(1001)), "frame_ids has 1001 entries, expected at most 1000"),
        ("diff_valid", [0, 1], "diff_valid holds 0, expected true and false"),
        ("disparity_max", 1e300, "disparity_max is 1e"),
        ("source", {"layout": 1}, "source.layout is 1, expected text"),
        (
            "depth",
            {"kind": "log", "relative_error": 1e-300, "near_m": 0.1, "far_m": 1e3, **PLAIN},
            "takes 1000000001 codes",
        ),
        ("depth", {"kind": "half", "relative_error": 0, "unit_m": 1e300}, "depth.unit_m is 1e"),
        ("trajectory", "../../etc", "trajectory is .*expected a name: it leads to another folder"),
        ("split", "a/b", "split is .*leads to another folder"),
        ("dataset", "\ud800", "dataset is .*U\\+D800"),
    ],
)
def test_metadata_outside_the_contract_is_refused(field: str, value: object, sentence: str) -> None:
    data = json.dumps({**json.loads(META.to_bytes()), field: value}).encode()
    with pytest.raises(ShardError, match=sentence):
        ClipMeta.from_bytes(data, where="m.json")


@pytest.mark.parametrize(
    ("meta", "changes", "sentence"),
    [
        (META, {"teacher_disparity": [0, 1]}, "teacher_disparity belongs to depth of kind 'relative'"),
        (META, {"intrinsics": None}, "intrinsics is missing, though there are poses"),
        (META, {"depth": None}, "has a range of disparity, and no depth"),
        (META, {"disparity_min": None}, "disparity_min is null, expected a number"),
        (RELATIVE, {"teacher_disparity": None}, "teacher_disparity belongs to depth of kind 'relative'"),
        (RELATIVE, {"teacher_disparity": [1, 1]}, "is no range"),
        (RELATIVE, {"teacher_disparity": [0, 1, 2]}, "expected 2 finite numbers"),
        (RELATIVE, {"teacher_disparity": [0, 10**400]}, "no finite number of float64"),
        (RELATIVE, {"depth": {"kind": "relative", "relative_error": 0, "unit_m": 1, **PLAIN}}, "impossible settings"),
        (RELATIVE, {"depth": {"kind": "relative", "relative_error": 0, "far_m": 9, **PLAIN}}, "impossible settings"),
        (UNLABELLED, {"rgb": {"codec": "h264", "group": 8}}, "frames without depth are in groups of video"),
        (UNLABELLED, {"disparity_max": 1}, "has a range of disparity, and no depth"),
    ],
)
def test_labels_that_cannot_be_are_refused(meta: ClipMeta, changes: dict[str, object], sentence: str) -> None:
    data = json.dumps({**json.loads(meta.to_bytes()), **changes}).encode()
    with pytest.raises(ShardError, match=sentence):
        ClipMeta.from_bytes(data, where="m.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema_version":1}'])
@pytest.mark.parametrize("kind", [ClipMeta, ShardRecord, DatasetRecord])
def test_what_is_no_record_is_a_sentence(kind: type[ClipMeta], data: bytes) -> None:
    with pytest.raises(ShardError, match=r"^here\.json: "):
        kind.from_bytes(data, where="here.json")


def test_offsets_must_ascend() -> None:
    with pytest.raises(ShardError, match="do not ascend"):
        ClipEntry("k", 0, 3000, 2, (2048, 1024), crc32=(1, 2, 3))
    with pytest.raises(ShardError, match="2 checksums for 2 frames"):
        ClipEntry("k", 0, 3000, 2, (1024, 2048), crc32=(1, 2))


def test_ranges_and_checksums() -> None:
    data = bytes(i * i % 251 for i in range(3000))
    parts = [data[0:1024], data[1024:2048], data[2048:3000]]
    entry = ClipEntry("k", 0, 3000, 2, (1024, 2048), crc32=tuple(zlib.crc32(part) for part in parts))
    assert entry.meta_range() == (0, 1024)
    assert entry.frame_range(0, 2) == (1024, 3000)
    assert entry.frame_range(1, 1) == (2048, 3000)
    entry.check_meta(parts[0], where="t")
    entry.check_frames(data[1024:3000], first=0, count=2, where="t")
    entry.check_frames(parts[2], first=1, count=1, where="t")
    with pytest.raises(ShardError, match="t: frame 1 of clip k differs"):
        entry.check_frames(parts[1] + parts[2][:-1] + b"!", first=0, count=2, where="t")
    with pytest.raises(ShardError, match="t: ends inside clip k"):
        entry.check_frames(parts[1], first=0, count=2, where="t")
    with pytest.raises(ShardError, match="metadata of clip k differs"):
        entry.check_meta(parts[1], where="t")
    with pytest.raises(ShardError, match="frames 1 to 2 asked for, it has 2"):
        entry.frame_range(1, 2)


def test_member_names_outside_the_contract_are_refused() -> None:
    for name in ("a.b.json", "a.f1.rgb.jpg", "../a.json", "a.f000.depth.pickle", "a.f000.rgb.png"):
        with pytest.raises(ShardError, match="not the name of a member of a clip"):
            member_kind(name)
