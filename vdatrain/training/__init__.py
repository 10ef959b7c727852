"""Training: the loop, and what it is made of.

trainer      train(config, out=...) and the loop
callbacks    what is called while it runs
state        the state of a run: begun, resumed, copied for a checkpoint
step         a step of the optimiser
optim        parameter groups, schedule, averaged weights
monitor      step statistics
selection    which weights are the best, and none forgotten
mixture      frames shown of each data set, against the mix
checkpoint   what a checkpoint holds; written in the background
trackers     TensorBoard and W&B
planning     what a step takes, what fits
study        the runs of a study
recipes      trainings by name, with the numbers to expect
"""
