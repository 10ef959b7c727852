"""Benchmarks: what a perfect prediction scores in every protocol, and what published faults would make of it."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.scenes import FIRST_NUMBERS, MILLIMETRES, SIZE, STEP_M, Shot, true_depth_m, write_scenes
from vdaprep.errors import DataError, UsageError, VdakitError
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import DepthSpec, RgbSpec
from vdaprep.shards.records import Rejection
from vdatrain.device import Precision
from vdatrain.distributed.ranks import Ranks
from vdatrain.evaluation.benchmark import protocols, results, run, scenes, table
from vdatrain.evaluation.benchmark.clip import SceneFigures, measure_scene, truth_of
from vdatrain.evaluation.benchmark.protocols import PROTOCOLS, BenchmarkSet, Faults, Protocol
from vdatrain.evaluation.benchmark.scenes import Place, Remark, Scene, SceneFrame
from vdatrain.inference.predictor import Predictor
from vdatrain.inference.video_reader import VideoFrame
from vdatrain.objectives.metrics import clip_metrics

GOLDEN = Path(__file__).parents[2] / "golden" / "vda_metrics.npz"
ALL = [(name, item.key) for name, protocol in PROTOCOLS.items() for item in protocol.sets]


@dataclass(frozen=True)
class Oracle(Predictor):
    """Predicts what `answer` says of a frame's number, whatever the frame shows; keeps what it was shown."""

    answer: Callable[[int], np.ndarray] = field(default=lambda number: np.ones(SIZE))
    seen: list[VideoFrame] = field(default_factory=list)

    def predict_frames(self, frames: Iterable[VideoFrame], *, stream: bool = False) -> Generator[Tensor]:
        for frame in frames:
            self.seen.append(frame)
            yield torch.from_numpy(np.ascontiguousarray(self.answer(frame.number), np.float32))


def oracle(answer: Callable[[int], np.ndarray], *, metric: bool = False) -> Oracle:
    model = nn.Identity()
    model.metric = metric  # pyright: ignore[reportArgumentType]
    return Oracle(model, Precision(torch.device("cpu")), answer=answer, origin={"weights": {"name": "oracle"}})


def resized(of: BenchmarkSet) -> bool:
    """Return whether frames are brought to another size than the truth's."""
    return of.faults.unregistered_crop is not None and of.faults.unregistered_crop.size is not None


def perfect(of: BenchmarkSet, first: int = 0) -> Oracle:
    """Return what knows the truth of a set's scenes, as it is cropped; 0 where it is unknown."""

    def answer(number: int) -> np.ndarray:
        depth_m = true_depth_m(of.frames.start + number * of.frames.step + first)
        depth_m = shown(of, depth_m) if resized(of) else of.crop.of(depth_m)
        return np.nan_to_num(3 / depth_m + (0 if of.alignment == "scale" else 0.2), nan=0.4)

    return oracle(answer)


def shots_of(of: BenchmarkSet, *, scenes: int, frames: int = 14, **changes) -> list[Shot]:
    first = FIRST_NUMBERS[of.dataset]
    ids = [number + first for number in range(of.frames.start + frames * of.frames.step)]
    folder = "val/" if of.dataset == "kitti" else ""  # as that set's trajectories are called
    return [Shot(f"{folder}{name}", ids, **changes) for name in of.scenes[:scenes]]


def set_of(protocol: str, key: str) -> BenchmarkSet:
    return next(item for item in PROTOCOLS[protocol].sets if item.key == key)


def found(of: BenchmarkSet, folder: Path, *, allow_missing: bool = False, scenes: int = 1) -> run.Benchmark:
    """Find the first scenes of a set in shards."""
    few = replace(of, scenes=of.scenes[:scenes], lengths={}, native=(SIZE,))
    return run.find_benchmark(
        Protocol("vda", "a set", (few,)), open_shards(folder), allow_missing=allow_missing, stall_timeout_s=60
    )


