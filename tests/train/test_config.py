"""Options of a run from files and command lines, and those that cannot be."""

from pathlib import Path

import pytest

from vdaprep.schema import UsageError
from vdatrain.config import CHANGEABLE, WITHOUT_GPU, Config, from_file, from_mapping
from vdatrain.stopping import Stop, parse_duration


def test_a_configuration_comes_back_from_its_json() -> None:
    config = Config(shards="s", variant="conv", lr=1e-3)
    assert from_mapping(config.to_json(), where="here") == config
    assert from_mapping({"shards": "s", "lr": 1}, where="here").lr == 1.0
    assert from_mapping({"shards": "s", **WITHOUT_GPU}, where="here").encoder == "tiny"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "here: --shards is missing"),
        ({"shards": "s", "speed": 1}, "here: there is no option 'speed'; known: shards, variant"),
        ({"shards": "s", "frames": "many"}, "here: frames is 'many', expected int"),
        ({"shards": "s", "frames": True}, "here: frames is True, expected int"),
        ({"shards": "s", "size": 100}, "--size 100: expected a multiple of 14"),
        ({"shards": "s", "frames": 0}, "--frames 0: expected at least 1"),
        ({"shards": "s", "eval_every": 0}, "--eval-every 0: expected at least 1"),
        ({"shards": "s", "lr": -1.0}, "--lr -1.0: expected more than 0"),
        ({"shards": "s", "ema": 1.0}, "--ema 1.0: expected 0 to just under 1"),
        ({"shards": "s", "recompute": "some"}, "--recompute some: expected one of none, head, encoder, all"),
        ({"shards": "s", "keep": -1}, "--keep -1: expected 0 or more"),
        ({"shards": "s", "save_every": -1}, "--save-every -1: expected 0 or more"),
        ({"shards": "s", "precision": "int8"}, "--precision int8: expected one of fp32, bf16, fp16"),
    ],
)
def test_what_cannot_be_is_a_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        from_mapping(values, where="here")


def test_a_file_of_options(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('shards = "s"\nframes = 8\n')
    assert from_file(tmp_path / "run.toml") == {"shards": "s", "frames": 8}
    (tmp_path / "bad.toml").write_text("frames 8")
    with pytest.raises(UsageError, match=r"bad.toml: is not TOML"):
        from_file(tmp_path / "bad.toml")
    with pytest.raises(UsageError, match="there is no such file"):
        from_file(tmp_path / "none.toml")


def test_what_may_change_are_options() -> None:
    assert set(Config(shards="s").to_json()) > CHANGEABLE


@pytest.mark.parametrize(
    ("text", "seconds"), [("3600", 3600), ("90m", 5400), ("11h30m", 41400), ("2h", 7200), ("1h0m5s", 3605), ("45s", 45)]
)
def test_times(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "1d", "-5", "5m5h", "1.5h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"--time-limit .*: expected a time such as 11h30m, 90m or 3600"):
        parse_duration(text)


def test_a_limit_counts_from_the_beginning() -> None:
    now = 100.0
    stop = Stop(60, now=lambda: now)
    assert stop.reason is None
    now = 160.0
    assert stop.reason == "at its time limit of 60 s"
    assert not stop.by_keyboard
    assert Stop(now=lambda: 1e9).reason is None
