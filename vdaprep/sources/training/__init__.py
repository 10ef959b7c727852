"""Data sets to train on.

tartanair, vkitti, mvs_synth   rendered
pointodyssey                   rendered, people and animals that move as recorded ones do
tartanground                   as tartanair, of robots on the ground
spring                         rendered, from an animated film
irs                            rendered, rooms, without poses
dynamic_replica                people and animals in scanned rooms
custom                         anyone's own RGB-D videos
images                         anyone's own photographs, with a teacher's disparity or none
"""