def measured(of: BenchmarkSet, tmp_path: Path, predictor: Predictor | None = None, **changes) -> SceneFigures:
    """Write one scene of a set and measure a perfect prediction, or another one, of it."""
    write_scenes(tmp_path / of.dataset, shots_of(of, scenes=1, **changes))
    [scene] = found(of, tmp_path).scenes
    first = FIRST_NUMBERS[of.dataset]
    return measure_scene(scene, predictor or perfect(of, first), scratch=tmp_path)


@dataclass(frozen=True)
class Given(Scene):
    """A scene whose frames are given, not read."""

    given: tuple[SceneFrame, ...] = ()

    def frames(self, *, stall_timeout_s: int | float = 300) -> Generator[SceneFrame]:
        yield from self.given


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory):
    """Some clip, for scenes that are not read from it."""
    folder = write_scenes(tmp_path_factory.mktemp("clip") / "bonn", [Shot("any", [0])])
    return open_shards(folder).clips()[0]


def given(clip, of: BenchmarkSet, frames: Iterable[SceneFrame]) -> Given:
    frames = tuple(frames)
    return Given(of, "given", tuple(Place(frame.number, clip, 0) for frame in frames), frames)


def frame_of(depth_m: np.ndarray, number: int = 0, rgb: np.ndarray | None = None) -> SceneFrame:
    rgb = np.zeros((*depth_m.shape, 3), np.uint8) if rgb is None else rgb
    return SceneFrame(number, rgb, depth_m.astype(np.float32), np.array([50.0, 50, 10, 10]), np.eye(4))


# ------------------------------------------------------------------------------------------------------ the protocols


@pytest.mark.parametrize(("protocol", "key"), ALL)
def test_a_perfect_prediction(protocol: str, key: str, tmp_path: Path) -> None:
    of = set_of(protocol, key)
    figures = measured(of, tmp_path)
    if of.faults.whole_metres or resized(of):
        assert figures.absrel is not None
        assert figures.absrel > 0.005  # which is wrong with them
        return
    assert (figures.absrel, figures.pixel_absrel) == pytest.approx((0, 0), abs=2e-6)
    assert (figures.delta1, figures.pixel_delta1) == (1, 1)
    assert figures.evaluated_frames == len(of.evaluated_of(14))
    if of.alignment == "scale-shift":
        assert figures.scale == pytest.approx(1 / 3, rel=1e-4)
        assert figures.shift == pytest.approx(-0.2 / 3, rel=1e-3)
    else:
        assert figures.scale == pytest.approx(3, rel=1e-4)
    assert figures.tae == pytest.approx(known_tae(of, figures.evaluated_frames), rel=1e-3)
    assert figures.pairs == figures.evaluated_frames - 1


def known_tae(of: BenchmarkSet, frames: int) -> float:
    """TAE of the true depth, of all frames at once, by the function that is compared with published numbers.

    Where the truth is unknown a perfect prediction says 2 m.
    """
    first = FIRST_NUMBERS[of.dataset]
    ids = [of.frames[of.evaluated.start + number] + first for number in range(frames)]
    depth_m = np.stack([np.nan_to_num(of.crop.of(true_depth_m(number)), nan=15.0) for number in ids])
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 2, 3] = torch.tensor([STEP_M * (number % 60) for number in ids])
    left, top = of.crop.columns[0], of.crop.rows[0]
    height, width = SIZE
    intrinsics = torch.tensor([[70.0, 70, width / 2 - 0.5 - left, height / 2 - 0.5 - top]]).expand(frames, 4)
    truth = torch.from_numpy(depth_m)
    disparity = torch.where(truth == 15.0, 0.4, 3 / truth + (0 if of.alignment == "scale" else 0.2))
    if of.alignment == "scale":
        disparity = disparity / 3
    tae = clip_metrics(
        disparity, torch.where(truth == 15.0, 0, truth), intrinsics, poses, max_depth_m=of.max_depth_m
    ).tae
    assert tae is not None
    assert tae > 0
    return tae


