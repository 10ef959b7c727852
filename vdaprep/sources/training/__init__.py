"""Data sets to train on.

tartanair, vkitti, mvs_synth   rendered
tartanground                   as tartanair, of robots on the ground
spring                         rendered, from an animated film
custom                         anyone's own RGB-D videos
"""
