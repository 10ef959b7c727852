"""Options of a run from files and command lines, and those that cannot be."""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import vdatrain
from vdaprep.cli.group import typer_command
from vdaprep.errors import DataError, UsageError
from vdaprep.storage.urls import redact
from vdatrain.cli.options import StepOptions
from vdatrain.config import CHANGEABLE, WITHOUT_GPU, TrainConfig, from_file, from_mapping
from vdatrain.data.index import fingerprint
from vdatrain.training.preemption import StopRequest

FOR_FILES_ALONE = {"weight_decay", "clip", "train_split", "eval_split"}  # of --config, without options of their own


def test_a_configuration_comes_back_from_its_json() -> None:
    config = TrainConfig(shards="s", variant="conv", lr=1e-3)
    assert from_mapping(config.to_json(), where="here") == config
    assert from_mapping({"shards": "s", "lr": 1}, where="here").lr == 1.0
    assert from_mapping({"shards": "s", **WITHOUT_GPU}, where="here").encoder == "tiny"


@pytest.mark.parametrize(
    ("shards", "kept"),
    [
        ("a,b/c", "a,b/c"),
        ("/data/user@host?x", "/data/user@host?x"),
        ("https://host:80/a@b/c", "https://host:80/a@b/c"),
        ("https://user:word@host:80/a/?token=word#word", "https://host:80/a/"),
        ("https://word@host?word", "https://host"),
        ("https://h/a?X-Amz-Signature=word,s3://word@bucket/b", "https://h/a,s3://bucket/b"),
        ("https://h/a?list=1,word, https://h/b?word", "https://h/a,https://h/b"),
        ("simplecache::https://user:word@host/a", "simplecache::https://host/a"),
        ("https://user:word@[::1/a", "https://[::1/a"),
    ],
)
def test_what_is_kept_of_the_shards_place_is_no_secret(shards: str, kept: str) -> None:
    config = TrainConfig(shards=shards, compile=True)
    assert config.shards == config.options()["shards"] == shards
    assert config.to_json() == {**config.options(), "shards": kept}
    assert redact(kept) == kept
    assert from_mapping(config.to_json(), where="here").to_json() == config.to_json()


@pytest.mark.parametrize("path", sorted(Path(vdatrain.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_no_sentence_shows_the_shards_place_as_it_was_given(path: Path) -> None:
    assert shown_as_given(path.read_text(encoding="utf-8")) == []


def shown_as_given(source: str) -> list[str]:
    """Return what f-strings hold of a field `shards` that did not go through a function."""
    values = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FormattedValue)]
    return [ast.unparse(value) for value in values if isinstance(value, ast.Attribute) and value.attr == "shards"]


def test_the_test_above_would_notice() -> None:
    assert shown_as_given('f"{config.shards}: {run.config.shards!r} {hidden(run.shards)}"') == [
        "config.shards",
        "run.config.shards",
    ]


@pytest.mark.parametrize("url", ["http://user:word@host:port/x?word", "http://user:word@127.0.0.1:99999/x?word"])
def test_an_address_that_cannot_be_is_said_without_its_secrets(url: str) -> None:
    with pytest.raises(DataError, match="^http://(host|127.0.0.1):.*: cannot be read") as caught:
        fingerprint(url)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "here: --shards is missing"),
        ({"shards": "s", "speed": 1}, "here: there is no option 'speed'; known: shards, variant"),
        ({"shards": ["https://user:word@host"]}, "here: shards is list, expected str"),
        ({"shards": "s", "shard_model": True, "compile": True}, "--shard-model does not go together with --compile"),
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
    assert set(TrainConfig(shards="s").to_json()) > CHANGEABLE


# -------------------------------------------------------------------------------------------------------- command lines


def options_of(command: str) -> dict[str, Any]:
    """Return a command's options as click has them, by name."""
    return {option.name: option for option in typer_command("vdatrain.cli", command).params}


def test_every_option_of_a_run_can_be_given() -> None:
    assert {field.name for field in fields(TrainConfig)} - FOR_FILES_ALONE <= set(options_of("run"))
    own = {"config", "out", "resume", "time_limit", "verbose", "quiet"}
    assert set(options_of("run")) - own <= {field.name for field in fields(TrainConfig)}


def test_a_step_is_asked_for_alike_wherever_it_is() -> None:
    shared = [field.name for field in fields(StepOptions)]
    assert set(shared) <= {field.name for field in fields(TrainConfig)}
    run, plan = options_of("run"), options_of("plan")
    for name in shared:
        assert (run[name].opts, run[name].secondary_opts) == (plan[name].opts, plan[name].secondary_opts)
        assert run[name].help == plan[name].help
        assert run[name].help


@pytest.mark.parametrize(("command", "on_cpu"), [("run", WITHOUT_GPU), ("plan", {})])
def test_help_says_the_defaults_that_hold(command: str, on_cpu: dict[str, object]) -> None:
    defaults, checked = TrainConfig(shards="s").to_json(), 0
    for name, option in options_of(command).items():
        assert option.default is None or name not in defaults
        if isinstance(option.show_default, str) and defaults.get(name):
            here, *on_a_cpu = option.show_default.removesuffix(" on a CPU").split("; ")
            assert type(defaults[name])(here) == defaults[name]
            assert [type(defaults[name])(value) for value in on_a_cpu] == [on_cpu[name] for _ in range(name in on_cpu)]
            checked += 1
    assert checked >= 9


def test_what_was_not_said_is_not_given() -> None:
    assert StepOptions().given() == {}
    assert StepOptions(frames=3, ema=0.0, shard_model=False).given() == {"frames": 3, "ema": 0.0, "shard_model": False}


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_does_without_torch(command: str) -> None:
    """It takes seconds to import."""
    asked = "import sys, vdatrain.cli; sys.argv = ['vdatrain', sys.argv[1], '--help']; vdatrain.cli.main()"
    check = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {asked}"
    done = subprocess.run([sys.executable, "-c", check, command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--encoder" in done.stdout
    assert done.stderr.split() == ["False"]


# ---------------------------------------------------------------------------------------------------------------- times


def test_a_limit_counts_from_the_beginning() -> None:
    now = 100.0
    stop = StopRequest(60, now=lambda: now)
    assert stop.reason is None
    now = 160.0
    assert stop.reason == "at its time limit of 60 s"
    assert not stop.by_keyboard
    assert StopRequest(now=lambda: 1e9).reason is None
