"""Options of a run from files and command lines, and those that cannot be."""

import ast
import dataclasses
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

import vdatrain
from tests.golden.test_golden import RUN
from vdaprep.cli.group import typer_command
from vdaprep.cli.options import field_help
from vdaprep.errors import UsageError
from vdaprep.shards.dataset import open_shards
from vdaprep.storage.urls import redact
from vdatrain.cli.run import defaults_here
from vdatrain.config import (
    CHANGEABLE,
    CPU_DEFAULTS,
    PATCH_PX,
    PRESETS,
    EncoderName,
    PresetName,
    TrainConfig,
    from_file,
    from_mapping,
    parse_attention,
)
from vdatrain.device import choose_device
from vdatrain.distributed.preemption import StopRequest
from vdatrain.models.layers.encoder import ENCODERS, PATCH_SIZE

OTHERS: dict[str, Any] = {
    "shards": "s", "variant": "conv", "encoder": "vitb", "init": "dinov2", "preset": "paper", "precision": "bf16",
    "recompute": "all", "compile": True, "mix": "alpha=2", "size": 28, "lr": 1e-3, "ema": 0.5, "track": "none",
    "cache": "c", "cache_size": "2GiB", "cache_free": "3MB", "device": "cpu", "train_split": "a", "eval_split": "b",
    "licence": "commercial", "final": "last", "differences": "past", "attention": "chunk", "task": "metric",
    "images": "i", "aspect": "native", "short_clips": "bucket",
}  # fmt: skip
"""Another value than the default of every option that is no number."""


def test_a_configuration_comes_back_from_its_json() -> None:
    config = TrainConfig(shards="s", variant="conv", lr=1e-3)
    assert from_mapping(config.to_json(), where="here") == config
    assert from_mapping({"shards": "s", "lr": 1}, where="here").lr == 1.0
    assert from_mapping({"shards": "s", **CPU_DEFAULTS}, where="here").encoder == "tiny"


@pytest.mark.parametrize("kind", ["toml", "json", "config.json of a run"])
def test_every_option_can_be_in_a_file(kind: str, tmp_path: Path) -> None:
    plain = TrainConfig(shards="-")
    excluded = {"shard_model", "order"}  # by compile and images_per_clip
    numbers = {
        item.name: getattr(plain, item.name) + (1 if isinstance(getattr(plain, item.name), int) else 0.5)
        for item in fields(TrainConfig)
        if item.name not in OTHERS and item.name not in excluded
    }
    config = TrainConfig(**OTHERS, **numbers)
    changed = {name for name, value in config.options().items() if value != plain.options()[name]}
    assert changed == {item.name for item in fields(TrainConfig)} - excluded
    path = tmp_path / ("run.toml" if kind == "toml" else "config.json")
    if kind == "toml":
        path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in config.to_json().items()))
    else:
        facts = config.to_json() if kind == "json" else {"config": config.to_json(), "data": "0", "versions": {}}
        path.write_text(json.dumps(facts))
    assert from_mapping(from_file(path), where="here") == config


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("bad.toml", "frames 8", "bad.toml: is not valid TOML"),
        ("bad.json", "{", "bad.json: is not valid JSON"),
        (
            "list.json",
            "[1]",
            "list.json: holds a JSON list, expected a JSON object; expected options",
        ),
        ("none.toml", None, "none.toml: there is no such file"),
    ],
)
def test_a_file_that_is_none(name: str, text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=sentence):
        from_file(tmp_path / name)


