"""Raw downloads, read in place: folders, archives and URLs, and the formats of the files in them.

`tree` lists all files of a data set wherever they lie and reads them, `containers` knows zip and tar, `targz` and
`targz_index` tar.gz; `deflate` is decompression by ISA-L; `png`, `images` (JPEG), `exr` and `arrays` (.npy, tables of
text) decode files; `frames` has the types of trajectories, cameras and frames; `prefetch` reads ahead in a thread.
"""
