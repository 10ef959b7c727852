"""Rendered scenes in the raw layouts of real data sets.

`scene` draws a scene of solids from a seed, `world` has its types and motion, `textures` its colours, `render` makes
frames with exact depth; `layouts` has a writer for each data set, `sample` writes a whole sample by it.
"""
