"""A `plan.json` that lies costs one sentence: no memory, no time, no traceback."""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, write_raw
from tests.memory import forget_peak, peak_kib
from vdaprep.conversion.options import Selection, Settings
from vdaprep.conversion.plan import make_plan
from vdaprep.conversion.saved_plan import parse_plan, plan_bytes
from vdaprep.errors import ShardError
from vdaprep.shards.canonical import sealed_json

SETTINGS = Settings(clip_frames=3)
Change = Callable[[dict[str, Any]], object]


def of_trajectory(**fields: Any) -> Change:
    return lambda plan: plan["trajectories"][0].update(fields)


def of_clip(*clip: Any) -> Change:
    return lambda plan: plan["shards"][0].update(clips=[[*clip]])


BAD: dict[str, Change] = {
    "a range without end": of_trajectory(frames=[[0, 10**9 - 1]]),
    "a number beyond all": of_trajectory(frames=[[0, 10**30]]),
    "many long ranges": of_trajectory(frames=[[i * 10**6, i * 10**6 + 999_999] for i in range(900)]),
    "a range backwards": of_trajectory(frames=[[5, 0]]),
    "ranges that overlap": of_trajectory(frames=[[0, 5], [3, 8]]),
    "a range before 0": of_trajectory(frames=[[-3, 5]]),
    "half numbers": of_trajectory(frames=[[0, 5.5]]),
    "no frames": of_trajectory(frames=[]),
    "frames as text": of_trajectory(frames="0-5"),
    "frames as an object": of_trajectory(frames={"0": 5}),
    "one bound": of_trajectory(frames=[[0]]),
    "true for a number": of_trajectory(frames=[[False, True]]),
    "a name that leads out": of_trajectory(name="../../x"),
    "a name with a NUL": of_trajectory(name="a\0b"),
    "no name": of_trajectory(name=None),
    "what is incomplete": of_trajectory(incomplete=[["x", 3]]),
    "one name twice": lambda plan: plan["trajectories"].append(plan["trajectories"][0]),
    "a clip of no trajectory": of_clip(99, 0, 1, True),
    "a clip of trajectory -1": of_clip(-1, 0, 1, True),
    "a clip beyond its trajectory": of_clip(0, 0, 10**9, True),
    "a clip backwards": of_clip(0, 3, 1, True),
    "a clip after nothing": of_clip(0, 0, 3, False),
    "a clip of three": of_clip(0, 0, 3),
    "a clip of texts": of_clip("0", "0", "3", True),
    "no clips": lambda plan: plan["shards"][0].update(clips=[]),
    "a split that leads out": lambda plan: plan["shards"][0].update(split="../x"),
    "shard 0": lambda plan: plan["shards"][0].update(number=0),
    "shards as a number": lambda plan: plan.update(shards=7),
    "options as a list": lambda plan: plan.update(options=[]),
    "a stride of 0": lambda plan: plan["options"].update(frame_stride=0),
    "a stride of text": lambda plan: plan["options"].update(frame_stride="1"),
    "splits as a list": lambda plan: plan.update(splits=[1]),
    "rejections of numbers": lambda plan: plan.update(rejected=[{"file": 1, "reason": 2}]),
    "no data set": lambda plan: plan.pop("dataset"),
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    raw = write_raw(tmp_path_factory.mktemp("raw"), lengths={"abandonedfactory/Easy/P000": 5}).root
    made = make_plan("tartanair", raw=raw, settings=SETTINGS, selection=Selection())
    assert parse_plan(plan_bytes(made), where="plan.json", raw=str(raw), settings=SETTINGS).num_frames == 5
    value = json.loads(plan_bytes(made))
    del value["checksum"]
    return value


@pytest.mark.parametrize("name", BAD)
def test_a_plan_that_lies_is_refused(name: str, plan: dict[str, Any]) -> None:
    changed = copy.deepcopy(plan)
    BAD[name](changed)
    forget_peak()
    before, begun = peak_kib(), time.process_time()
    with pytest.raises(ShardError, match=r"^plan\.json: "):
        parse_plan(sealed_json(changed), where="plan.json", raw="raw", settings=SETTINGS)
    assert peak_kib() - before < 256 << 10
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"a": 1e999}', b'{"schema_version": 1}'])
def test_bytes_that_are_no_plan_are_a_sentence_of_the_commands(data: bytes, vdaprep: Run, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", lengths={"abandonedfactory/Easy/P000": 2}).root
    place = ("--raw", raw, "--out", tmp_path / "out")
    assert vdaprep("convert", "tartanair", *place).code == 0
    (tmp_path / "out/tartanair/plan.json").write_bytes(data)
    found = vdaprep("convert", "tartanair", *place)
    assert (found.code, found.err.count("\n")) == (1, 1)
    assert f"{tmp_path}/out/tartanair/plan.json: " in found.err
    assert "Traceback" not in vdaprep("repair", "tartanair", *place).err


def test_a_plan_is_read_as_it_was_written(plan: dict[str, Any]) -> None:
    again = parse_plan(sealed_json(plan), where="plan.json", raw="raw", settings=SETTINGS)
    assert json.loads(plan_bytes(again)) == {**plan, "checksum": json.loads(sealed_json(plan))["checksum"]}
    assert [asdict(item) for item in again.rejected] == plan["rejected"]