@pytest.mark.parametrize("name", ["short", "near"])
def test_published_numbers_frame_by_frame(name: str, clip, tmp_path: Path) -> None:
    with np.load(GOLDEN) as arrays:
        numbers = {key.removeprefix(f"{name}_"): arrays[key] for key in arrays if key.startswith(name)}
    matrix = numbers["intrinsics"]
    camera = np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])
    frames = [
        replace(frame_of(depth_m, number), intrinsics=camera, camera_to_world=numbers["camera_to_world"][number])
        for number, depth_m in enumerate(numbers["depth"])
    ]
    of = BenchmarkSet("golden", "golden", "golden", ("given",), range(100), float(numbers["max_depth"]))
    figures = measure_scene(
        given(clip, of, frames), oracle(lambda number: numbers["disparity"][number]), scratch=tmp_path
    )
    for ours, theirs in (("absrel", "absrel"), ("rmse", "rmse"), ("delta1", "delta1"), ("tae", "tae_x100")):
        assert getattr(figures, ours) == pytest.approx(float(numbers[theirs]), rel=1e-6)
    evaluated = clip_metrics(  # as `vdatrain eval` measures: the same to the last bit
        torch.from_numpy(numbers["disparity"]),
        torch.from_numpy(np.stack([frame.depth_m for frame in frames])),
        torch.from_numpy(np.tile(camera, (len(frames), 1))),
        torch.from_numpy(numbers["camera_to_world"]),
        max_depth_m=of.max_depth_m,
    )
    for name in ("absrel", "delta1", "rmse", "tae", "tae_share"):
        assert getattr(figures, name) == getattr(evaluated, name)


def test_metric_weights_are_not_fitted_and_capped(clip, tmp_path: Path) -> None:
    of = set_of("vda", "nyuv2")
    depth_m = np.full(SIZE, 5.0)
    depth_m[:, 60:] = 12.0  # beyond the cap
    scene = given(clip, of, [frame_of(depth_m)])
    near = measure_scene(scene, oracle(lambda number: of.crop.of(1.3 / depth_m), metric=True), scratch=tmp_path)
    assert (near.scale, near.shift, near.delta1) == (1, 0, 0)
    assert near.absrel == pytest.approx(1 - 1 / 1.3, rel=1e-6)
    assert near.pixels == of.crop.of(depth_m[:, :60]).size
    relative = measure_scene(scene, oracle(lambda number: of.crop.of(1.3 / depth_m)), scratch=tmp_path)
    assert relative.delta1 == 1


def test_monst3r_weights_pixels_and_vda_scenes() -> None:
    sparse, dense = (
        result_of("bonn", name, pixels=pixels, absrel=absrel)
        for name, pixels, absrel in (("one", 100, 0.4), ("two", 300, 0.2))
    )
    of = set_of("vda", "bonn")
    assert table.summary_of(of, [sparse, dense], weighting="scenes").absrel == pytest.approx(0.3)
    assert table.summary_of(of, [sparse, dense], weighting="pixels").absrel == pytest.approx(0.25)


def result_of(key: str, scene: str, **figures) -> results.SceneResult:
    values = {
        "frames": 10, "evaluated_frames": 10, "pixels": 100, "scale": 1.0, "shift": 0.0, "absrel": 0.1, "delta1": 0.9,
        "rmse": 0.5, "tae": None, "tae_share": 0.0, "pairs": 0, "pairs_without_pose": 9, "apart": 0, **figures,
    }  # fmt: skip
    of_pixels = {f"pixel_{name}": values[name] for name in ("absrel", "delta1", "rmse")}
    return results.SceneResult(key, scene, "0" * 64, "1" * 64, 2.0, 1000, SceneFigures(**{**of_pixels, **values}))


# --------------------------------------------------------------------------------------- faults of published scripts


