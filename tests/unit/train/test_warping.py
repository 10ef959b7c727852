"""The warp term: zero for perfect depth of what stands still, its definition elsewhere, and quiet where it must be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vdaprep.shards import codec
from vdaprep.shards.dataset import open_shards
from vdaprep.shards.metadata import DepthSpec
from vdatrain.data.batch import make_batch
from vdatrain.data.sampler import Window, WindowShape
from vdatrain.data.samples import read_window
from vdatrain.data.transforms import CropParams
from vdatrain.objectives.warping import Cameras, warp_loss

HEIGHT, WIDTH, FRAMES = 14, 18, 3
INTRINSICS = torch.tensor([15.0, 13.0, 8.3, 7.1], dtype=torch.float64)
Case = tuple[Tensor, Tensor, Cameras]  # true disparity in 1/m, mask, cameras


def turn(yaw: float, pitch: float) -> np.ndarray:
    (cy, cp), (sy, sp) = np.cos([yaw, pitch]), np.sin([yaw, pitch])
    return np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])


def plane(normal: tuple[float, float, float] = (0.2, -0.3, 1.0), *, offset_m: float = 4.0, far_m: float = 0.0) -> Case:
    """Return the plane `normal . x = offset` seen by a camera that moves and turns, `far_m` from the world's origin."""
    poses, maps = [], []
    fx, fy, cx, cy = INTRINSICS.tolist()
    column, row = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    ray = np.stack(np.broadcast_arrays((column - cx) / fx, (row - cy) / fy, 1.0), -1)
    for frame in range(FRAMES):
        pose = np.eye(4)
        pose[:3, :3] = turn(0.05 * frame, -0.03 * frame)
        pose[:3, 3] = far_m + np.array([0.2, -0.1, 0.3]) * frame
        away = offset_m - np.dot(normal, pose[:3, 3] - far_m)
        maps.append((ray @ pose[:3, :3].T) @ np.array(normal) / away)  # 1 / depth is linear in the pixel
        poses.append(pose)
    true = torch.from_numpy(np.stack(maps))[None]
    cameras = Cameras(
        INTRINSICS.expand(1, FRAMES, 4), torch.from_numpy(np.stack(poses))[None], torch.tensor([[0.0, 1.0]]).double()
    )
    return true, torch.ones_like(true, dtype=torch.bool), cameras


def normalised(case: Case) -> Case:
    """Return the same with disparity from 0.1 to 1, which the cameras' range undoes."""
    true, mask, cameras = case
    low, high = true.min().item(), true.max().item()
    low -= 0.1 * (high - low)
    return (true - low) / (high - low), mask, replace(cameras, disparity_range=torch.tensor([[low, high]]).double())


@pytest.mark.parametrize("case", [plane(), plane((0.0, -1.0, 0.2), offset_m=1.5), normalised(plane())])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (3.0, -0.2), (0.1, 5.0)])
def test_perfect_depth_of_a_plane_costs_nothing(case: Case, scale: float, shift: float) -> None:
    target, mask, cameras = case
    assert warp_loss(scale * target + shift, target, mask, cameras).item() < 1e-9
    assert warp_loss((scale * target + shift).float(), target.float(), mask, cameras).item() < 1e-4


def moved(poses: Tensor, share: float) -> Tensor:
    """Return poses of a camera that moved by `share` of what it did."""
    factors = torch.ones(4, 4, dtype=poses.dtype)
    factors[:3, 3] = share
    return poses * factors


@pytest.mark.parametrize(
    "spoil",
    [
        lambda cameras: replace(cameras, camera_to_world=moved(cameras.camera_to_world, 1.2)),
        lambda cameras: replace(cameras, camera_to_world=moved(cameras.camera_to_world, 0.8)),
        lambda cameras: replace(cameras, intrinsics=cameras.intrinsics * torch.tensor([1.2, 1, 1, 1])),
        lambda cameras: replace(cameras, intrinsics=cameras.intrinsics + torch.tensor([0, 0, 4, 0])),
        lambda cameras: replace(cameras, disparity_range=1.1 * cameras.disparity_range),
    ],
)
def test_wrong_cameras_cost_something(spoil: Callable[[Cameras], Cameras]) -> None:
    target, mask, cameras = plane()
    assert warp_loss(target, target, mask, spoil(cameras)).item() > 1e-3


