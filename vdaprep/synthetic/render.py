"""A scene to pixels: a ray a pixel, tried on the solids whose rectangle covers it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from vdaprep.synthetic.textures import texture_colours
from vdaprep.synthetic.world import Scene, pose_solids

SKY = -1
_NEAR_M = 0.05  # corners nearer than this have no pixel
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
_SKYLIGHT, _SUNLIGHT = 0.5, 0.6

Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy in pixels, pixel centres at integers


@dataclass(frozen=True, eq=False)
class RenderedFrame:
    """What a camera sees."""

    rgb: UInt8[np.ndarray, "h w 3"]
    """RGB, 8 bits."""
    depth_m: Float32[np.ndarray, "h w"]
    """Metres along z; inf sky."""
    solid: Int64[np.ndarray, "h w"]
    """Index in `Scene.solids` of what each pixel shows; SKY: none."""
    camera_to_world: Float64[np.ndarray, "4 4"]
    """The pose: metres, OpenCV axes."""
    intrinsics: Intrinsics
    """fx, fy, cx, cy in pixels."""


@dataclass(frozen=True, eq=False)
class _View:
    """The camera as the solids meet it, each in its own axes.

    The ray of pixel (u, v) is `origin_m + depth * (rays @ (u, v, 1))`; its parameter is planar depth. A solid lies
    inside the pixels left, top, right, bottom of its `bounds`, right and bottom excluded, no nearer than `nearest_m`.
    """

    origin_m: Float64[np.ndarray, "n 3"]
    rays: Float64[np.ndarray, "n 3 3"]
    half_m: Float64[np.ndarray, "n 3"]
    is_ball: Bool[np.ndarray, " n"]
    sun: Float32[np.ndarray, "3 n"]
    bounds: Int64[np.ndarray, "n 4"]
    nearest_m: Float64[np.ndarray, " n"]


def render_frame(
    scene: Scene, *, frame: int, width: int, height: int, intrinsics: Intrinsics, right_m: float = 0.0
) -> RenderedFrame:
    """Render one frame; `right_m` moves the camera to its right, for a stereo pair."""
    pose = scene.path.camera_to_world(frame=frame, right_m=right_m)
    view = _look(scene, frame=frame, pose=pose, intrinsics=intrinsics, size=(width, height))
    depth_m, solid = _trace(view, size=(width, height))
    rgb = _paint_sky(scene, pose=pose, intrinsics=intrinsics, size=(width, height))
    seen = np.flatnonzero(solid != SKY)
    haze = rgb[:, seen]
    colour = _paint_solids(scene, view, pixels=seen, depth_m=depth_m, solid=solid, focal_px=intrinsics[0])
    rgb[:, seen] = haze + (colour - haze) * np.exp(depth_m.ravel()[seen] / np.float32(-scene.haze_m))
    codes = np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)
    return RenderedFrame(
        rgb=np.ascontiguousarray(codes.T).reshape(height, width, 3),
        depth_m=depth_m,
        solid=solid,
        camera_to_world=pose,
        intrinsics=intrinsics,
    )


# ------------------------------------------------------------------------------------------------------------ geometry


def _look(
    scene: Scene, *, frame: int, pose: Float64[np.ndarray, "4 4"], intrinsics: Intrinsics, size: tuple[int, int]
) -> _View:
    centre_m, to_world = pose_solids(scene.solids, frame=frame)
    half_m = np.array([solid.half_m for solid in scene.solids])
    to_solid = np.swapaxes(to_world, 1, 2)
    corners_m = (centre_m[:, None] + (_CORNERS * half_m[:, None]) @ to_solid - pose[:3, 3]) @ pose[:3, :3]
    return _View(
        origin_m=(to_solid @ (pose[:3, 3] - centre_m)[..., None])[..., 0],
        rays=to_solid @ _pixel_rays(pose, intrinsics),
        half_m=half_m,
        is_ball=np.array([solid.is_ball for solid in scene.solids]),
        sun=(to_solid @ np.array(scene.sun)).T.astype(np.float32),
        bounds=_bounds(corners_m, intrinsics=intrinsics, size=size),
        nearest_m=corners_m[..., 2].min(axis=1),
    )


def _pixel_rays(pose: Float64[np.ndarray, "4 4"], intrinsics: Intrinsics) -> Float64[np.ndarray, "3 3"]:
    """Return the matrix from (u, v, 1) to the pixel's ray in the world, one metre along z."""
    fx, fy, cx, cy = intrinsics
    return pose[:3, :3] @ np.array([(1 / fx, 0, -cx / fx), (0, 1 / fy, -cy / fy), (0, 0, 1)])


