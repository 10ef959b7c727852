"""A teacher's disparity in shards, and frames without labels: codes, members, what reads them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vdaprep.errors import ShardError
from vdaprep.shards import codec, reader, writer
from vdaprep.shards.codec import pack_disparity
from vdaprep.shards.depth_codes import code_disparity, depth_table, disparity_range, unused_code
from vdaprep.shards.metadata import ClipMeta, DepthSpec
from vdaprep.shards.reader import Clip
from vdaprep.shards.writer import EncodedClip
from vdaprep.storage.output import LocalOutput

SPEC = DepthSpec("relative", 0.0, packing="nibbles")
SIZE = 24, 40
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
DISPARITIES = arrays(np.float32, SHAPES, elements=st.floats(-1e6, 1e6, width=32))


def disparity(seed: int = 0) -> np.ndarray:
    """Return a smooth map with unknown pixels, in a teacher's own numbers."""
    rng = np.random.default_rng(seed)
    values = np.add.outer(np.linspace(3, 40, SIZE[0]), rng.uniform(0, 5, SIZE[1])).astype(np.float32)
    values[2, 5:9] = np.nan
    return values


def labelled(spec: DepthSpec = SPEC, *, frames: int = 2) -> EncodedClip:
    packed = codec.settle(pack_disparity([disparity(number) for number in range(frames)], spec), spec)
    ranges = [one.disparity_range for one in packed if one.disparity_range is not None]
    return clip_of(
        frames,
        [one.data for one in packed],
        depth=packed[0].spec,
        disparity_min=min(low for low, _ in ranges),
        disparity_max=max(high for _, high in ranges),
        teacher_disparity=packed[0].teacher_disparity,
    )


def clip_of(frames: int, depth_members: list[bytes], **said: object) -> EncodedClip:
    meta = ClipMeta(
        **{
            "dataset": "toy",
            "split": "train",
            "trajectory": "t",
            "frame_ids": tuple(range(frames)),
            "height": SIZE[0],
            "width": SIZE[1],
            "intrinsics": None,
            "camera_to_world": None,
            "depth": None,
            "disparity_min": 0.0,
            "disparity_max": 0.0,
            "diff": None,
            "diff_valid": (False,) * frames,
            **said,
        }
    )
    image = codec.encode_rgb(np.full((*SIZE, 3), 90, np.uint8), quality=90, optimised=True)
    members = tuple(
        (("rgb.jpg", image), *(() if not depth_members else (("depth.zst", depth_members[number]),)))
        for number in range(frames)
    )
    return EncodedClip("toy-t-000000", meta, members, clamped_near=0)


def written(folder: Path, clip: EncodedClip) -> Clip:
    options = {"depth": SPEC.to_json(), "rgb": "jpeg:90", "diff": None}
    record = writer.write_shard(LocalOutput(folder), "shard-0001.tar", [clip], options=options, plan="p", rejected=[])
    return Clip("toy", folder / "shard-0001.tar", record.clips[0])


@settings(deadline=None)
@given(DISPARITIES, st.integers(0, 3))
def test_a_code_is_the_nearest_share_of_the_range(values: np.ndarray, unknown: int) -> None:
    values.ravel()[:unknown] = np.nan
    known = np.isfinite(values)
    least, greatest = -1.5e6, float(np.nanmax(values)) + 1 if known.any() else 0.0
    codes = code_disparity(values, least=least, greatest=greatest)
    assert np.array_equal(codes == 0, ~known)
    share = 1 / depth_table(SPEC)[codes[known]].astype(np.float64)
    expected = (values[known].astype(np.float64) - least) / (greatest - least)
    assert np.abs(share - expected).max(initial=0) <= 0.5001 / 65533
    assert bool((np.diff(codes[known][np.argsort(values[known])].astype(int)) <= 0).all())  # nearer is less


def test_every_code_comes_back() -> None:
    codes = np.arange(65535, dtype=np.uint16).reshape(3, -1)
    with np.errstate(divide="ignore"):
        normalised = 1 / depth_table(SPEC)[codes]
    assert np.array_equal(code_disparity(normalised, least=0.0, greatest=1.0), codes)
    assert depth_table(SPEC)[[1, 65534, 65535]].tolist() == [1.0, np.inf, np.inf]
    assert unused_code(codes, SPEC) is None
    assert disparity_range(codes, SPEC) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("spec", "bound"),
    [
        (SPEC, 0.5 / 65533),
        (DepthSpec("relative", 0.0, packing="bytes"), 0.5 / 65533),
        (DepthSpec("relative", 0.0, packing="sparse"), 0.5 / 65533),
        (DepthSpec("relative", 0.0005, packing="interpolation", steps=65), 32.5 / 65533),
    ],
    ids=lambda value: getattr(value, "packing", ""),
)
def test_a_clip_is_read_as_its_teacher_gave_it(spec: DepthSpec, bound: float, tmp_path: Path) -> None:
    clip = written(tmp_path, labelled(spec))
    frames, meta = clip.read(), clip.meta
    truth = np.stack([disparity(0), disparity(1)])
    assert meta.teacher_disparity == (np.nanmin(truth), np.nanmax(truth))
    assert not meta.is_metric
    assert 0 <= meta.disparity_min < 0.002 < 0.998 < meta.disparity_max <= 1
    least, greatest = meta.teacher_disparity
    off = np.abs(1 / frames.depth_m - (truth - least) / (greatest - least))
    assert np.array_equal(np.isnan(off), np.isnan(truth))
    assert np.nanmax(off) <= bound + 1e-6
    assert np.isnan(frames.intrinsics).all()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.full(SIZE, 7.0, np.float32), "7 everywhere, expected numbers that are greater where it is nearer"),
        (np.full(SIZE, np.inf, np.float32), "no number that is finite"),
    ],
)
def test_what_has_no_range_is_refused(values: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pack_disparity([values, values], SPEC)


def test_frames_without_labels_are_read_and_never_taken_for_labelled(tmp_path: Path) -> None:
    clip = written(tmp_path, clip_of(2, []))
    frames = clip.read()
    assert frames.rgb.shape == (2, *SIZE, 3)
    assert np.isnan(frames.depth_m).all()
    sentence = r"t-000000: its frames have no depth, expected labels; vdatrain label makes those of a teacher"
    with pytest.raises(ShardError, match=sentence):
        reader.read_window(clip, range(2), allocate=lambda name, shape, dtype: np.empty(shape, dtype))
