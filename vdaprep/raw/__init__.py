"""Raw downloads, read in place: folders, archives and URLs, and their files' formats.

tree       all files of a data set, wherever they lie; reading one of them
files      where files lie: locations by path and by frame number
walking    the files below a folder
archives   zip, tar, tar.gz and .sens
merging    files of several archives under one path
prefetch   reading ahead in a thread
images     JPEG, PPM, PGM, and what holds for every image
png, exr   these
arrays     .npy, tables of text
json_list  lists in gzip, object by object
deflate    decompression by ISA-L
frames     trajectories, cameras and frames
"""
