"""What a study of several variants and seeds found.

results      the figures, differences, costs and verdicts of a study, and `study.json`
statistics   paired differences over seeds and scenes, with intervals
"""
