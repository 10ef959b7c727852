"""Data sets that are only measured on.

nyuv2, scannet   rooms, by depth cameras
sintel           rendered
"""
