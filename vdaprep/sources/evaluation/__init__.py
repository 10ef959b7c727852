"""Data sets that are only measured on.

bonn, nyuv2, scannet, seven_scenes, tum   rooms, by depth cameras
kitti                                     streets, by a laser: sparse
sintel                                    rendered
_oxts                                     poses of kitti
"""
