"""Convert raw data sets into shards.

api              plan, convert, repair and convert_dataset: all that the commands do
options          what is converted, and how
plan, clips      which frames form which clip and shard
saved_plan       the plan as a file
account          what became of every raw file
encode           frames to members; shards to smaller shards
convert          carry a plan out, resume, finish
consume          delete raw data that was converted
repair           replace damaged and missing shards
predict, probes  sizes and time before converting
budget           options whose shards fit a number of bytes
"""
