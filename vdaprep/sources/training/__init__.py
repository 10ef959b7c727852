"""Data sets to train on.

tartanair, vkitti, mvs_synth   rendered
custom                         anyone's own RGB-D videos
"""