@pytest.mark.parametrize(("key", "fault"), [("bonn", 1), ("nyuv2", 2), ("scannet-tae", 4)])
def test_what_published_scripts_stop_at_is_read(key: str, fault: int, tmp_path: Path) -> None:
    """1: a wrong keyword for Bonn. 2: another set's function for NYUv2. 4: a list without poses for TAE."""
    figures = measured(set_of("vda", key), tmp_path)
    assert figures.absrel == pytest.approx(0, abs=2e-6)
    assert (figures.tae is not None) or fault != 4


@pytest.mark.parametrize(("range_m", "absrel"), [((0.5, 70), 0.135), ((1, 10), 0.141), ((3, 70), 0.053)])
def test_whole_metres(range_m: tuple[float, float], absrel: float, clip, tmp_path: Path) -> None:
    """3: a truth that is cut to whole metres makes a perfect prediction of log-uniform depths wrong."""
    rng = np.random.default_rng(0)
    depth_m = np.exp(rng.uniform(*np.log(range_m), size=(436, 512)))

    def score(of: BenchmarkSet) -> float | None:
        scene = given(clip, of, [frame_of(depth_m)])
        return measure_scene(scene, oracle(lambda number: 1 / depth_m), scratch=tmp_path).absrel

    assert score(set_of("vda-legacy", "sintel")) == pytest.approx(absrel, abs=0.002)
    assert score(set_of("vda", "sintel")) == pytest.approx(0, abs=1e-6)


def test_tae_scenes_do_not_depend_on_a_file_system(tmp_path: Path) -> None:
    """5: unsorted lists; ours are the first 20 sorted, whatever order the shards have."""
    of = set_of("vda", "scannet-tae")
    shots = [Shot(name, range(12)) for name in protocols.SCANNET[:24]]
    chosen = [
        [scene.name for scene in found(of, write_scenes(tmp_path / name / "scannet", order).parent, scenes=20).scenes]
        for name, order in (("up", shots), ("down", shots[::-1]))
    ]
    assert chosen == [list(protocols.SCANNET[:20])] * 2

    legacy = set_of("vda-legacy", "scannet-tae")
    assert legacy.scenes == protocols.SCANNET
    every = [result_of("scannet-tae", name, tae=float(i), pairs=9) for i, name in enumerate(legacy.scenes)]
    made = table.make_table(Protocol("vda-legacy", "", (legacy,)), every, [], model="m", metric=False)
    chance = np.random.default_rng(0)
    means = [chance.choice(100, 20, replace=False).mean() for _ in range(4000)]
    inside = float(made.rows[-1].marks["scannet-tae"].partition("± ")[2].partition(" ")[0])
    assert np.mean(np.abs(np.array(means) - 49.5) < inside) == pytest.approx(0.95, abs=0.01)
    assert made.summaries[0].tae == pytest.approx(49.5)


@pytest.mark.parametrize("key", ["kitti", "scannet", "bonn", "nyuv2", "sintel", "scannet-tae"])
def test_colours(key: str, tmp_path: Path) -> None:
    """6: published scripts show the model blue for red."""
    red: dict[str, float] = {}
    for name in ("vda", "vda-legacy"):
        of = set_of(name, key)
        seer = perfect(of, FIRST_NUMBERS[of.dataset])
        measured(of, tmp_path / name, replace(seer, answer=lambda number, of=of: shown(of, np.full(SIZE, 0.5))))
        red[name] = seer.seen[0].rgb[..., 0].mean()
    assert red["vda"] > 180
    assert red["vda-legacy"] < 60


def shown(of: BenchmarkSet, image: np.ndarray) -> np.ndarray:
    """Return the part of an image that a frame shows to the model."""
    other = of.faults.unregistered_crop
    if other is None:
        return of.crop.of(image)
    larger = image if other.size is None else cv2.resize(image, other.size[::-1])
    return larger if other.after else other.crop.of(larger)


