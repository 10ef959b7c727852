"""Run independent tasks on processes of this machine or of a Ray cluster, and report progress.

tasks: the Executor protocol, errors of workers. local: a process pool. ray_cluster: a Ray cluster. progress: events and
throughput. signals: Ctrl-C and SIGTERM as an exception.
"""
