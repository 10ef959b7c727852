"""The mathematics of training and evaluation.

alignment     least-squares scale and shift
losses        the training loss of relative disparity
metric        that of depth in metres
distillation  that of single images, which a teacher may have labelled
warping       a term of it: frames warped into their neighbours
metrics       absrel, delta1, rmse and temporal alignment error
"""
