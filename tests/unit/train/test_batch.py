"""Decoding on the device, and views that keep frames, depth, differences and cameras together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vdaprep.errors import UsageError
from vdaprep.shards import codec
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import DepthSpec, DiffSpec
from vdatrain.data.batch import IMAGENET_MEAN, IMAGENET_STD, make_batch, mix_colours
from vdatrain.data.decode import decode_depth
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import Sample, read_window
from vdatrain.data.transforms import (
    Augmentation,
    ColorJitter,
    CropParams,
    fit_size,
    fit_view,
    sample_augmentation,
    sample_augmentations,
    sample_generator,
    view_intrinsics,
    view_poses,
)

CPU = torch.device("cpu")
CENTIMETRES = DepthSpec(kind="linear", unit_m=0.01, relative_error=0.0)


def _sample(rgb, depth_m, differences=None, *, position=0, spec=CENTIMETRES) -> Sample:
    """Make a sample from arrays [t,h,w,3], [t,h,w] and [t,3,dh,dw], with poses that turn and move."""
    count, height, width = depth_m.shape
    packed = [codec.encode_depth(frame.astype(np.float32), spec)[0] for frame in depth_m]
    disparity = 1 / depth_m[np.isfinite(depth_m)]
    angle = 0.3 * np.arange(count)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    poses[:, :3, 3] = np.stack([angle, -angle, 2 * angle], axis=1)
    return Sample(
        dataset="made",
        key="made-000000",
        window=Window(position, 0, 0, WindowShape(count)),
        size=(height, width),
        images=torch.from_numpy(rgb.astype(np.uint8)),
        depth_bytes=torch.from_numpy(
            np.stack([codec.decompress_depth(data, spec, height=height, width=width) for data in packed])
        ),
        differences=None if differences is None else torch.from_numpy(differences.astype(np.int8)),
        diff_valid=np.full(count, differences is not None),
        diff=None if differences is None else DiffSpec(scale=4, step=2),
        intrinsics=np.tile([60.0, 61.0, 0.5 * width - 1.5, 0.5 * height + 2.5], (count, 1)),
        camera_to_world=poses,
        depth=spec,
        disparity_min=float(disparity.min(initial=np.inf)) if disparity.size else 0.0,
        disparity_max=float(disparity.max(initial=0)),
    )


def _ramps(height=120, width=160, count=2) -> Sample:
    """Make a sample whose values are places: red and blue the column, green the row, depth the column in metres.

    A difference cell holds, in steps, the column and the row of its own centre.
    """
    y, x = np.mgrid[:height, :width].astype(np.float64)
    cell_y, cell_x = np.mgrid[: height // 4, : width // 4]
    cells = np.stack([cell_x, cell_y, cell_x]) - 16
    return _sample(
        rgb=np.tile(np.stack([x, y, x], axis=-1), (count, 1, 1, 1)),
        depth_m=np.tile(1 + x, (count, 1, 1)),
        differences=np.tile(cells, (count, 1, 1, 1)),
    )


def _show(sample, view):
    return make_batch([sample], [view], device=CPU)


def _grey_levels(batch) -> torch.Tensor:
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (batch.frames * deviation + mean) * 255


VIEWS = [
    CropParams(0, 0, 120, 160, height=112, width=154),
    CropParams(0, 0, 120, 160, height=112, width=154, flip=True),
    CropParams(13, 22, 90, 118, height=112, width=140),
    CropParams(13, 22, 90, 118, height=56, width=70, flip=True),
    CropParams(3, 5, 98, 140, height=98, width=140),
]


# -------------------------------------------------------------------------------------------------------------- depth


def test_depth_of_a_shard(toy_shards, toy_frame):
    clip = open_shards(toy_shards).clips(split="train")[2]
    sample = read_window(clip, Window(0, 2, 5, WindowShape(3)))
    for row, depth_m in enumerate(decode_depth(sample.depth_bytes, sample.depth, size=sample.size).numpy()):
        np.testing.assert_allclose(depth_m, toy_frame(2, 5 + row, (60, 80))[1], rtol=1e-6)


def test_disparity_is_normalised_over_the_clip_with_sky_at_zero():
    depth_m = np.full((2, 28, 42), 4.0)
    depth_m[0, 0, :4] = 2.0, 8.0, np.inf, np.nan
    sample = _sample(np.zeros((2, 28, 42, 3)), depth_m)
    batch = _show(sample, fit_view((28, 42), size=28))
    np.testing.assert_allclose(batch.disparity[0, 0, 0, :5], [1, 0, 0, 0, 1 / 3], atol=1e-6)
    assert batch.mask[0, 0, 0, :5].tolist() == [True, True, True, False, True]
    assert batch.mask.sum() == batch.mask.numel() - 1


@pytest.mark.parametrize("depth_m", [5.0, np.inf, np.nan])
def test_a_flat_or_unknown_clip_has_finite_disparity(depth_m):
    batch = _show(_sample(np.zeros((1, 14, 14, 3)), np.full((1, 14, 14), depth_m)), fit_view((14, 14), size=14))
    assert not batch.disparity.any()
    assert batch.mask.all() == (not np.isnan(depth_m))


# ----------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view.crop_height}to{view.height}{'flip' * view.flip}")
def test_frames_disparity_differences_and_intrinsics_show_the_same_place(view):
    sample = _ramps()
    batch = _show(sample, view)
    fx, fy, cx, cy = batch.intrinsics[0, 0].double().numpy()
    old_fx, old_fy, old_cx, old_cy = sample.intrinsics[0]
    mirror = -1 if view.flip else 1
    # Where in the stored frame the ray through each pixel of the view came from.
    column = mirror * (np.arange(view.width) - cx) / fx * old_fx + old_cx
    row = (np.arange(view.height) - cy) / fy * old_fy + old_cy

    # Sampled at pixels, the antialiasing triangle is off a ramp by less than a tenth of a pixel.
    seen = _grey_levels(batch)[0, 0].numpy()
    np.testing.assert_allclose(seen[0, 5:-5, 5:-5], np.tile(column, (view.height, 1))[5:-5, 5:-5], atol=0.1)
    np.testing.assert_allclose(seen[1, 5:-5, 5:-5].T, np.tile(row, (view.width, 1))[5:-5, 5:-5], atol=0.1)

    disparity = batch.disparity[0, 0, 0].double().numpy()
    metres = 1 / (disparity * (sample.disparity_max - sample.disparity_min) + sample.disparity_min)
    np.testing.assert_allclose(metres - 1, column, atol=0.51 * max(1, view.crop_width / view.width))

    cells = batch.differences[0, 0].numpy() * 255 / 2 + 16
    cell_columns = 4 * cells[0, cells.shape[1] // 2] + 1.5
    cell_rows = 4 * cells[1, :, cells.shape[2] // 2] + 1.5
    middles = (np.arange(len(cell_columns)) + 0.5) * 3.5 - 0.5
    np.testing.assert_allclose(cell_columns[4:-4], np.interp(middles, range(view.width), column)[4:-4], atol=0.1)
    middles = (np.arange(len(cell_rows)) + 0.5) * 3.5 - 0.5
    np.testing.assert_allclose(cell_rows[4:-4], np.interp(middles, range(view.height), row)[4:-4], atol=0.1)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view.crop_height}to{view.height}{'flip' * view.flip}")
def test_a_point_lands_where_the_view_shows_it(view):
    sample = _ramps(count=3)
    fx, fy, cx, cy = sample.intrinsics.T
    world = np.array([0.3, -0.2, 9.0, 1.0])
    x, y, z, _ = (np.linalg.inv(sample.camera_to_world) @ world).T
    stored = np.stack([fx * x / z + cx, fy * y / z + cy])
    fx, fy, cx, cy = view_intrinsics(view, sample.intrinsics).T
    mirrored = world * [-1 if view.flip else 1, 1, 1, 1]
    x, y, z, _ = (np.linalg.inv(view_poses(view, sample.camera_to_world)) @ mirrored).T
    column = (stored[0] - view.left + 0.5) * view.width / view.crop_width - 0.5
    np.testing.assert_allclose(fx * x / z + cx, view.width - 1 - column if view.flip else column)
    np.testing.assert_allclose(fy * y / z + cy, (stored[1] - view.top + 0.5) * view.height / view.crop_height - 0.5)
    np.testing.assert_allclose(np.linalg.det(view_poses(view, sample.camera_to_world)), 1)


def test_a_view_of_the_whole_frame_at_its_size_changes_nothing():
    sample = _ramps(112, 168)
    batch = _show(sample, fit_view(sample.size, size=112))
    np.testing.assert_allclose(_grey_levels(batch)[0].permute(0, 2, 3, 1), sample.rgb, atol=1e-3)
    np.testing.assert_array_equal(batch.intrinsics[0], sample.intrinsics.astype(np.float32))
    moved = sample.camera_to_world.copy()
    moved[:, :3, 3] -= moved[0, :3, 3]
    np.testing.assert_array_equal(batch.camera_to_world[0], moved.astype(np.float32))
    assert batch.disparity_range.tolist() == [[np.float32(sample.disparity_min), np.float32(sample.disparity_max)]]


@pytest.mark.parametrize("size", [28, 224])
def test_differences_are_resized_as_an_antialiased_bilinear_would(size):
    sample = _ramps()
    view = fit_view(sample.size, size=size)
    cells = (view.height * 4 // 14, view.width * 4 // 14)
    expected = F.interpolate(sample.differences.float() * 2 / 255, cells, mode="bilinear", antialias=True)
    batch = _show(sample, view)
    assert batch.differences.shape[-2:] == cells
    torch.testing.assert_close(batch.differences[0], expected)


# ------------------------------------------------------------------------------------------------------------ colours

strong = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


@given(st.integers(0, 2**31))
def test_grey_stays_grey_and_differences_follow_the_frames(seed):
    colour = sample_augmentation((28, 28), (28, 28), augmentation=strong, generator=sample_generator(seed, 0)).colour
    grey = mix_colours(torch.full((1, 3, 1, 1), 0.3), colour).flatten()
    torch.testing.assert_close(grey, grey[:1].expand(3))
    before, after = torch.rand(2, 1, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    jittered = [mix_colours(frame, colour) + colour.offset for frame in (before, after)]
    torch.testing.assert_close(mix_colours(after - before, colour), jittered[1] - jittered[0], atol=1e-5, rtol=1e-4)


def test_jitter_changes_frames_and_differences_alike():
    levels = np.array([[100, 120, 140], [110, 114, 150]])
    rgb = np.tile(levels[:, None, None], (1, 56, 84, 1))
    steps = np.stack([np.zeros(3), (levels[1] - levels[0]) / 2])
    sample = _sample(rgb, np.full((2, 56, 84), 3.0), np.tile(steps[:, :, None, None], (1, 1, 14, 21)))
    view = fit_view((56, 84), size=56)
    plain = _grey_levels(_show(sample, view))
    for position in range(5):
        colour = sample_augmentation(
            (56, 84), (56, 84), augmentation=strong, generator=sample_generator(1, position)
        ).colour
        batch = _show(sample, replace(view, colour=colour))
        seen = _grey_levels(batch)
        assert (seen - plain).abs().max() > 1
        torch.testing.assert_close(
            batch.differences[0, 1, :, 0, 0] * 255, (seen[0, 1] - seen[0, 0])[:, 0, 0], atol=1e-3, rtol=1e-3
        )


def test_the_parts_of_a_colour_do_what_they_say():
    none = Augmentation(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)

    def colour_of(**amount) -> ColorJitter:
        for position in range(99):  # a draw far from the middle
            view = sample_augmentation(
                (14, 14), (14, 14), augmentation=replace(none, **amount), generator=sample_generator(0, position)
            )
            if not np.allclose(view.colour.matrix, np.eye(3), atol=0.1):
                return view.colour
        raise AssertionError

    plain = sample_augmentation((14, 14), (14, 14), augmentation=none, generator=sample_generator(0, 0)).colour
    np.testing.assert_allclose(plain.matrix, np.eye(3), atol=1e-12)
    assert plain.offset == 0
    brightness = colour_of(brightness=0.5)
    np.testing.assert_allclose(brightness.matrix, np.eye(3) * brightness.matrix[0][0], atol=1e-12)
    assert brightness.offset == 0
    contrast = colour_of(contrast=0.5)
    assert contrast.matrix[0][0] * 0.5 + contrast.offset == pytest.approx(0.5)
    luma = np.array([0.299, 0.587, 0.114])
    saturation = np.array(colour_of(saturation=0.5).matrix)
    np.testing.assert_allclose(luma @ saturation, luma)
    hue = np.array(colour_of(hue=0.2).matrix)
    np.testing.assert_allclose(hue @ hue.T, np.eye(3), atol=1e-12)


# -------------------------------------------------------------------------------------------------------------- draws


@given(
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.tuples(st.integers(1, 37), st.integers(1, 37)),
    st.integers(0, 10**6),
)
def test_a_drawn_crop_fits_and_has_the_targets_shape(stored, patches, position):
    target = (14 * patches[0], 14 * patches[1])
    augmentation = Augmentation(least_crop=0.7)
    view = sample_augmentation(stored, target, augmentation=augmentation, generator=sample_generator(5, position))
    assert view.top + view.crop_height <= stored[0]
    assert view.left + view.crop_width <= stored[1]
    assert (view.height, view.width) == target
    largest = min(stored[0] / target[0], stored[1] / target[1])
    for side, wanted in [(view.crop_height, target[0]), (view.crop_width, target[1])]:
        assert side == 1 or 0.7 * largest * wanted - 1 <= side <= largest * wanted + 1


def test_draws_depend_on_seed_and_position_alone(toy_shards):
    clips = open_shards(toy_shards).clips(split="train")
    samples = [read_window(clips[i], Window(10 + i, i, 0, WindowShape(2))) for i in (0, 2, 5)]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    views = sample_augmentations(samples, (28, 42), augmentation=Augmentation(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert views == [sample_augmentations([s], (28, 42), augmentation=Augmentation(), seed=3)[0] for s in samples]
    assert views != sample_augmentations(samples, (28, 42), augmentation=Augmentation(), seed=4)
    assert len({view.colour for view in views}) == 3
    flips = [
        sample_augmentation((60, 80), (28, 42), augmentation=Augmentation(), generator=sample_generator(0, p)).flip
        for p in range(200)
    ]
    assert 60 < sum(flips) < 140


@pytest.mark.parametrize(
    ("stored", "size", "expected"),
    [
        ((480, 640), 518, (518, 686)),  # the published resize gives these
        ((540, 960), 518, (518, 924)),
        ((375, 1242), 518, (280, 924)),
        ((1242, 375), 518, (924, 280)),
        ((48, 64), 56, (56, 70)),
        ((518, 518), 518, (518, 518)),
        ((60, 80), 100, (112, 140)),
        ((10, 900), 28, (14, 1260)),
    ],
)
def test_a_fitting_size_is_the_published_one(stored, size, expected):
    assert fit_size(stored, size=size) == expected


def test_sizes_and_shares_without_sense_are_refused():
    with pytest.raises(UsageError, match="multiples of 14 pixels, found 100x56"):
        CropParams(0, 0, 9, 9, height=56, width=100)
    for wrong in [{"least_crop": 0.0}, {"flip": 1.5}, {"hue": -0.1}]:
        with pytest.raises(UsageError, match="augmentation takes"):
            Augmentation(**wrong)


# ------------------------------------------------------------------------------------------------------------ batches


def test_a_batch_mixes_sizes_and_samples_without_differences_or_poses(toy_shards):
    clips = open_shards(toy_shards).clips(split="train")
    samples = [read_window(clips[i], Window(i, i, 1, WindowShape(3))) for i in (0, 5, 2)]
    views = sample_augmentations(samples, (28, 42), augmentation=Augmentation(), seed=0)
    batch = make_batch(samples, views, device=CPU)
    assert batch.frames.shape == (3, 3, 3, 28, 42)
    assert batch.differences.shape == (3, 3, 3, 8, 12)
    assert batch.disparity.shape == batch.mask.shape == (3, 3, 28, 42)
    assert batch.diff_valid.tolist() == [[True] * 3, [False] * 3, [True] * 3]
    assert not batch.differences[1].any()
    assert batch.differences[0].any()
    assert batch.camera_to_world is None
    assert batch.datasets == ("alpha", "beta", "alpha")
    assert batch.keys == tuple(sample.key for sample in samples)
    # What a sample becomes does not depend on its neighbours.
    alone = make_batch(samples[2:], views[2:], device=CPU)
    for name in ("frames", "differences", "disparity", "mask", "intrinsics"):
        assert torch.equal(getattr(alone, name)[0], getattr(batch, name)[2])
    assert alone.camera_to_world.shape == (1, 3, 4, 4)
    alone = make_batch(samples[1:2], views[1:2], device=CPU)
    assert alone.differences.shape == (1, 3, 3, 8, 12)
    assert not alone.differences.any()
    assert not alone.diff_valid.any()


def test_one_frame_and_strided_differences(toy_shards):
    clip = open_shards(toy_shards).clips(split="train")[4]
    one = read_window(clip, Window(0, 4, 2, WindowShape(1)))
    assert _show(one, fit_view(one.size, size=28)).frames.shape == (1, 1, 3, 28, 42)
    sparse = read_window(clip, Window(0, 4, 2, WindowShape(3, stride=2)))
    dense = read_window(clip, Window(0, 4, 2, WindowShape(5)))
    view = fit_view(sparse.size, size=56)
    sums = _show(dense, view).differences[:, 1:].unflatten(1, (2, 2)).sum(2)
    torch.testing.assert_close(_show(sparse, view).differences[:, 1:], sums)


def test_frames_stay_in_range_under_the_strongest_colours():
    sample = _sample(np.random.default_rng(0).integers(0, 256, (1, 28, 28, 3)), np.full((1, 28, 28), 3.0))
    bright = ColorJitter(matrix=((3.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 3.0)), offset=-0.5)
    levels = _grey_levels(_show(sample, replace(fit_view((28, 28), size=28), colour=bright)))
    assert levels.min() > -0.01
    assert levels.max() < 255.01


def test_nothing_waits_for_the_device(toy_shards):
    """The meta device holds no values: asking it for one fails, where a GPU would make the step wait."""
    clip = open_shards(toy_shards).clips(split="train")[4]
    samples = [read_window(clip, Window(p, 4, p, WindowShape(2))) for p in range(4)]
    views = sample_augmentations(samples, (28, 42), augmentation=strong, seed=0)
    assert {view.flip for view in views} == {True, False}
    batch = make_batch(samples, views, device=torch.device("meta"))
    assert batch.frames.is_meta
    assert batch.differences.is_meta
    assert batch.disparity.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        batch.mask.any().item()