def test_pairs_by_index(clip, tmp_path: Path) -> None:
    """7: images at 29.9 and depth at 30 frames a second, paired by index, drift apart."""

    def wall_m(seconds: float) -> np.ndarray:
        return true_depth_m(0)[:-4, :-4] - 1.2 * seconds * np.linspace(0, 1, SIZE[1] - 4)

    number = 60  # after two seconds a depth map is 7 ms older than its image
    drifted = [frame_of(wall_m(i / 30), i) for i in (0, number, 3 * number)]
    paired = [frame_of(wall_m(i / 29.9), i) for i in (0, number, 3 * number)]
    of = set_of("vda", "bonn")
    seer = oracle(lambda number: 1 / wall_m(number / 29.9))
    by_index = measure_scene(given(clip, of, drifted), seer, scratch=tmp_path).absrel
    by_time = measure_scene(given(clip, of, paired), seer, scratch=tmp_path).absrel
    assert by_index is not None
    assert by_index > 1e-3
    assert by_time == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("protocol", "pairing", "accepted"),
    [
        ("vda", "time", True),
        ("vda", "legacy-index", False),
        ("vda-legacy", "legacy-index", True),
        ("vda-legacy", "time", False),
    ],
)
def test_shards_say_how_they_were_paired(protocol: str, pairing: str, accepted: bool, tmp_path: Path) -> None:
    of = set_of(protocol, "bonn")
    write_scenes(tmp_path / "bonn", shots_of(of, scenes=1), options={"pairing": pairing})
    if accepted:
        found(of, tmp_path)
    else:
        with pytest.raises(DataError, match=f"converted with --pairing {pairing}, the protocol takes"):
            found(of, tmp_path)
        assert any(remark.kind == "pairing" for remark in found(of, tmp_path, allow_missing=True).remarks)


def test_only_named_scenes_count(tmp_path: Path) -> None:
    """8: published loops take every folder there is; person_tracking2 is another protocol's."""
    of = set_of("vda", "bonn")
    names = [*of.scenes, "person_tracking2"]
    write_scenes(tmp_path / "bonn", [Shot(f"rgbd_bonn_{name}", range(4)) for name in names])
    benchmark = found(of, tmp_path, scenes=5)
    assert [scene.name for scene in benchmark.scenes] == sorted(of.scenes)
    assert [(note.kind, note.scene) for note in benchmark.remarks if note.kind == "not measured"] == [
        ("not measured", "rgbd_bonn_person_tracking2")
    ]
    assert "person_tracking2" in set_of("monst3r", "bonn").scenes
    all_folders = [result_of("bonn", name, absrel=0.5 if name == "person_tracking2" else 0.1) for name in names]
    assert table.summary_of(of, all_folders, weighting="scenes").absrel != pytest.approx(0.1)


def test_crop_of_scannet(clip, tmp_path: Path) -> None:
    """9: eight rows of 968 are not those of 480, so a perfect prediction is off at the border."""
    height, width = 480, 640
    y, x = np.mgrid[:height, :width]
    depth_m = 2 + 0.03 * np.abs(x - 320) + 0.02 * y

    def score(name: str) -> SceneFigures:
        of = set_of(name, "scannet")
        scene = given(clip, of, [frame_of(depth_m)])
        return measure_scene(scene, oracle(lambda number: shown(of, 1 / depth_m)), scratch=tmp_path)

    exact, legacy = score("vda").absrel, score("vda-legacy").absrel
    assert exact == pytest.approx(0, abs=1e-6)
    assert legacy is not None
    assert legacy > 2e-3


def test_camera_of_cropped_frames(clip) -> None:
    """9: intrinsics follow the crop; in the published TAE they do not."""
    frame = frame_of(true_depth_m(0))
    exact = truth_of(frame, set_of("vda", "scannet-tae")).intrinsics
    assert exact.tolist() == [50, 50, 10 - 11, 10 - 8]
    assert truth_of(frame, set_of("vda-legacy", "scannet-tae")).intrinsics.tolist() == [50, 50, 10, 10]


