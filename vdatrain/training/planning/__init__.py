"""What a step takes before any is taken.

memory   the peak memory of a step, on fake tensors
planner  what fits, how long it takes, what to change
"""
