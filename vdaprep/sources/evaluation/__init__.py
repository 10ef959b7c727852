"""Data sets that are only measured on.

bonn, nyuv2, scannet, tum   rooms, by depth cameras
sintel                      rendered
"""
