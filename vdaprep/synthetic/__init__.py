"""Rendered scenes in the raw layouts of real data sets.

scene     solids and a camera's path, drawn from a seed
world     their types and motion
textures  their colours
render    frames with exact depth
layouts   one writer for each data set
sample    a whole sample, written by a layout
"""
