"""`vdatrain benchmark` through the command line, on a scene or two of each set."""

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import Run
from tests.integration.conftest import refused
from tests.scenes import FIRST_NUMBERS, Shot, write_scenes
from vdaprep import sources
from vdaprep.sources import _manifest
from vdatrain.cli import benchmark as benchmark_command
from vdatrain.cli.views import output
from vdatrain.evaluation.benchmark.protocols import PROTOCOLS, VDA
from vdatrain.evaluation.benchmark.table import make_table
from vdatrain.models import variants

DATASETS = ("kitti", "scannet", "bonn", "nyuv2", "sintel")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    state = variants.build("basic", encoder="tiny").state_dict()
    for name in ("vda_tiny.pth", "metric_vda_tiny.pth"):
        torch.save(state, folder / name)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of the first scene of each set of the paper's protocol, and of Bonn those before the 30th, too."""
    folder = tmp_path_factory.mktemp("benchmark")
    for name in DATASETS:
        scene = next(item for item in VDA.sets if item.dataset == name).scenes[0]
        first = FIRST_NUMBERS[name]
        ids = range(first, first + (42 if name == "bonn" else 12))
        write_scenes(folder / name, [Shot(scene, ids)])
    return folder


def benchmark(vdatrain: Run, weights: Path, shards: Path, out: Path, *options: object, file: str = "vda_tiny.pth"):
    model = ("--checkpoint", weights / file, "--encoder", "tiny", "--size", 28)
    return vdatrain("benchmark", *model, "--shards", shards, "--out", out, "--allow-missing", *options)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_ends_in_a_table(
    protocol: str, vdatrain: Run, weights: Path, shards: Path, tmp_path: Path
) -> None:
    result = benchmark(vdatrain, weights, shards, tmp_path / "out", "--protocol", protocol)
    assert result.code == 0, result.err
    made = json.loads((tmp_path / "out" / "table.json").read_text())
    keys = [item.key for item in PROTOCOLS[protocol].sets if item.key != "sintel" or protocol != "monst3r"]
    assert {scene["key"] for scene in made["scenes"]} == set(keys)
    ours = made["rows"][-1]
    assert ours["model"] == "vda_tiny"
    assert ("vda_tiny" in result.out) and ("VDA-L" in result.out) == (protocol in ("vda", "vda-legacy"))
    lines = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert {(line["model"], line["set"]) for line in lines} >= {("vda_tiny", key) for key in keys}
    assert "| vda_tiny |" in (tmp_path / "out" / "table.md").read_text()
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert {item["kind"] for item in ledger} >= {"missing scene", "size"}


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(vdatrain: Run, weights: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert benchmark(vdatrain, weights, shards, out, "--sets", "kitti", "--sets", "bonn").code == 0
    first = json.loads((out / "table.json").read_text())
    file = out / "scenes-0.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))
    assert benchmark(vdatrain, weights, shards, out, "--sets", "kitti", "--sets", "bonn").code == 0
    again = json.loads((out / "table.json").read_text())
    seconds = [{scene["key"]: scene["seconds"] for scene in made["scenes"]} for made in (first, again)]
    assert seconds[0]["bonn"] == seconds[1]["bonn"]  # which is longer, so it came first and was not measured again
    assert [scene["figures"] for scene in again["scenes"]] == [scene["figures"] for scene in first["scenes"]]
    refused(benchmark(vdatrain, weights, shards, out), 2, "holds results of another sets", "choose another folder")
    refused(
        benchmark(vdatrain, weights, shards, out, "--sets", "kitti", "--sets", "bonn", "--stream"), 2, "another stream"
    )


@pytest.mark.slow
def test_streaming_and_metric_weights(vdatrain: Run, weights: Path, shards: Path, tmp_path: Path) -> None:
    result = benchmark(vdatrain, weights, shards, tmp_path / "stream", "--sets", "nyuv2", "--stream", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["rows"][-1]["model"] == "vda_tiny, streaming"
    metric = benchmark(vdatrain, weights, shards, tmp_path / "metric", "--sets", "nyuv2", file="metric_vda_tiny.pth")
    assert metric.code == 0, metric.err
    assert re.search(r"VDA-L metric.*-  0.908", metric.out)
    ledger = json.loads((tmp_path / "metric" / "ledger.json").read_text())
    assert [item["text"] for item in ledger if item["kind"] == "alignment"] == [
        "metric weights are measured as they are, not fitted."
    ]
    [scene] = json.loads((tmp_path / "metric" / "table.json").read_text())["scenes"]
    assert scene["figures"]["scale"] == 1


def test_what_is_missing_is_an_error(vdatrain: Run, weights: Path, shards: Path, tmp_path: Path) -> None:
    model = ("--checkpoint", weights / "vda_tiny.pth", "--encoder", "tiny")
    out = ("--shards", shards, "--out", tmp_path / "out")
    refused(
        vdatrain("benchmark", *model, *out, "--sets", "scannet-tae"), 1, "the shards lack 20 of what it needs",
        "scannet-tae, scene0708_00, ", "and 14 more: missing scene: no trajectory is it", "--allow-missing",
    )  # fmt: skip
    assert not list((tmp_path / "out").glob("*"))
    refused(vdatrain("benchmark", *model, *out, "--sets", "tum"), 2, "--sets tum: protocol vda has kitti, scannet")
    inside = ("--shards", shards, "--out", shards / "bonn" / "results")
    refused(vdatrain("benchmark", *model, *inside), 2, "lies in the input")


BAD_INPUT = {
    "shards to train on": ("training", {}, 1, "are of tartanair, expected kitti, scannet, bonn"),
    "frames of another size": (
        "shards", {"--sets": "bonn", "missing": False}, 1,
        "bonn, balloon2: size: frames are 80x64, the data set's 640x480; convert with --short-side native",
    ),
    "no shards": ("nothing", {}, 1, "found no dataset.json"),
    "weights of an encoder": ("shards", {"--checkpoint": "encoder.pth"}, 1, "without the head that makes depth"),
    "weights of something else": ("shards", {"--checkpoint": "other.pth"}, 1, "other.pth: does not fit this model"),
    "weights of another encoder": ("shards", {"--encoder": "vits"}, 1, "is it of another encoder or variant?"),
    "weights without their encoder": ("shards", {"--encoder": None}, 1, "bare weights need --encoder"),
    "results of another protocol": (
        "shards", {"--protocol": "vda-short", "--out": "results"}, 2, "holds results of another protocol",
    ),
    "results that are none": ("shards", {"--out": "damaged"}, 1, "benchmark.json: "),
    "a file for results": ("shards", {"--out": "other.pth"}, 2, "is a file; expected a folder to write into"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_costs_a_sentence(
    kind: str, vdatrain: Run, weights: Path, shards: Path, toy_shards: Path, tmp_path: Path
) -> None:
    of, options, code, sentence = BAD_INPUT[kind]
    state = torch.load(weights / "vda_tiny.pth")
    encoder = {
        name.removeprefix("pretrained."): value for name, value in state.items() if name.startswith("pretrained.")
    }
    torch.save(encoder, tmp_path / "encoder.pth")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name, text in (("results", json.dumps({"protocol": "vda"})), ("damaged", '{"protocol": ')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "benchmark.json").write_text(text)
    (tmp_path / "nothing").mkdir()
    folders = {"training": toy_shards, "shards": shards, "nothing": tmp_path / "nothing"}
    given = {"--checkpoint": weights / "vda_tiny.pth", "--encoder": "tiny", "--out": "out", "--sets": "bonn", **options}
    allowed = ("--allow-missing",) if given.pop("missing", True) else ()
    given |= {name: tmp_path / given[name] for name in ("--checkpoint", "--out")}
    if kind == "shards to train on":
        del given["--sets"]
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    refused(vdatrain("benchmark", "--shards", folders[of], "--size", 28, *words, *allowed), code, sentence)


def test_a_narrow_terminal_gets_several_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_table(VDA, [], [], model="mine", metric=False)
    assert len(benchmark_command._printed(made)) == 1
    monkeypatch.setattr(output.console, "_force_terminal", True)
    for width, tables in ((80, 2), (120, 2), (160, 1), (20, 6)):
        monkeypatch.setattr(output.console, "width", width)
        assert len(benchmark_command._printed(made)) == tables


def write_scan(folder: Path, *, frames: int) -> None:
    """A scan as ScanNet's exporter writes it, colour as large as depth."""
    for kind in ("color", "depth", "pose", "intrinsic"):
        (folder / kind).mkdir(parents=True)
    y, x = np.mgrid[:48, :64]
    for number in range(frames):
        cv2.imwrite(str(folder / f"color/{number}.jpg"), np.dstack([x, y, x + y + number]).astype(np.uint8))
        cv2.imwrite(str(folder / f"depth/{number}.png"), (2000 + 10 * x + 5 * number).astype(np.uint16))
        np.savetxt(folder / f"pose/{number}.txt", np.eye(4))
    camera = [[60, 0, 31.5, 0], [0, 60, 23.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.savetxt(folder / "intrinsic/intrinsic_depth.txt", camera)


@pytest.mark.slow
def test_a_conversion_for_it_keeps_what_it_needs(
    vdaprep: Run, vdatrain: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_manifest.load("scannet").benchmark, "frames", 16)  # of 500
    scans = tmp_path / "raw"
    for name in ("scene0706_00", "scene0707_00", "scene0710_00", "scene0806_00"):
        write_scan(scans / name, frames=19 if name == "scene0710_00" else 14)
    done = vdaprep("convert", "scannet", "--raw", scans, "--out", tmp_path / "shards", "--for", "benchmark")
    assert done.code == 0, done.err
    facts = json.loads((tmp_path / "shards" / "scannet" / "dataset.json").read_text())
    assert facts["splits"] == {"val": ["scene0707_00", "scene0710_00", "scene0806_00"]}
    assert facts["totals"]["frames"] == 14 + 16 + 14
    assert {name: facts["options"][name] for name in ("short_side", "diff", "first_frames")} == {
        "short_side": None, "diff": None, "first_frames": 16,
    }  # fmt: skip
    again = vdaprep("convert", "scannet", "--raw", scans, "--out", tmp_path / "shards", "--for", "benchmark")
    assert again.code == 0, again.err
    other = vdaprep("convert", "scannet", "--raw", scans, "--out", tmp_path / "shards")
    assert other.code == 2
    assert "first_frames" in other.err or "diff" in other.err
    result = benchmark(vdatrain, weights, tmp_path / "shards", tmp_path / "out", "--sets", "scannet-tae")
    assert result.code == 0, result.err
    scenes = json.loads((tmp_path / "out" / "table.json").read_text())["scenes"]
    assert {scene["scene"]: scene["figures"]["evaluated_frames"] for scene in scenes} == {
        "scene0707_00": 4, "scene0710_00": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "options", "sentence"),
    [
        ("tartanair", [], "--for benchmark: TartanAir is in no benchmark; leave it out"),
        ("scannet", ["--first-frames", 90], "--for benchmark: sets --first-frames; leave one of them out"),
        ("scannet", ["--short-side", 480], "--for benchmark: sets --short-side; leave one of them out"),
    ],
)
def test_options_that_do_not_go_with_it(
    dataset: str, options: list[object], sentence: str, vdaprep: Run, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    for command in ("plan", "convert"):
        result = vdaprep(
            command, dataset, "--raw", tmp_path / "raw", "--out", tmp_path / "out", "--for", "benchmark", *options
        )
        assert result.code == 2
        assert sentence in result.err


def test_manifests_name_the_scenes_and_frames_of_all_protocols() -> None:
    for item in (item for protocol in PROTOCOLS.values() for item in protocol.sets):
        if item.dataset not in sources.names():
            continue
        facts = _manifest.load(item.dataset)
        assert facts.benchmark["frames"] >= min(item.frames.stop, max(item.lengths.values(), default=500))
        for scene in item.scenes:
            name = f"val/{scene}" if item.dataset == "kitti" else scene
            assert _manifest.matches(name, tuple(facts.benchmark["select"])), name
