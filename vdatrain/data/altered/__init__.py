"""Samples that are shown otherwise than they are stored.

differences  other differences than a window's own, for ablations and controls
stress       samples with disturbed images
"""
