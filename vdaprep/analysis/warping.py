"""Whether depth, poses, intrinsics and images of frames agree, and what would agree better."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vdaprep.shards.cameras import invert_pose, scale_intrinsics

POINTS = 20_000  # pixels of a view that are warped, about


@dataclass(frozen=True, eq=False)
class View:
    """What a camera saw, and from where."""

    depth_m: Float32[np.ndarray, "h w"]
    """Metres along z; nan unknown, inf sky."""
    intrinsics: Float64[np.ndarray, "4"]
    """fx, fy, cx, cy in pixels."""
    camera_to_world: Float64[np.ndarray, "4 4"]
    """The pose: metres, OpenCV axes."""


@dataclass(frozen=True)
class Fit:
    """How well a view falls onto another."""

    error: float
    """Median relative error of depth; inf where no pixels meet."""
    share: float
    """Share of the known pixels that meet known ones."""


@dataclass(frozen=True, eq=False)
class Warped:
    """Pixels of a view that fall onto known ones of another: from, to, and error of depth."""

    columns: Int64[np.ndarray, " p"]
    """Of the view."""
    rows: Int64[np.ndarray, " p"]
    """Of the view."""
    x: Float64[np.ndarray, " p"]
    """Pixels from the left in the other view; centres are at integers."""
    y: Float64[np.ndarray, " p"]
    """Pixels from the top."""
    error: Float64[np.ndarray, " p"]
    """Relative error of depth."""
    share: float
    """Of the known pixels."""

    @property
    def fit(self) -> Fit:
        """How well the views fit."""
        return Fit(float(np.median(self.error)) if self.error.size else math.inf, self.share)


def warp(view: View, onto: View, *, points: int = POINTS) -> Fit:
    """Warp some `points` pixels of a view onto another, and compare their depth there."""
    return warp_points(view, onto, points=points).fit


@dataclass(frozen=True, eq=False)
class Points:
    """Known pixels of a view: all that is needed of it to warp it onto another."""

    columns: Int64[np.ndarray, " p"]
    """Where they are in the view."""
    rows: Int64[np.ndarray, " p"]
    """Where they are in the view."""
    depth_m: Float64[np.ndarray, " p"]
    """Metres along z."""
    intrinsics: Float64[np.ndarray, "4"]
    """The view's."""
    camera_to_world: Float64[np.ndarray, "4 4"]
    """The view's."""


def points_of(view: View, *, points: int = POINTS) -> Points:
    """Return the known ones of about `points` pixels of a view."""
    rows, columns = _known_pixels(view.depth_m, points)
    depth_m = view.depth_m[rows, columns].astype(np.float64)
    return Points(columns, rows, depth_m, view.intrinsics, view.camera_to_world)


def warp_points(view: View, onto: View, *, points: int = POINTS) -> Warped:
    """Warp about `points` known pixels of a view onto another view."""
    return warp_onto(points_of(view, points=points), onto, points=points)


def warp_onto(pixels: Points, onto: View, *, points: int = POINTS) -> Warped:
    """Warp pixels of a view, taken of `points`, onto another view."""
    fx, fy, cx, cy = pixels.intrinsics
    count = len(pixels.depth_m)
    rays = np.stack([(pixels.columns - cx) / fx, (pixels.rows - cy) / fy, np.ones(count)])
    motion = invert_pose(onto.camera_to_world) @ pixels.camera_to_world
    seen = motion[:3, :3] @ (rays * pixels.depth_m) + motion[:3, 3:]
    ahead = np.flatnonzero(seen[2] > 1e-6)
    x, y, z = seen[:, ahead]
    fx, fy, cx, cy = onto.intrinsics
    x, y = x / z * fx + cx, y / z * fy + cy
    sample = _sample_nearest if is_sparse(onto.depth_m, points=points) else _sample
    there_m = sample(onto.depth_m, x, y)
    met = np.isfinite(there_m)
    kept = ahead[met]
    error = np.abs(z[met] / there_m[met] - 1)
    share = met.sum() / count if met.any() else 0.0
    return Warped(pixels.columns[kept], pixels.rows[kept], x[met], y[met], error, float(share))