def _bounds(
    corners_m: Float64[np.ndarray, "n 8 3"], *, intrinsics: Intrinsics, size: tuple[int, int]
) -> Int64[np.ndarray, "n 4"]:
    """Return the rectangles of what lies in front of the camera, given the corners in its axes.

    A solid that reaches beside the camera, or behind it, may be anywhere in the picture.
    """
    depth = corners_m[..., 2:]
    pixel = corners_m[..., :2] / np.maximum(depth, _NEAR_M) * intrinsics[:2] + intrinsics[2:]
    pixels = np.concatenate([np.ceil(pixel.min(axis=1)), np.floor(pixel.max(axis=1)) + 1], axis=1)
    near, far = depth.min(axis=(1, 2)) < _NEAR_M, depth.max(axis=(1, 2)) < _NEAR_M
    pixels[near] = (0, 0, *size)
    pixels[far] = 0
    return np.clip(pixels, 0, (*size, *size)).astype(np.int64)


def _trace(view: _View, *, size: tuple[int, int]) -> tuple[Float32[np.ndarray, "h w"], Int64[np.ndarray, "h w"]]:
    """Return the depth (inf: sky) and the index of the nearest solid (SKY: none)."""
    width, height = size
    depth_m = np.full((height, width), np.inf, dtype=np.float32)
    solid = np.full((height, width), SKY)
    order = np.argsort(view.nearest_m, kind="stable")
    for index in order.tolist():
        left, top, right, bottom = view.bounds[index].tolist()
        window = slice(top, bottom), slice(left, right)
        # Nothing of it is in the picture, or the nearer solids, which came first, hide it all.
        if left >= right or top >= bottom or depth_m[window].max() <= view.nearest_m[index]:
            continue
        enter = _enter_ball if view.is_ball[index] else _enter_box
        origin, rays = view.origin_m[index] / view.half_m[index], view.rays[index] / view.half_m[index][:, None]
        found_m = enter(origin, rays, bounds=(left, top, right, bottom))
        nearer = (found_m < depth_m[window]) & (found_m > 0)
        np.copyto(depth_m[window], found_m, where=nearer)
        np.copyto(solid[window], index, where=nearer)
    return depth_m, solid


def _enter_box(
    origin: Float64[np.ndarray, "3"],
    rays: Float64[np.ndarray, "3 3"],
    *,
    bounds: tuple[int, int, int, int],
) -> Float32[np.ndarray, "h w"]:
    """Return the depth where rays enter the cube from -1 to 1 (inf: nowhere), by slabs."""
    u, v = np.arange(bounds[0], bounds[2]), np.arange(bounds[1], bounds[3])
    enter: Float32[np.ndarray, "h w"] = np.full((len(v), len(u)), -np.inf, dtype=np.float32)
    leave = -enter
    # Along a slab the ends are infinite: of unlike signs inside it, alike outside, nan (a miss) exactly on its face.
    with np.errstate(divide="ignore", invalid="ignore"):
        for axis in range(3):
            across, down, start = rays[axis]
            inverse = 1 / ((across * u).astype(np.float32) + (down * v + start).astype(np.float32)[:, None])
            low = inverse * np.float32(-1 - origin[axis])
            high = inverse * np.float32(1 - origin[axis])
            np.maximum(enter, np.minimum(low, high), out=enter)
            np.minimum(leave, np.maximum(low, high), out=leave)
        enter[~(enter <= leave)] = np.inf
    return enter


