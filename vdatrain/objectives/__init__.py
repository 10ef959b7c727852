"""The mathematics of training and evaluation.

alignment   least-squares scale and shift
losses      the training loss
warping     a term of it: frames warped into their neighbours
metrics     absrel, delta1, rmse and temporal alignment error
"""
