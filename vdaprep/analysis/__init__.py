"""What reads converted shards to judge, show or export them.

verify, verify_shard, verify_clip   data sets, one shard, one clip against records and format
geometry    depth, poses and intrinsics against each other
describe    the facts about one shard
stats       depth, motion and size of data sets; plots draws them
preview     contact sheets and videos
export      shards to PNG, npy and text files
"""
