"""Metrics of a model on held-out clips, and finished runs compared.

evaluate   windows of a split: metrics, losses, pictures
windows    figures of each window, as lines
long       whole trajectories
figures    pictures of predictions and their errors
files      evaluations as files, written and read
compare    tables of finished runs
report     a comparison as an HTML page
benchmark  published benchmarks, by their protocols
study      what a study of variants and seeds found
"""