def _known_pixels(
    depth_m: Float32[np.ndarray, "h w"], points: int
) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]:
    """Return rows and columns of about `points` pixels that are known, or of those of a grid."""
    height, width = depth_m.shape
    if is_sparse(depth_m, points=points):
        rows, columns = np.nonzero(np.isfinite(depth_m))
        step = max(1, len(rows) // points)
        return rows[::step], columns[::step]
    step = max(1, math.isqrt(height * width // points))
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    known = np.isfinite(depth_m[rows, columns])
    return rows[known], columns[known]


def is_sparse(depth_m: Float32[np.ndarray, "h w"], *, points: int = POINTS) -> bool:
    """Tell whether most known pixels have unknown neighbours, as where a laser measured them.

    Between such pixels nothing can be interpolated.
    """
    height, width = depth_m.shape
    step = max(1, math.isqrt(height * width // points))
    rows, columns = np.mgrid[step // 2 : height - 1 : step, step // 2 : width - 1 : step].reshape(2, -1)
    known = np.isfinite(depth_m[rows, columns])
    rows, columns = rows[known], columns[known]
    surrounded = np.isfinite(depth_m[rows + 1, columns]) & np.isfinite(depth_m[rows, columns + 1])
    return 2 * int(surrounded.sum()) < len(rows)


def _sample_nearest(
    depth_m: Float32[np.ndarray, "h w"], x: Float64[np.ndarray, " p"], y: Float64[np.ndarray, " p"]
) -> Float64[np.ndarray, " p"]:
    """Return the metres of the nearest pixels; nan outside and where that is unknown."""
    height, width = depth_m.shape
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    column, row = (np.rint(np.where(inside, place, 0)).astype(np.intp) for place in (x, y))
    found = np.where(inside, depth_m[row, column].astype(np.float64), np.nan)
    return np.where(np.isfinite(found), found, np.nan)


def _sample(
    depth_m: Float32[np.ndarray, "h w"], x: Float64[np.ndarray, " p"], y: Float64[np.ndarray, " p"]
) -> Float64[np.ndarray, " p"]:
    """Interpolate disparity between pixels, return metres; nan outside and near unknown."""
    height, width = depth_m.shape
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    column = np.where(inside, x, 0).astype(np.intp).clip(0, width - 2)
    row = np.where(inside, y, 0).astype(np.intp).clip(0, height - 2)
    right, down = np.where(inside, x, 0) - column, np.where(inside, y, 0) - row
    disparity = np.where(inside, 0, np.nan)
    for r, by_row in ((row, 1 - down), (row + 1, down)):
        for c, by_column in ((column, 1 - right), (column + 1, right)):
            metres = depth_m[r, c].astype(np.float64)
            disparity += by_row * by_column / np.where(np.isfinite(metres), metres, np.nan)
    return 1 / disparity


# ---------------------------------------------------------------------------------------------------------- hypotheses


_DISAGREE = 0.05  # a median error between neighbours that no good data has
_UNDECIDED = 0.005  # a median error, some frames apart, that leaves nothing to explain
_BETTER = 0.5  # another hypothesis fits clearly better with at most this share of the error
_BY_CHANCE = 5.0  # disparity is tried with a scale of its own, and one of so many fits tolerably: it has to fit better
_AS_GIVEN = "as given"
_AS_DISPARITY = "depth looks like disparity"
_FOCAL_SCALES = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2.0, 3.0, 4.0)
_WIDTH_SCALES = (810 / 1920, 1620 / 1920, 960 / 810, 1920 / 1620, 1920 / 810, 3 / 4, 4 / 3)  # MVS-Synth's copies too
_RAW_WIDTHS = (640, 1024, 1242, 1280, 1920)
_UNITS = (1e-3, 1e-2, 0.1, 0.2, 0.256, 0.3048, 1 / 0.3048, 5.0, 10.0, 100.0, 1000.0)  # also of TUM's and KITTI's PNGs
_DISPARITIES: list[float] = np.geomspace(0.1, 3000, 31).tolist()  # metres that 1 is: in 1/m, of the nearest, in pixels
_FAR_DISAGREE = 0.3  # a median error some frames apart that no good data has, not even among leaves
_STILL = "as if the camera only turned"
_LOOKING_BACK = np.diag([1.0, -1.0, -1.0, 1.0])  # axes of OpenGL's cameras: y up, z backward

Hypothesis = Callable[[View], View]
"""What the view of a camera would be if something were other than it is given."""


def hypotheses(width: int) -> dict[str, Hypothesis]:
    """Say what may be wrong with views `width` pixels wide.

    The keys begin a sentence that ends in "clearly better".
    """
    scales = {*_FOCAL_SCALES, *(width / raw for raw in _RAW_WIDTHS)}
    return {
        "the poses look like world-to-camera: inverted, they fit": _inverted,
        "the poses look like OpenGL's: with their y and z axes turned, they fit": _looking_ahead,
        **{
            f"the intrinsics look unscaled: times {scale:.4g}, they fit": _scaled(scale)
            for scale in sorted(scales)
            if abs(math.log(scale)) > 0.1
        },
        **{
            f"the focal lengths look like those of another image size: times {scale:.4g}, they fit": _zoomed(
                scale, scale
            )
            for scale in _FOCAL_SCALES
        },
        **{
            f"f_x looks like that of another image size: times {scale:.4g}, it fits": _zoomed(scale, 1.0)
            for scale in _WIDTH_SCALES
        },
        **{
            f"depth and poses look to be in different units: depth times {unit:.4g}, they fit": _in_unit(unit)
            for unit in _UNITS
        },
        "depth looks like the distance from the camera's centre: made depth along z, it fits": _along_z,
        "images and depth look mirrored: turned back left to right, they fit": _mirrored(columns=True, rows=False),
        "images and depth look upside down: mirrored top to bottom, they fit": _mirrored(columns=False, rows=True),
        "images and depth look upside down: turned by 180 degrees, they fit": _mirrored(columns=True, rows=True),
        **{f"{_AS_DISPARITY}: {scale:.3g} divided by it fits": _of_disparity(scale) for scale in _DISPARITIES},
    }


def _inverted(view: View) -> View:
    return replace(view, camera_to_world=invert_pose(view.camera_to_world))


def _looking_ahead(view: View) -> View:
    return replace(view, camera_to_world=view.camera_to_world @ _LOOKING_BACK)


def _scaled(scale: float) -> Hypothesis:
    return lambda view: replace(view, intrinsics=scale_intrinsics(view.intrinsics, x=scale, y=scale))


def _zoomed(x: float, y: float) -> Hypothesis:
    return lambda view: replace(view, intrinsics=view.intrinsics * [x, y, 1, 1])


def _along_z(view: View) -> View:
    height, width = view.depth_m.shape
    fx, fy, cx, cy = view.intrinsics
    rows, columns = np.ogrid[:height, :width]
    lengths = np.sqrt(1 + np.square((columns - cx) / fx) + np.square((rows - cy) / fy))
    return replace(view, depth_m=(view.depth_m / lengths).astype(np.float32))


def _standing(view: View) -> View:
    return replace(view, camera_to_world=np.block([[view.camera_to_world[:3, :3], np.zeros((3, 1))], [0, 0, 0, 1]]))


def _in_unit(unit: float) -> Hypothesis:
    return lambda view: replace(view, depth_m=view.depth_m * np.float32(unit))


def _mirrored(*, columns: bool, rows: bool) -> Hypothesis:
    def change(view: View) -> View:
        height, width = view.depth_m.shape
        fx, fy, cx, cy = view.intrinsics
        intrinsics = np.array([fx, fy, width - 1 - cx if columns else cx, height - 1 - cy if rows else cy])
        depth_m = view.depth_m[:: -1 if rows else 1, :: -1 if columns else 1]
        return replace(view, depth_m=depth_m, intrinsics=intrinsics)

    return change


def _of_disparity(scale: float) -> Hypothesis:
    def change(view: View) -> View:
        known = np.isfinite(view.depth_m)
        return replace(view, depth_m=np.divide(np.float32(scale), view.depth_m, out=view.depth_m.copy(), where=known))

    return change


class Agreement:
    """Gathers how well pairs of views fit: neighbours, and views some frames apart.

    Of the latter, `width` pixels wide, others hypotheses are tried where they do not fit as they are given.
    """

    def __init__(self, width: int, *, points: int = POINTS) -> None:
        self._hypotheses = hypotheses(width)
        self._points = points
        self._near: list[Fit] = []
        self._given: list[Fit] = []
        self._others: list[dict[str, Fit]] = []

    def add_neighbours(self, before: Points, after: View) -> None:
        """Measure a view and the one before it."""
        self._near.append(warp_onto(before, after, points=self._points).fit)

    def add_distant(self, first: View, last: View, *, others: Mapping[str, tuple[View, View]] | None = None) -> None:
        """Measure two views between which the camera moved; `others`: hypotheses, as views."""
        given = warp(first, last, points=self._points)
        self._given.append(given)
        if given.error > _UNDECIDED:
            tried = {
                name: warp(change(first), change(last), points=self._points)
                for name, change in {_STILL: _standing, **self._hypotheses}.items()
            }
            more = {name: warp(*pair, points=self._points) for name, pair in (others or {}).items()}
            self._others.append({_AS_GIVEN: given, **tried, **more})

    @property
    def has_distant(self) -> bool:
        """Whether any views were some frames apart."""
        return bool(self._given)

    @property
    def neighbours(self) -> Fit | None:
        """Medians over neighbours; None without any."""
        return median_fit(self._near) if self._near else None

    def misfits(self) -> Iterator[str]:
        """Say what does not fit, and what would fit clearly better."""
        if not self._near:
            return
        error = median_fit(self._near).error
        given = median_fit(self._given) if self._given else Fit(0.0, 0.0)
        better = self._better() if given.error > _UNDECIDED else None
        if better is not None:
            yield better
        elif error > _DISAGREE or _FAR_DISAGREE < given.error < math.inf:
            off, apart = (error, "frame to frame") if error > _DISAGREE else (given.error, "some frames on")
            bound = _DISAGREE if error > _DISAGREE else _FAR_DISAGREE
            yield f"depth, poses and intrinsics do not agree: {_off(off)} {apart}, expected under {bound:.0%}"

    def _better(self) -> str | None:
        """Return the hypothesis that fits clearly better than the given one and than turning.

        The latter fits tolerably where motion is small, and so does all that makes motion small beside depth.
        """
        names = {name for fits in self._others for name in fits}
        fits = {name: median_fit([fits[name] for fits in self._others if name in fits]) for name in sorted(names)}
        given, still = fits[_AS_GIVEN], fits.pop(_STILL)
        errors = {
            name: fit.error * (_BY_CHANCE if name.startswith(_AS_DISPARITY) else 1)
            for name, fit in fits.items()
            if fit.share >= given.share / 2
        }
        best = min(errors, key=lambda name: errors[name])
        if best == _AS_GIVEN or errors[best] > min(_BETTER * given.error, _BETTER * still.error, _DISAGREE):
            return None
        return f"{best} clearly better ({_off(fits[best].error)} instead of {_off(given.error)})"


def frames_away(offset: int) -> str:
    """Say how many frames earlier or later something is."""
    count = "a frame" if abs(offset) == 1 else f"{abs(offset)} frames"
    return f"{count} {'earlier' if offset < 0 else 'later'}"


def _off(error: float) -> str:
    return "nowhere near" if error == math.inf else f"{error:.2%} off"


def median_fit(fits: Sequence[Fit]) -> Fit:
    """Return the median error and the median share."""
    return Fit(float(np.median([fit.error for fit in fits])), float(np.median([fit.share for fit in fits])))


def fits_of(pairs: Sequence[tuple[View, View]], candidates: Mapping[str, Hypothesis]) -> dict[str, Fit]:
    """Return how pairs of views fit, as medians, under hypotheses, as other intrinsics."""
    return {
        name: median_fit([warp(change(first), change(last)) for first, last in pairs])
        for name, change in candidates.items()
    }
