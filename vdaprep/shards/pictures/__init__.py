"""Frames and depth as pictures.

depth_colors  depth as colours, with a legend
stress        frames disturbed: flicker, flashes, noise, rain
"""
