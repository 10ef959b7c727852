"""The runs of a study: arms, what is left to do, processes that do it.

arms     what is compared: a variant with options
plan     runs done and to be done, their memory and hours
runner   processes that train, a run each
worker   such a process
summary  results from what is done
cost     what an arm takes beside accuracy
"""
