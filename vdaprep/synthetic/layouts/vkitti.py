"""Rendered frames as Virtual KITTI 2.0.3 has them, in its weathers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, UInt16

from vdaprep.raw.frames import Frame, RgbImage
from vdaprep.raw.png import encode_png16
from vdaprep.shards import codec
from vdaprep.sources import _manifest
from vdaprep.sources.training.vkitti import SKY_CM, TEXT_ARCHIVES, V2

CAMERAS_M = (0.0, 0.532725)


@dataclass(frozen=True)
class _Look:
    """A variant's weather: colours times `tint`, behind a veil of grey that thickens with depth."""

    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    veil_per_m: float = 0.0


_SCENES = ("Scene02", "Scene01", "Scene06", "Scene18", "Scene20")
_LOOKS = {
    "clone": _Look(),
    "fog": _Look(veil_per_m=0.04),
    "morning": _Look(tint=(1.05, 0.95, 0.8)),
    "overcast": _Look(tint=(0.8, 0.8, 0.85)),
    "rain": _Look(tint=(0.65, 0.7, 0.8), veil_per_m=0.01),
    "sunset": _Look(tint=(1.1, 0.75, 0.55)),
}
_ANGLES = ("15-deg-left", "15-deg-right", "30-deg-left", "30-deg-right")
MAX_TRAJECTORIES = len(_SCENES) * (len(_LOOKS) + len(_ANGLES))
_VEIL_GREY = 170.0
_TABLE_HEADERS = {
    "intrinsic": "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]",
    "extrinsic": "frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1",
}


def trajectory_names(count: int, *, held_out: Sequence[str]) -> list[str]:
    """Name `count` trajectories, two variants a scene; the last quarter is `held_out`.

    Angles come where the weathers do not suffice.
    """
    looks = list(_LOOKS)
    if count > len(_SCENES) * len(looks):
        looks += _ANGLES
    pairs = [looks[i : i + 2] for i in range(0, len(looks), 2)]
    names = [f"{scene}/{variant}" for pair in pairs for scene in _SCENES for variant in pair]
    held = [name for name in names if _manifest.matches(name, tuple(held_out))]
    training = [name for name in names if name not in held]
    of_held = min(len(held), max(count // 4, 1 if count > 1 else 0, count - len(training)))
    return training[: count - of_held] + held[:of_held]


def scene_name(trajectory: str) -> str:
    """The weathers of a scene show the same world.

    An angle, which is another path, shows one of its own.
    """
    scene, variant = trajectory.split("/")
    return scene if variant in _LOOKS else trajectory


def intrinsics(*, width: int, height: int) -> Float64[np.ndarray, "4"]:
    """Return a centred camera with Virtual KITTI's horizontal field of view."""
    known = _manifest.load("vkitti").version(V2)
    focal_px = known["intrinsics"][0] * width / known["size"][0]
    return np.array([focal_px, focal_px, (width - 1) / 2, (height - 1) / 2])


def in_weather(trajectory: str, frame: Frame) -> Frame:
    """Return a frame in the trajectory's weather."""
    look = _LOOKS.get(trajectory.split("/")[1], _Look())
    depth_m = np.nan_to_num(frame.depth_m, nan=0.0, posinf=1000.0)[..., None]
    clear = np.exp(np.float32(-look.veil_per_m) * depth_m)
    colours = _VEIL_GREY + (frame.rgb.pixels * np.array(look.tint) - _VEIL_GREY) * clear
    return replace(frame, rgb=RgbImage(np.rint(colours).clip(0, 255).astype(np.uint8)))


def encode_files(trajectory: str, shots: Iterable[tuple[Frame, ...]]) -> Iterator[tuple[str, bytes]]:
    """Write frames as Virtual KITTI 2.0.3, with all cameras."""
    lines = {kind: [header] for kind, header in _TABLE_HEADERS.items()}
    for index, shot in enumerate(shots):
        for camera, frame in enumerate(shot):
            yield (
                f"{trajectory}/frames/rgb/Camera_{camera}/rgb_{index:05d}.jpg",
                codec.encode_rgb(frame.rgb.pixels, quality=95),
            )
            yield (
                f"{trajectory}/frames/depth/Camera_{camera}/depth_{index:05d}.png",
                encode_png16(_centimetres(frame.depth_m)),
            )
            assert frame.camera_to_world is not None  # rendered frames have poses
            rows = {"intrinsic": frame.intrinsics, "extrinsic": np.linalg.inv(frame.camera_to_world).ravel()}
            for kind, row in rows.items():
                lines[kind].append(" ".join([f"{index} {camera}", *(f"{number:.17g}" for number in row.tolist())]))
    for kind, text in lines.items():
        yield f"{trajectory}/{kind}.txt", ("\n".join(text) + "\n").encode("ascii")


def _centimetres(depth_m: Float32[np.ndarray, "h w"]) -> UInt16[np.ndarray, "h w"]:
    known_m = np.where(np.isnan(depth_m), 0, depth_m).astype(np.float64)
    return np.rint(np.minimum(known_m * 100, SKY_CM)).astype(np.uint16)


def archives_of(path: str) -> list[str]:
    """Name the archive that holds a file: those of images, depth maps and text tables."""
    kinds = [kind for kind in ("rgb", "depth") if f"/{kind}/" in path]
    return [f"vkitti_2.0.3_{kinds[0]}.tar" if kinds else TEXT_ARCHIVES[V2]]
