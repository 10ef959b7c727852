"""Independent tasks on processes of this machine or of a Ray cluster, and their progress.

tasks        the Executor protocol, errors of workers
local        a pool of processes
ray_cluster  a Ray cluster
progress     events and throughput
signals      Ctrl-C and SIGTERM as an exception
"""