def test_order_of_frames(tmp_path: Path) -> None:
    """10: by the last four characters the second 10,000 comes before 9,999; ours go by their numbers."""
    names = ["9998.png", "9999.png", "10000.png", "10001.png"]
    assert sorted(names, key=lambda name: name.split(".")[0][-4:]) == [*names[2:], *names[:2]]
    of = set_of("vda", "bonn")
    shots = [Shot("balloon2", ids) for ids in ([10000, 10001], [9998, 9999])]
    write_scenes(tmp_path / "bonn", shots)
    [scene] = found(of, tmp_path).scenes
    assert [place.clip.meta.frame_ids[place.index] for place in scene.places] == [9998, 9999, 10000, 10001]


def test_missing_frames(tmp_path: Path) -> None:
    """11: they are an error, or in the ledger; no pair of neighbours spans them."""
    of = set_of("vda", "scannet")
    rejected = [Rejection("scene0707_00/color/4.jpg", "is truncated"), Rejection("scene0708_00/color/9.jpg", "is grey")]
    write_scenes(tmp_path / "scannet", [Shot("scene0707_00", [0, 1, 2, 6, 7])], rejected=rejected)
    sentence = r"missing frames: 3 frames are not there \(3, 4, 5\): scene0707_00/color/4.jpg is truncated; convert"
    with pytest.raises(DataError, match=sentence):
        found(of, tmp_path)
    [scene] = found(of, tmp_path, allow_missing=True).scenes
    exact = measure_scene(scene, perfect(of), scratch=tmp_path)
    assert (exact.frames, exact.pairs, exact.pairs_without_pose) == (5, 3, 1)
    silent = replace(scene, of=replace(of, faults=Faults(gaps_are_silent=True)))
    assert measure_scene(silent, perfect(of), scratch=tmp_path).pairs == 4


def test_a_gap_in_time_is_counted_on_but_no_neighbourhood(tmp_path: Path) -> None:
    of = replace(set_of("vda-short", "bonn"), frames=range(1, 5), faults=Faults())
    write_scenes(tmp_path / "bonn", [Shot("balloon2", [0, 1, 2, 6, 7, 8])])
    benchmark = found(of, tmp_path)
    [scene] = benchmark.scenes
    assert [place.number for place in scene.places] == [0, 1, 5, 6]
    assert "gap" in [remark.kind for remark in benchmark.remarks]
    assert measure_scene(scene, perfect(of, first=0), scratch=tmp_path).pairs == 2


def test_neighbours_without_a_pixel_in_common(tmp_path: Path) -> None:
    """11: published scripts take them for perfect."""
    of = set_of("vda", "bonn")
    write_scenes(tmp_path / "bonn", [Shot("balloon2", range(4), apart_after=1)])
    [scene] = found(of, tmp_path).scenes
    exact = measure_scene(scene, perfect(of), scratch=tmp_path)
    legacy = replace(scene, of=replace(of, faults=Faults(gaps_are_silent=True)))
    published = measure_scene(legacy, perfect(of), scratch=tmp_path)
    assert (exact.pairs, exact.apart) == (3, 2)
    assert exact.tae is not None
    assert published.tae == pytest.approx(exact.tae * 4 / 6)


# ------------------------------------------------------------------------------------------------ what is not there

LOG = DepthSpec("log", 0.0005, None, 0.01, 100.0)
PACKINGS = {
    "as the benchmark's": (RgbSpec(), MILLIMETRES, "jpeg:95", []),
    "coarser JPEGs": (RgbSpec(), MILLIMETRES, "jpeg:85", ["frames are stored as JPEG of quality 85"]),
    "video": (RgbSpec("h264", 8), MILLIMETRES, "h264:16", ["frames are stored as H264"]),
    "interpolated depth": (
        RgbSpec(),
        DepthSpec("log", 0.0022, None, 0.01, 100.0, "interpolation", 3),
        "jpeg:95",
        ["the true depth is stored within 0.22%"],
    ),
    "no record": (RgbSpec(), LOG, "", []),
}


