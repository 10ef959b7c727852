"""Data sets to train on.

tartanair, vkitti, mvs_synth   rendered
spring                         rendered, from an animated film
custom                         anyone's own RGB-D videos
"""
