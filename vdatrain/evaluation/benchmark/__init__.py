"""Published benchmarks of video depth, by their protocols.

protocols   what is measured: sets, scenes, frames, crops, alignments; the faults of published scripts
published   what others have published
scenes      the frames of a protocol's scenes in shards, and what of them is not there
clip        the metrics of one scene, its frames predicted and measured one after the other
results     results kept as lines of JSON, read again when a benchmark goes on
run         all scenes of a protocol, divided among processes
table       ours beside what was published: Markdown, CSV, JSON
"""