@pytest.mark.parametrize("kind", PACKINGS)
def test_what_storing_has_changed_is_said(kind: str, clip) -> None:
    rgb, depth, options, expected = PACKINGS[kind]
    assert scenes.packed_as(replace(clip.meta, rgb=rgb, depth=depth), options) == expected


def test_a_clip_without_poses_has_no_tae(tmp_path: Path) -> None:
    figures = measured(set_of("vda", "kitti"), tmp_path, poses=False)
    assert figures.tae is None
    assert figures.absrel == pytest.approx(0, abs=2e-6)


def test_missing_scenes_are_named(tmp_path: Path) -> None:
    of = set_of("vda", "nyuv2")
    write_scenes(tmp_path / "nyuv2", shots_of(of, scenes=2))
    sentence = r"lack 1 of what it needs: nyuv2, cafe_0001a: missing scene: no trajectory is it; .*--allow-missing"
    with pytest.raises(DataError, match=sentence):
        found(of, tmp_path, scenes=3)
    benchmark = found(of, tmp_path, scenes=3, allow_missing=True)
    assert [scene.name for scene in benchmark.scenes] == list(of.scenes[:2])
    with pytest.raises(DataError, match="the shards are of nyuv2, expected sintel, bonn, kitti; convert"):
        run.find_benchmark(PROTOCOLS["monst3r"], open_shards(tmp_path), allow_missing=True)
    write_scenes(tmp_path / "bonn", [Shot("another", range(2))])
    with pytest.raises(DataError, match="hold none of its scenes"):
        run.find_benchmark(PROTOCOLS["monst3r"], open_shards(tmp_path), allow_missing=True)


def test_a_scene_that_ends_early_is_named(tmp_path: Path) -> None:
    of = replace(set_of("vda", "sintel"), scenes=("ambush_6",))
    write_scenes(tmp_path / "sintel", [Shot("ambush_6", range(1, 18))])
    with pytest.raises(DataError, match="ambush_6: missing frames: has 17 of 20 frames"):
        run.find_benchmark(Protocol("vda", "", (of,)), open_shards(tmp_path))


