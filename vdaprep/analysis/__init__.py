"""What reads converted shards to judge, show or export them.

verify, verify_shard, verify_clip   data sets, one shard, one clip against records and format
geometry     depth, poses and intrinsics against each other
warping      views of a trajectory warped onto each other, by depth
photometric  whether the images agree with that
picture      a look at each converted trajectory, and which of them stand out
describe     the facts about one shard
stats        depth, motion and size of data sets
plots        charts of these
preview      contact sheets and videos
export       shards to PNG, npy and text files
"""
