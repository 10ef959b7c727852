"""The processes that train one model together, and what ends them.

launch      the environment that a launcher sets
ranks       process group: broadcast, mean, any, DDP
watchdog    end all ranks when one is lost
preemption  graceful stop on SIGTERM, Ctrl-C or at a time limit
compile     the forward pass, compiled where that works
fsdp        weights, gradients and moments divided over the ranks
"""