def test_a_prediction_that_is_not_finite_ends_it(tmp_path: Path) -> None:
    of = set_of("vda", "bonn")
    with pytest.raises(VdakitError, match="nan or infinity"):
        measured(of, tmp_path, oracle(lambda number: np.full(SIZE, np.nan)))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: run.choose_protocol("vda-long"), "--protocol vda-long: expected one of vda, vda-short"),
        (lambda: run.choose_protocol("monst3r", ["nyuv2"]), "--sets nyuv2: protocol monst3r has sintel, bonn, kitti"),
    ],
)
def test_unknown_names(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        call()


def test_a_set_is_named_by_its_data_set_or_its_key() -> None:
    assert [item.key for item in run.choose_protocol("vda", ["scannet"]).sets] == ["scannet", "scannet-tae"]
    assert [item.key for item in run.choose_protocol("vda", ["scannet-tae", "kitti"]).sets] == ["kitti", "scannet-tae"]


# ------------------------------------------------------------------------------------------------------- going on


@pytest.fixture
def bonn(tmp_path: Path) -> run.Benchmark:
    of = set_of("vda", "bonn")
    write_scenes(tmp_path / "shards" / "bonn", shots_of(of, scenes=3, frames=3))
    (tmp_path / "out").mkdir()
    return found(of, tmp_path / "shards", scenes=3)


def test_results_are_kept_scene_by_scene(bonn: run.Benchmark, tmp_path: Path) -> None:
    seer, out = perfect(bonn.protocol.sets[0]), tmp_path / "out"
    whole = run.run_benchmark(bonn, seer, out=out)
    assert len(seer.seen) == 9
    assert run.run_benchmark(bonn, seer, out=out) == whole
    assert len(seer.seen) == 9
    file = out / "scenes-0.jsonl"
    file.write_bytes(file.read_bytes()[:-7])  # killed while it wrote the last line
    again = run.run_benchmark(bonn, seer, out=out)
    assert len(seer.seen) == 12
    assert [item.figures for item in again] == [item.figures for item in whole]
    assert len(results.read_results(out, run=whole[0].run)) == 3
    other = replace(seer, size=56)
    with pytest.raises(UsageError, match="holds results of another size; choose another folder"):
        run.run_benchmark(bonn, other, out=out)


def test_shards_that_changed_are_measured_again(bonn: run.Benchmark, tmp_path: Path) -> None:
    seer, out = perfect(bonn.protocol.sets[0]), tmp_path / "out"
    run.run_benchmark(bonn, seer, out=out)
    shots = shots_of(bonn.protocol.sets[0], scenes=3, frames=3)
    write_scenes(tmp_path / "shards" / "bonn", [replace(shots[0], poses=False), *shots[1:]])
    run.run_benchmark(found(set_of("vda", "bonn"), tmp_path / "shards", scenes=3), seer, out=out)
    assert len(seer.seen) == 12


def test_ranks_share_the_scenes(bonn: run.Benchmark) -> None:
    shares = [run.share_of(bonn.scenes, Ranks(rank, 2)) for rank in range(2)]
    assert sorted(scene.name for share in shares for scene in share) == sorted(scene.name for scene in bonn.scenes)
    assert [len(share) for share in shares] == [2, 1]


# ------------------------------------------------------------------------------------------------------------- tables


def test_the_table_stands_beside_published_rows() -> None:
    protocol = run.choose_protocol("vda", ["sintel", "scannet"])
    ours = [
        result_of("sintel", "alley_1", absrel=0.21, delta1=0.8),
        result_of("scannet", "scene0707_00", absrel=0.1, delta1=0.9, tae=0.7, pairs=9),
        result_of("scannet-tae", "scene0707_00", tae=0.5, pairs=9),
    ]
    remarks = [Remark("sintel", "alley_2", "missing scene", "no trajectory is it; expected one.")]
    made = table.make_table(protocol, ours, remarks, model="a|b <i>", metric=False)
    text = table.to_markdown(made)
    assert "| VDA-L | 0.089 | 0.926 | 0.295 | 0.644 | 0.570 | arXiv:2501.12375 |" in text
    assert "| a&#124;b &lt;i&gt; | 0.100 | 0.900 | 0.210 [4] | 0.800 [4] | 0.500 | measured here |" in text
    assert "[4] not the protocol's data, see the ledger: missing scene." in text
    assert "| GemDepth (VDA init) | 0.066 | 0.967 | 0.157 [3]" in text
    assert "| VDA-B | - | - | - | - | - | no figures are published |" in text
    assert "vda,a|b <i>,scannet-tae,tae,0.5,measured here," in table.to_csv(made)


def test_what_a_reader_has_to_know_stands_below() -> None:
    made = table.make_table(run.choose_protocol("vda", ["kitti"]), [], [], model="m", metric=False)
    [foot] = made.foot()
    assert (
        foot == "KITTI-500: the laser reaches neither the sky nor the upper third of frames: no model is measured there"
    )
    assert f"{foot}." in table.to_markdown(made)


def test_metric_weights_stand_beside_metric_models() -> None:
    protocol = run.choose_protocol("vda", ["kitti", "nyuv2"])
    made = table.make_table(protocol, [result_of("kitti", "one")], [], model="mine", metric=True)
    assert [row.model for row in made.rows] == [
        "VDA-S metric", "VDA-B metric", "VDA-L metric", "MoGe-2-L", "UniDepthV2-L", "DepthPro", "mine",
    ]  # fmt: skip
    assert made.text_of(made.rows[0], ("kitti", "delta1")) == "0.877"
