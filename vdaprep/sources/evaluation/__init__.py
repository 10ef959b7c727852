"""Data sets that are only measured on, as all of their trajectories are held out."""
