"""Frames and depth as pictures.

depth_colors  depth as colours, with a legend
"""
