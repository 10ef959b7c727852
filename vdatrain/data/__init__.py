"""Shards to batches on the device.

sampler      which window of frames stands at each position; distributed positions, weights of data sets
buckets      windows of equal shape batched together, where clips differ
samples      a window as tensors
decode       its images and depth, on the device
stream       windows read by threads, in the order of a sampler
sequential   windows of whole shards, one after the other, through webdataset
dataset      ShardDataset, for a plain DataLoader
transforms   crop, flip and colour jitter
altered      samples shown otherwise than stored: other differences, disturbed images
terms        licences of the data that a run trains on
batch        samples decoded, cropped and augmented on the device
prefetch     ordered map over threads, copies in a stream of their own
loader       TrainLoader, EvalLoader
"""