def _enter_ball(
    origin: Float64[np.ndarray, "3"],
    rays: Float64[np.ndarray, "3 3"],
    *,
    bounds: tuple[int, int, int, int],
) -> Float32[np.ndarray, "h w"]:
    """Return where rays enter the unit ball (inf: nowhere), in double for precision."""
    u, v = np.arange(bounds[0], bounds[2]), np.arange(bounds[1], bounds[3])
    direction = rays[:, 0, None, None] * u + (rays[:, 1, None] * v + rays[:, 2, None])[..., None]
    square = (direction * direction).sum(axis=0)
    toward = -np.tensordot(origin, direction, axes=1)
    spread = toward * toward - square * (origin @ origin - 1)
    return np.where(spread >= 0, (toward - np.sqrt(np.maximum(spread, 0))) / square, np.inf).astype(np.float32)


# -------------------------------------------------------------------------------------------------------------- colour


def _paint_sky(
    scene: Scene, *, pose: Float64[np.ndarray, "4 4"], intrinsics: Intrinsics, size: tuple[int, int]
) -> Float32[np.ndarray, "3 pixels"]:
    """Return the sky's gradient behind all pixels; it is the haze in front of solids, too."""
    u, v = (np.arange(count, dtype=np.float32) for count in size)
    rays = _pixel_rays(pose, intrinsics).astype(np.float32)
    ray = rays[:, 0, None, None] * u + (rays[:, 1, None] * v + rays[:, 2, None])[..., None]
    ray = ray.reshape(3, -1) / np.sqrt((ray * ray).sum(axis=0)).ravel()
    zenith, horizon = (np.array(colour, dtype=np.float32)[:, None] for colour in (scene.zenith, scene.horizon))
    glow = np.maximum(np.array(scene.sun, dtype=np.float32) @ ray, 0) ** 24
    return horizon + (zenith - horizon) * np.sqrt(np.clip(-ray[1], 0, 1)) + np.float32(0.25) * glow


def _paint_solids(
    scene: Scene,
    view: _View,
    *,
    pixels: Int64[np.ndarray, " p"],
    depth_m: Float32[np.ndarray, "h w"],
    solid: Int64[np.ndarray, "h w"],
    focal_px: float,
) -> Float32[np.ndarray, "3 p"]:
    """Return the lit colours of the pixels (flat indices) that show a solid."""
    which, depth = solid.ravel()[pixels], depth_m.ravel()[pixels]
    row, column = np.divmod(pixels, solid.shape[1])
    rays = view.rays.transpose(2, 1, 0).astype(np.float32)
    ray = np.take(rays[0], which, axis=1) * column.astype(np.float32)
    ray += np.take(rays[1], which, axis=1) * row.astype(np.float32)
    ray += np.take(rays[2], which, axis=1)
    place = np.take(view.origin_m.T.astype(np.float32), which, axis=1) + ray * depth
    normal, face = _normals(view, place=place, which=which)
    facing = np.abs((normal * ray).sum(axis=0)) / np.sqrt((ray * ray).sum(axis=0))
    lambert = np.maximum((normal * np.take(view.sun, which, axis=1)).sum(axis=0), 0)
    across_down = np.where(face == np.array([[0], [1]]), place[2], place[:2])
    # A slanted pixel is long and narrow; the geometric mean is neither all blur nor all flicker.
    footprint_m = depth / (np.float32(focal_px) * np.sqrt(np.maximum(facing, 0.02)))
    colour = texture_colours([one.texture for one in scene.solids], which, across_down, footprint_m)
    return colour * (np.float32(_SKYLIGHT) + np.float32(_SUNLIGHT) * lambert)


def _normals(
    view: _View, *, place: Float32[np.ndarray, "3 p"], which: Int64[np.ndarray, " p"]
) -> tuple[Float32[np.ndarray, "3 p"], Int64[np.ndarray, " p"]]:
    """Return normals at points of solids, in their axes, and the axis each is nearest to."""
    slope = place * np.take(1 / view.half_m.T.astype(np.float32), which, axis=1)
    steep = np.abs(slope)
    face = np.where(steep[0] > steep[1], np.where(steep[0] > steep[2], 0, 2), np.where(steep[1] > steep[2], 1, 2))
    normal = np.where(face == np.arange(3)[:, None], np.sign(slope), np.float32(0))
    round_ = np.flatnonzero(view.is_ball[which])
    gradient = slope[:, round_] / view.half_m.T.astype(np.float32)[:, which[round_]]
    normal[:, round_] = gradient / np.sqrt((gradient * gradient).sum(axis=0))
    return normal, face
