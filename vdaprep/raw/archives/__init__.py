"""Archives read in place: listed once, then members read by where their bytes lie.

listing      listing one of any kind
sniff        what a file is, by its name and its first bytes
parts        archives that were cut into parts
spans        where members lie
zips, tars   listing them
sens         the same for ScanNet's recordings
targz        random access in a tar.gz, by seek points
targz_index  making seek points"""
