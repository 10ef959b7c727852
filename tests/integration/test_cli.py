"""What both programs have in common, as a shell sees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vdaprep.cli.group import command_files

ROOT = Path(__file__).parents[2]
PROGRAMS = ("vdaprep", "vdatrain")
COMMANDS = [(program, name) for program in PROGRAMS for name in command_files(f"{program}.cli")]


def _run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100", **environment}
    )


def _after(code: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that ran `code` first."""
    whole = f"import sys; {code}; sys.argv = ['{program}', *sys.argv[1:]]; from {program}.cli import main; main()"
    return subprocess.run([sys.executable, "-c", whole, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(program: str, name: str, request) -> None:
    result = request.getfixturevalue(program)(name, "-h")
    assert result.code == 0
    assert f"Example: {program} {name} " in " ".join(result.out.split())
    assert f"{program} {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_list_of_commands_imports_none_of_them(program: str) -> None:
    tell = "import atexit; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))"
    done = _after(tell, program, "--help")
    loaded = set(done.stderr.split())
    assert all(f"\n  {name} " in done.stdout for _, name in COMMANDS if _ == program)
    assert "..." not in done.stdout.partition("Commands:")[2]
    assert not {"torch", "numpy", "cv2"} & loaded
    assert not {f"{program}.cli.{name}" for _, name in COMMANDS} & loaded


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_call_is_a_usage_error(program: str) -> None:
    version = _run(program, "--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, program)
    unknown = _run(program, "plam")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "No such command 'plam'" in unknown.stderr
    option = _run(program, "plan", "--none")
    assert (option.returncode, "No such option" in option.stderr) == (2, True)


EMPTY = [
    ("vdaprep", ["convert", "custom", "--raw", "raw", "--out", ""], "--out: what follows is empty; give a value"),
    ("vdaprep", ["convert", "custom", "--raw=", "--out", "out"], "--raw=: what follows is empty; give a value"),
    ("vdaprep", ["verify", ""], "verify: what follows is empty"),
    ("vdaprep", ["sample", "custom", "--out", ""], "--out: what follows is empty"),
    ("vdatrain", ["run", "--shards", "", "--out", "x"], "--shards: what follows is empty"),
    ("vdatrain", ["infer", "video.mp4", "--checkpoint", "x.pt", "--out", ""], "--out: what follows is empty"),
]


@pytest.mark.parametrize(("program", "words", "sentence"), EMPTY)
def test_a_variable_that_is_not_set_does_not_mean_the_current_folder(
    program: str, words: list[str], sentence: str, request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = request.getfixturevalue(program)(*words)
    assert (outcome.code, list(tmp_path.iterdir())) == (2, [])
    assert sentence in outcome.err


def test_a_shell_completes_commands_and_options() -> None:
    def completing(*arguments: str, **told: str) -> list[str]:
        program = Path(sys.executable).with_name("vdaprep")  # completion is of a program that is on the path
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **told}
        )
        return done.stdout.split()

    asked = {"_VDAPREP_COMPLETE": "complete_bash"}
    assert completing(COMP_WORDS="vdaprep conv", COMP_CWORD="1", **asked) == ["convert"]
    assert completing(COMP_WORDS="vdaprep inspect --prev", COMP_CWORD="2", **asked) == ["--preview"]
    detected = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is the argument then
    assert "_VDAPREP_COMPLETE=complete_bash" in completing("--show-completion", "bash", **detected)


def test_no_colour_where_none_is_wanted(tmp_path: Path) -> None:
    wanted = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    arguments = ("sample", "tartanair", "--out", str(tmp_path / "raw"), "--trajectories", "1", "--frames", "2")
    assert "\x1b[3" not in _run("vdaprep", *arguments, NO_COLOR="1", **wanted).stdout


def test_a_sample_under_stress_says_which(vdaprep, tmp_path: Path) -> None:
    options = ("--preset", "study", "--trajectories", "4", "--frames", "1", "--stress", "none,flash+noise")
    done = vdaprep("sample", "mvs-synth", "--out", tmp_path / "raw", *options)
    lines = ("4 trajectories of 1 frames", "under stress: none 2, flash+noise 2", "mvs-synth --splits study")
    assert (done.code, [line in done.out for line in lines]) == (0, [True] * 3)
    wrong = vdaprep("sample", "mvs-synth", "--out", tmp_path / "other", "--stress", "fog")
    assert (wrong.code, "--stress fog: 'fog' is not understood" in wrong.err) == (2, True)


def test_verbose_and_quiet_stand_before_or_after_the_command(vdaprep) -> None:
    assert vdaprep("-q", "datasets", "--json").code == 0
    assert vdaprep("datasets", "-v", "--json").code == 0
    assert vdaprep("datasets", "-v", "-q").err == "vdaprep: --verbose and --quiet exclude each other.\n"


@pytest.mark.parametrize(("program", "name"), [("vdaprep", "datasets"), ("vdatrain", "variants")])
def test_on_a_system_without_file_locks_one_sentence(program: str, name: str) -> None:
    """As on Windows, where these modules are missing."""
    missing = "sys.modules.update(dict.fromkeys(('fcntl', 'resource', 'pwd', 'grp', 'termios')))"
    done = _after(missing, program, name)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"{program}: runs on Linux and macOS; on Windows use")


WITHOUT_TORCH = (
    "run --shards shards", "plan", "eval --shards shards --checkpoint best.pt",
    "infer film.mp4 --checkpoint best.pt --out depth.mp4", "export --checkpoint best.pt --out best.pth", "variants",
    "recipes", "benchmark --shards shards --checkpoint best.pt --out results",
    "study --shards shards --variants basic,conv --out studies", "label photos --teacher best.pt --out labelled",
)  # fmt: skip


@pytest.mark.parametrize("line", WITHOUT_TORCH)
def test_without_an_extra_one_sentence(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    missing = "sys.modules.update(dict.fromkeys(('torch', 'timm', 'webdataset', 'tensorboard', 'safetensors')))"
    done = _after(missing, "vdatrain", *line.split())
    sentence = "vdatrain: needs torch, which is not installed: pip install 'vdakit[train]'.\n"
    assert (done.returncode, done.stderr) == (1, sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_page_without_its_extra_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before any run is read."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = _after(
        "sys.modules['plotly'] = None", "vdatrain", "compare", "missing", "--report", str(tmp_path / "a.html")
    )
    sentence = "vdatrain: needs plotly, which is not installed: pip install 'vdakit[report]'.\n"
    assert (done.returncode, done.stderr) == (1, sentence)
    assert list(tmp_path.iterdir()) == []


def test_every_command_of_vdatrain_is_tried_without_torch() -> None:
    """But compare, which reads what runs wrote."""
    assert {line.split()[0] for line in WITHOUT_TORCH} | {"compare"} == {*command_files("vdatrain.cli")}
