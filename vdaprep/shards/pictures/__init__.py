"""Frames and depth as pictures.

header         what a photograph says of itself: size, orientation, focal length
depth_colors  depth as colours, with a legend
stress        frames disturbed: flicker, flashes, noise, rain
"""