def test_a_run_of_the_first_version_has_a_configuration() -> None:
    config = from_mapping(from_file(RUN / "config.json"), where="here")
    assert (config.variant, config.preset, config.steps, config.device) == ("diff", "adapter", 12, None)


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
    with pytest.raises(UsageError, match="^http://(host|127.0.0.1):.*: is no URL ") as caught:
        open_shards(url)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "here: --shards is missing"),
        ({"shards": "s", "speed": 1}, 'here: there is no option "speed"; known: shards, variant'),
        ({"shards": ["https://user:word@host"]}, "here: shards is list, expected str"),
        ({"shards": "s", "shard_model": True, "compile": True}, "--shard-model does not go together with --compile"),
        ({"shards": "s", "frames": True}, "here: frames is true, expected int"),
        ({"shards": "s", "precision": 16}, "here: precision is 16, expected str"),
        ({"shards": "s", "precision": "int8"}, "--precision int8: expected one of fp32, bf16, fp16"),
        ({"shards": "s", "size": 100}, "--size 100: expected a multiple of 14"),
        ({"shards": "s", "eval_every": 0}, "--eval-every 0: expected at least 1"),
        ({"shards": "s", "keep": -1}, "--keep -1: expected 0 or more"),
        ({"shards": "s", "lr": -1.0}, "--lr -1.0: expected more than 0"),
        ({"shards": "s", "ema": 1.0}, "--ema 1.0: expected 0 to just under 1"),
        ({"shards": "s", "cache_size": "much"}, "--cache-size much: expected a size"),
    ],
)
def test_what_cannot_be_is_a_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        from_mapping(values, where="here")


def test_what_may_change_when_a_run_is_resumed() -> None:
    config = TrainConfig(shards="s", steps=5)
    assert config.changed({"batch": 4, "workers": 0}) == dataclasses.replace(config, batch=4, workers=0)
    assert config.changed({"steps": 5}) == config
    with pytest.raises(UsageError, match="leave out what would change --lr None to 0.1, --seed 0 to 6"):
        config.changed({"steps": 6, "seed": 6, "lr": 0.1, "batch": 2})
    assert {"shards", "batch", "workers", "device"} < CHANGEABLE
    assert not CHANGEABLE & {"variant", "encoder", "frames", "seed", "precision"}


def test_names_agree_with_the_models() -> None:
    """The configuration, and so --help, does without torch."""
    assert get_args(EncoderName) == tuple(ENCODERS)
    assert get_args(PresetName) == tuple(PRESETS)
    assert PATCH_PX == PATCH_SIZE


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpu", "--device gpu: expected cpu, cuda or cuda:N"),
        ("cpu:1", "--device cpu:1: expected cpu"),
        ("cuda", "--device cuda: torch finds no GPU here"),
    ],
)
def test_devices_that_cannot_be(name: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match=sentence):
        choose_device(name)


def test_a_device_has_a_number_for_one_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [str(choose_device(name)) for name in (None, "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    with pytest.raises(UsageError, match="--device cuda:2: there is no such GPU; the last is cuda:1"):
        choose_device("cuda:2")
    with pytest.raises(UsageError, match="--device cuda:1: each of several processes has a GPU of its own"):
        choose_device("cuda:1", alone=False)


@pytest.mark.parametrize(("own", "precision"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_imitates_bf16_takes_fp16(own: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a T4 does, of which torch says that it supports bf16."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: own or including_emulation)
    assert defaults_here(TrainConfig(shards="s"), {})["precision"] == precision


# -------------------------------------------------------------------------------------------------------- command lines


def options_of(command: str) -> dict[str, Any]:
    """Return a command's options as click has them, by name."""
    return {option.name: option for option in typer_command("vdatrain.cli", command).params}


def test_every_field_is_an_option_with_help() -> None:
    own = {"config", "recipe", "out", "resume", "time_limit", "verbose", "quiet"}
    assert set(options_of("run")) - own == {item.name for item in fields(TrainConfig)} == set(field_help(TrainConfig))
    run, plan = options_of("run"), options_of("plan")
    assert set(plan) - {"device_memory", "ranks"} < set(run)
    assert all(option.help for option in run.values())
    assert "[default: vits; tiny without a GPU]" in run["encoder"].help
    assert "[default: vits]" in plan["encoder"].help


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


@pytest.mark.parametrize(("text", "chunk"), [("full", None), ("causal", 1), ("chunk:8", 8), ("chunk:32", 32)])
def test_an_attention_is_read(text: str, chunk: int | None) -> None:
    assert parse_attention(text) == chunk


@pytest.mark.parametrize(
    "text", ["", "chunk", "chunk:", "chunk:0", "chunk:33", "chunk:-1", "chunk:x", "causal:2", "all"]
)
def test_an_attention_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="expected full, causal, or chunk:8"):
        parse_attention(text)