def slow_warp_loss(disparity: np.ndarray, true: np.ndarray, mask: np.ndarray, cameras: Cameras) -> float:
    """Write the definition out, point by point, for disparities in 1/m that are aligned already."""

    def bilinear(image: np.ndarray, u: float, v: float) -> float:
        u, v = np.clip(u, 0, WIDTH - 1), np.clip(v, 0, HEIGHT - 1)
        left, top = min(int(u), WIDTH - 2), min(int(v), HEIGHT - 2)
        upper, lower = ((1 - u + left) * row[left] + (u - left) * row[left + 1] for row in image[top : top + 2])
        return (1 - v + top) * upper + (v - top) * lower

    poses, intrinsics = cameras.camera_to_world[0].numpy(), cameras.intrinsics[0].numpy()
    errors = []
    for a, b in [(i, j) for i in range(FRAMES) for j in (i - 1, i + 1) if 0 <= j < FRAMES]:
        to_b = np.linalg.inv(poses[b]) @ poses[a]
        fx, fy, cx, cy = intrinsics[a]
        for v, u in zip(*np.nonzero(mask[a]), strict=True):

            def place(depth_m: float, u: int = u, v: int = v, a: int = a, b: int = b, to_b: np.ndarray = to_b):
                fx, fy, cx, cy = intrinsics[a]
                x, y, z = to_b[:3, :3] @ ((u - cx) / fx * depth_m, (v - cy) / fy * depth_m, depth_m) + to_b[:3, 3]
                ahead = max(z, 1e-3 * depth_m)
                fx, fy, cx, cy = intrinsics[b]
                return x / ahead * fx + cx, y / ahead * fy + cy, z

            true_u, true_v, true_z = place(1 / true[a, v, u])
            if not (true_z > 0 and 0 <= true_u <= WIDTH - 1 and 0 <= true_v <= HEIGHT - 1):
                continue
            if bilinear(mask[b].astype(float), true_u, true_v) <= 1 - 1e-4:
                continue
            if abs(true_z * bilinear(np.where(mask[b], true[b], 1), true_u, true_v) - 1) >= 0.05:
                continue
            new_u, new_v, new_z = place(1 / disparity[a, v, u])
            neighbour_m = 1 / bilinear(disparity[b], new_u, new_v)
            errors.append(abs(new_z - neighbour_m) / max(new_z, neighbour_m))
    return float(np.mean(errors))


@pytest.mark.parametrize("seed", range(3))
def test_it_is_its_definition(seed: int) -> None:
    true, mask, cameras = plane()
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(true.shape, generator=generator) < 0.9
    guess = true * (1 + 0.2 * torch.randn(true.shape, generator=generator, dtype=torch.float64))
    slope, offset = np.polyfit(guess[mask].numpy(), true[mask].numpy(), 1)
    aligned = (slope * guess + offset).clamp(min=1e-3)
    expected = slow_warp_loss(aligned[0].numpy(), true[0].numpy(), mask[0].numpy(), cameras)
    assert expected > 0.01
    assert warp_loss(guess, true.where(mask, torch.nan), mask, cameras).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("case", [plane(), normalised(plane())])
def test_its_gradient_is_that_of_finite_differences(case: Case) -> None:
    target, mask, cameras = case
    generator = torch.Generator().manual_seed(0)
    mask = mask & (torch.rand(mask.shape, generator=generator) < 0.95)
    guess = target * (1 + 0.1 * torch.randn(target.shape, generator=generator, dtype=torch.float64))
    assert torch.autograd.gradcheck(
        lambda values: warp_loss(values, target, mask, cameras), guess.requires_grad_(), eps=1e-7, atol=1e-5
    )


