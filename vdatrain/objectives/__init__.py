"""The mathematics of training and evaluation.

alignment   least-squares scale and shift
losses      the training loss
metrics     absrel, delta1, rmse and temporal alignment error
"""
