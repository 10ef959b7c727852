"""Data sets that are only measured on.

scannet   rooms, by depth cameras
sintel    rendered
"""