def test_flicker_costs_and_less_flicker_costs_less() -> None:
    target, mask, cameras = plane()
    sign = torch.tensor([1.0, -1.0, 1.0]).view(1, FRAMES, 1, 1)
    costs = [warp_loss(target + size * sign, target, mask, cameras).item() for size in (0, 0.002, 0.01, 0.03)]
    assert costs == sorted(costs)
    assert costs[-1] > 5 * costs[1] > 0


def test_far_from_the_worlds_origin_it_is_the_same() -> None:
    target, mask, cameras = plane(far_m=2000.0)
    cameras = replace(cameras, camera_to_world=cameras.camera_to_world.float())
    assert warp_loss(target, target, mask, cameras).item() < 1e-3


def test_what_moves_is_left_out() -> None:
    """A box that stands nearer in each frame, at one place of the picture, and what it hides."""
    target, mask, cameras = plane()
    target = target.clone()
    target[..., 4:9, 5:11] *= torch.tensor([2.0, 2.5, 3.0], dtype=torch.float64).view(FRAMES, 1, 1)
    assert warp_loss(target, target, mask, cameras).item() < 0.01
    frozen = target.clone()
    frozen[..., 4:9, 5:11] = target[:, :1, 4:9, 5:11]
    still = warp_loss(frozen, target, mask, cameras)
    assert still.isfinite()


@pytest.mark.parametrize("unknown", ["sky", "nan", "all unknown", "all sky"])
def test_sky_and_unknown_pixels_take_no_part(unknown: str) -> None:
    target, mask, cameras = plane()
    target, mask = target.clone(), mask.clone()
    top = ... if "all" in unknown else (..., slice(0, 6), slice(None))
    if "sky" in unknown:
        target[top] = 0
    else:
        target[top], mask[top] = torch.nan, False
    guess = target.nan_to_num(nan=7.0).requires_grad_()
    loss = warp_loss(guess, target, mask, cameras)
    loss.backward()
    assert guess.grad is not None
    assert guess.grad.isfinite().all()
    assert loss.item() < 1e-9


def test_points_behind_the_camera() -> None:
    """The camera passes through what it saw: nothing to compare; and one that is predicted there is drawn back."""
    target, mask, cameras = plane((0.0, 0.0, 1.0), offset_m=1.0)
    poses = cameras.camera_to_world.clone()
    poses[:, :, :3, :3] = torch.eye(3)
    poses[:, :, :3, 3] = torch.tensor([[0, 0, 0], [0, 0, 0.6], [0, 0, 5.0]], dtype=poses.dtype)
    passing = replace(cameras, camera_to_world=poses)
    depth_m = torch.tensor([1.0, 0.4, 30.0], dtype=torch.float64).view(1, FRAMES, 1, 1)
    target = (1 / depth_m).expand(target.shape).clone()
    assert warp_loss(target, target, mask, passing).item() < 1e-9
    guess = target.clone()
    guess[:, 0, 7, 9] = 4.0  # 25 cm away, behind the second camera, which stands at 60 cm
    guess.requires_grad_()
    loss = warp_loss(guess, target, mask, passing)
    loss.backward()
    assert guess.grad is not None
    assert guess.grad.isfinite().all()
    assert guess.grad[0, 0, 7, 9] > 0  # less disparity, farther away


@pytest.mark.parametrize("case", ["no poses", "a single frame"])
def test_without_a_pair_it_is_zero_with_a_graph_and_all_ranks_meet(case: str) -> None:
    target, mask, cameras = plane()
    calls: list[Tensor] = []

    def mean(values: Tensor) -> Tensor:
        calls.append(values)
        return values

    if case == "a single frame":
        target, mask = target[:, :1], mask[:, :1]
    guess = target.clone().requires_grad_()
    loss = warp_loss(guess, target, mask, None if case == "no poses" else cameras, mean)
    loss.backward()
    assert (loss.item(), len(calls)) == (0, 1)
    assert guess.grad is not None
    assert guess.grad.eq(0).all()
    warp_loss(*plane()[:1], *plane(), mean)
    assert (len(calls), calls[0].shape) == (2, calls[1].shape)


