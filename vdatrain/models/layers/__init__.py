"""Building blocks of the variants.

encoder      DINOv2's encoder and its sizes
dpt          the head, with temporal modules
temporal     attention over time, and its memory for streaming
neighbours   each frame's neighbours in time
statistics   numbers that describe a difference as a whole
branch       what a variant puts between encoder and head
difference   embeddings of frame differences
"""
