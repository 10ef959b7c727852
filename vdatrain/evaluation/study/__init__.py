"""What a study of several variants and seeds found.

results      the figures, differences, costs and verdicts of a study, and `study.json`
collect      figures and differences from the folders of runs
statistics   paired differences over seeds and scenes, with intervals
verdicts     what intervals say, as sentences
tables       all of it as Markdown and CSV
"""