def test_halves_of_a_batch_on_two_ranks_are_the_whole() -> None:
    (target, mask, cameras), (other, _, _) = plane(), plane((0.5, 0.1, 1.0))
    mask = mask.clone()
    mask[..., :5] = False
    both = Cameras(
        *(torch.cat([getattr(cameras, name)] * 2) for name in ("intrinsics", "camera_to_world", "disparity_range"))
    )
    generator = torch.Generator().manual_seed(0)
    guess = torch.cat([target, other]) * (1 + 0.1 * torch.rand((2, *target.shape[1:]), generator=generator))
    masks = torch.cat([mask, torch.ones_like(mask)])
    whole = warp_loss(guess, torch.cat([target, other]), masks, both)
    counts: list[Tensor] = []
    for i, truth in enumerate((target, other)):
        warp_loss(guess[i : i + 1], truth, masks[i : i + 1], cameras, lambda value: counts.append(value) or value)
    share = torch.stack(counts).mean()
    parts = [
        warp_loss(guess[i : i + 1], truth, masks[i : i + 1], cameras, lambda _: share)
        for i, truth in enumerate((target, other))
    ]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("flip", [False, True])
def test_cameras_follow_crop_resize_and_flip(flip: bool, write_dataset: Callable[..., Path], tmp_path: Path) -> None:
    """The slanted plane again, stored in centimetres and shown as training shows it."""
    write_dataset(tmp_path / "alpha", lengths=(3,), size=(90, 120))
    [clip] = open_shards(tmp_path).clips(split="train")
    sample = read_window(clip, Window(0, 0, 0, WindowShape(3)))
    intrinsics = np.tile([80.0, 78.0, 55.0, 47.0], (3, 1))
    poses = np.tile(np.eye(4), (3, 1, 1))
    for frame in range(3):
        poses[frame, :3, :3] = turn(0.04 * frame, 0.02 * frame)
        poses[frame, :3, 3] = np.array([5000, -3000, 80]) + np.array([0.15, -0.05, 0.12]) * frame
    fx, fy, cx, cy = intrinsics[0]
    ray = np.stack(np.broadcast_arrays((np.arange(120) - cx) / fx, (np.arange(90)[:, None] - cy) / fy, 1.0), -1)
    normal = np.array([0.5, -0.2, 1.0])
    true = [(ray @ pose[:3, :3].T) @ normal / (5 - normal @ (pose[:3, 3] - poses[0, :3, 3])) for pose in poses]
    depth_m = (1 / np.stack(true)).round(3).astype(np.float32)
    spec = DepthSpec(kind="linear", unit_m=0.001, relative_error=0.0)
    packed = [codec.encode_depth(frame, spec)[0] for frame in depth_m]
    unpacked = [codec.decompress_depth(data, spec, height=90, width=120) for data in packed]
    sample = replace(
        sample,
        depth_bytes=torch.from_numpy(np.stack(unpacked)),
        depth=spec,
        intrinsics=intrinsics,
        camera_to_world=poses,
        disparity_min=float(1 / depth_m.max()),
        disparity_max=float(1 / depth_m.min()),
    )
    view = CropParams(top=7, left=25, crop_height=70, crop_width=84, height=98, width=70, flip=flip)
    batch = make_batch([sample], [view], device=torch.device("cpu"))
    assert batch.camera_to_world is not None

    def found(cameras: Cameras) -> tuple[float, float]:
        counts: list[Tensor] = []
        loss = warp_loss(batch.disparity, batch.disparity, batch.mask, cameras, lambda n: counts.append(n) or n)
        return loss.item(), counts[0].item() / (4 * 98 * 70)

    cameras = Cameras(batch.intrinsics, batch.camera_to_world, batch.disparity_range)
    error, share = found(cameras)
    assert error < 0.004  # the nearest pixel's depth is shown, half a pixel away at most
    assert share > 0.7
    mirror = torch.tensor([-1.0, 1, 1, 1])
    for wrong in (
        replace(cameras, intrinsics=torch.from_numpy(intrinsics[None]).float()),
        replace(cameras, camera_to_world=mirror[:, None] * batch.camera_to_world * mirror),
    ):
        assert found(wrong)[0] > 2 * error or found(wrong)[1] < 0.5 * share
