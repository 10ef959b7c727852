"""Shards behind URLs are verified, repaired, inspected, summed up, exported as those of a folder are."""

import errno
import json
from pathlib import Path

import pytest

from tests.conftest import Outcome, Run, tree_bytes, write_raw
from tests.unit.prep.conftest import Bucket
from vdaprep.storage import paths, remote
from vdaprep.storage.paths import open_path, size_of
from vdaprep.storage.retry import TransientError
from vdaprep.storage.stores.objects import ObjectStore

pytestmark = pytest.mark.s3

LENGTHS = {"abandonedfactory/Easy/P000": 7, "abandonedfactory/Easy/P001": 3, "abandonedfactory/Easy/P011": 4}
OPTIONS = ("--frames-per-shard", 5, "--clip-frames", 5, "--workers", 1)
SECOND = "tartanair/train/shard-0002"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw tree and its four shards on this machine."""
    from vdaprep.conversion.convert import convert_plan
    from vdaprep.conversion.options import Selection, Settings
    from vdaprep.conversion.plan import make_plan
    from vdaprep.storage.output import LocalOutput
    from vdaprep.workers.local import LocalExecutor

    folder = tmp_path_factory.mktemp("local")
    raw = write_raw(folder / "raw", lengths=LENGTHS)
    settings = Settings(clip_frames=5, frames_per_shard=5)
    plan = make_plan("tartanair", raw=raw.root, settings=settings, selection=Selection())
    convert_plan(plan, output=LocalOutput(folder / "shards/tartanair"), executor=LocalExecutor(1))
    return folder


@pytest.fixture
def far(bucket: Bucket, local: Path) -> str:
    """The URL of the same shards in a bucket."""
    for name, data in tree_bytes(local / "shards").items():
        bucket.put(f"deep/{name}", data)
    return f"{bucket.url}/deep"


def flip(bucket: Bucket, key: str, position: int) -> None:
    data = bytearray(bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read())
    data[position] ^= 4
    bucket.put(key, bytes(data))


def refused(result: Outcome, code: int, sentence: str) -> None:
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert result.err.startswith("vdaprep: ")
    assert sentence in result.err


# -------------------------------------------------------------------------------------------------- verify and repair


def test_a_flipped_bit_is_named_and_its_shard_alone_is_made_again(bucket: Bucket, vdaprep: Run, local: Path) -> None:
    out = f"{bucket.url}/deep"
    raw = ("--raw", local / "raw", "--out", out, "--workers", 1)
    assert vdaprep("convert", "tartanair", *raw, *OPTIONS).code == 0
    good = vdaprep("verify", out, "--deep")
    assert (good.code, good.err) == (0, "")
    assert "4 shards, 4 clips, 14 frames" in good.out
    assert "all is well (every member decoded)" in good.out

    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
    flip(bucket, f"deep/{SECOND}.tar", 4000)
    bad = vdaprep("verify", out, "--deep")
    assert bad.code == 1
    assert f"{out}/{SECOND}.tar: its SHA-256 is not the one in its record; the shard is damaged." in bad.out
    assert f"{out}/{SECOND}.tar: frame 0 of clip tartanair-abandonedfactory-easy-p000-000003 differs" in bad.out
    before = versions(bucket)
    repaired = vdaprep("repair", "tartanair", *raw)
    assert (repaired.code, repaired.err) == (0, "")
    assert f"{out}/tartanair: made again and read back: train/shard-0002.tar" in repaired.out
    written = {key for key in versions(bucket) - before if not key[0].endswith("vdaprep.lock")}
    assert {key for key, _ in written} == {f"deep/{SECOND}.tar", f"deep/{SECOND}.json"}
    assert bucket.objects("deep") == tree_bytes(local / "shards")
    assert vdaprep("verify", out, "--deep").code == 0
    assert f"{out}/tartanair: all is well, nothing was written" in vdaprep("repair", "tartanair", *raw).out


def versions(bucket: Bucket) -> set[tuple[str, str]]:
    listed = bucket.client.list_object_versions(Bucket=bucket.name)["Versions"]
    return {(item["Key"], item["VersionId"]) for item in listed}


def test_missing_and_extra_shards_are_found_without_deep(far: str, bucket: Bucket, vdaprep: Run, local: Path) -> None:
    whole = bucket.objects("deep")
    for suffix in (".tar", ".json"):
        bucket.delete(f"deep/{SECOND}{suffix}")
        bucket.put(f"deep/tartanair/val/shard-0002{suffix}", whole[f"tartanair/val/shard-0001{suffix}"])
    bucket.delete("deep/tartanair/train/shard-0003.tar")
    bucket.delete("deep/tartanair/train/shard-0001.json")
    result = vdaprep("verify", far)
    assert result.code == 1
    folder = f"{far}/tartanair"
    for sentence in (
        f"{folder}/train/shard-0001.tar: has no record shard-0001.json beside it",
        f"{folder}/train/shard-0002.tar: is missing, dataset.json lists it.",
        f"{folder}/train/shard-0003.tar: is missing, though its record is there",
        f"{folder}/val/shard-0002.tar: is not listed in dataset.json: it does not belong here.",
    ):
        assert sentence in result.out
    arguments = ("repair", "tartanair", "--raw", local / "raw", "--out", far, "--workers", 2)
    refused(vdaprep(*arguments), 1, "val/shard-0002.tar: not part of this data set; --remove-extra deletes")
    assert vdaprep(*arguments, "--remove-extra").code == 0
    assert bucket.objects("deep") == whole


def test_other_damage_is_found_as_on_a_disk(far: str, bucket: Bucket, vdaprep: Run) -> None:
    whole = bucket.objects("deep")
    for key, data, sentence in (
        (f"{SECOND}.tar", whole[f"{SECOND}.tar"][:-512], "the shard is cut or damaged"),
        (f"{SECOND}.json", whole[f"{SECOND}.json"][:-1], "not valid JSON"),
        (f"{SECOND}.json", whole["tartanair/val/shard-0001.json"], "is the record of shard-0001.tar"),
        ("tartanair/dataset.json", whole["tartanair/dataset.json"] + b"\n", "dataset.json: is not canonical JSON"),
        ("tartanair/plan.json", b"{}", "plan.json: schema version null"),
    ):
        bucket.put(f"deep/{key}", data)
        result = vdaprep("verify", f"{far}/tartanair")
        assert result.code == 1
        assert sentence in result.out
        if key in whole:
            bucket.put(f"deep/{key}", whole[key])
        else:
            bucket.delete(f"deep/{key}")
    bucket.delete("deep/tartanair/dataset.json")
    assert "dataset.json: is missing: the conversion was not finished" in vdaprep("verify", far).out
    assert vdaprep("verify", f"{far}/{SECOND}.tar").code == 0


def test_a_shard_is_fetched_once_and_in_pieces(far: str, vdaprep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PIECE_BYTES", 10_000)
    sizes: list[int] = []
    real = remote.RemoteFile.read

    def read(self: remote.RemoteFile, offset: int, size: int) -> bytes:
        data = real(self, offset, size)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(remote.RemoteFile, "read", read)
    assert vdaprep("verify", f"{far}/{SECOND}.tar", "--deep").code == 0
    size = size_of(open_path(f"{far}/{SECOND}.tar"))
    assert sum(sizes) == size
    assert max(sizes) <= 20_000 < size


# ------------------------------------------------------------------------------------------------ what they hold


def test_what_shards_hold_is_told_as_of_a_folder(far: str, vdaprep: Run, local: Path, tmp_path: Path) -> None:
    shards = local / "shards"
    for command in (
        "inspect SHARD",
        "inspect SHARD --json",
        "stats ROOT",
        "stats ROOT/tartanair --json",
        "verify ROOT/tartanair/train --geometry",
    ):
        here, there = (
            vdaprep(*command.replace("SHARD", f"{root}/{SECOND}.tar").replace("ROOT", str(root)).split())
            for root in (shards, far)
        )
        assert (here.code, here.err) == (there.code, there.err)
        assert here.out.replace(str(shards), far) == there.out
        assert here.out
    sheet = tmp_path / "sheet.png"
    assert vdaprep("inspect", f"{far}/{SECOND}.tar", "--preview", sheet).code == 0
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    for name, root in (("here", shards), ("there", far)):
        assert vdaprep("export", f"{root}/tartanair", "--out", tmp_path / name).code == 0
    assert tree_bytes(tmp_path / "there") == tree_bytes(tmp_path / "here")


def test_raw_data_goes_when_its_shards_were_read_back_from_the_store(
    bucket: Bucket, vdaprep: Run, local: Path, tmp_path: Path
) -> None:
    raw = write_raw(tmp_path / "raw", lengths=LENGTHS)
    out = f"{bucket.url}/deep"
    result = vdaprep("convert", "tartanair", "--raw", raw.root, "--out", out, *OPTIONS, "--consume", "--yes")
    assert (result.code, "its shards were read back" in result.err + result.out) == (0, True)
    assert not list(raw.root.rglob("*.png"))
    found = bucket.objects("deep")
    assert found.pop("tartanair/plan.json")
    assert found == tree_bytes(local / "shards")
    assert vdaprep("verify", out, "--deep").code == 0


# ---------------------------------------------------------------------------------------------------------- bad input


def test_what_is_not_there_is_a_sentence(far: str, bucket: Bucket, vdaprep: Run, local: Path) -> None:
    for arguments, code, sentence in (
        (("verify", f"{bucket.url}-none"), 1, "-none: there is nothing there (The specified bucket does not exist)."),
        (("verify", f"{bucket.url}/none"), 1, "/none: there are no shards here; vdaprep convert makes them."),
        (("verify", f"{far}/none.tar"), 1, "/none.tar: there are no shards here"),
        (("verify", "nonsense://bucket/shards"), 2, "nonsense://bucket/shards: cannot be read or written; expected"),
        (("inspect", bucket.url), 1, f"{bucket.url}: there is no such shard; vdaprep convert makes them."),
        (("inspect", f"{far}/tartanair"), 1, "/tartanair: there is no such shard"),
        (("stats", f"{bucket.url}-none"), 1, "there is nothing there (The specified bucket does not exist)."),
        (("export", f"{bucket.url}/none", "--out", "frames"), 1, "there are no shards here"),
        (("inspect", f"{far}/tartanair/train/shard-0009.tar"), 1, "shard-0009.tar: there is no such shard"),
        (("repair", "tartanair", "--out", f"{bucket.url}/none"), 2, "/none/tartanair: there is no such folder"),
        (("repair", "tartanair", "--out", f"{bucket.url}-none"), 2, "-none/tartanair: there is no such folder"),
        (("repair", "vkitti", "--out", far), 2, "/vkitti: there is no such folder; vdaprep convert makes it."),
    ):
        refused(vdaprep(*arguments), code, sentence)


def test_what_a_server_refuses_is_named(far: str, vdaprep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Access Denied")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "files", forbidden)
        refused(vdaprep("verify", far), 1, f"{far}: cannot be listed (Access Denied).")
    monkeypatch.setattr(ObjectStore, "read", forbidden)
    result = vdaprep("verify", far, "--json")
    assert result.code == 1
    found = {item["file"]: item["what"] for item in json.loads(result.out)["findings"]}
    assert found[f"{far}/tartanair/dataset.json"] == "cannot be read (Access Denied)."
    assert "shard-0001.json: cannot be read (Access Denied)." in found[f"{far}/tartanair/val/shard-0001.tar"]
    refused(vdaprep("stats", far), 1, "cannot be read (Access Denied).")


def test_a_server_that_does_not_answer_is_not_a_damaged_shard(
    far: str, vdaprep: Run, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise TransientError("it took too long")

    monkeypatch.setattr(ObjectStore, "read", away)
    says = "the server does not answer: it took too long; it was asked 3 times"
    for command in ("verify", "stats"):
        refused(vdaprep(command, far), 1, says)
    refused(vdaprep("repair", "tartanair", "--raw", local / "raw", "--out", far), 1, says)
