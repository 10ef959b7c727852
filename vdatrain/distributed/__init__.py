"""The processes that train one model together.

launch    the environment that a launcher sets
ranks     process group: broadcast, mean, any, DDP
watchdog  end all ranks when one is lost
fsdp      weights, gradients and moments divided over the ranks
"""
