"""TartanGround: TartanAir v2's files, of robots on the ground, in `ENV/Data_omni/P0000`.

Of its cameras `lcam_front` is read. Sky is what is farther than 1000 m, as in TartanAir; its labels are not needed.
"""

from vdaprep.raw.frames import SourceOptions
from vdaprep.raw.tree import Tree
from vdaprep.sources._slots import Found
from vdaprep.sources.training.tartanair import GROUND, find_in, read_cameras, read_depth, read_rgb

__all__ = ["EXPECTED", "find_trajectories", "read_cameras", "read_depth", "read_rgb"]

EXPECTED = (
    "ENV/Data_{omni,diff,anymal}/P0000/{image_lcam_front/000000_lcam_front.png,depth_lcam_front/"
    "000000_lcam_front_depth.png,pose_lcam_front.txt}, in folders or in zip files"
)


def find_trajectories(tree: Tree, options: SourceOptions) -> Found:
    """List trajectories `ENV/Data_omni/P0000`, wherever they begin, with all their frames."""
    return find_in(tree, GROUND)
