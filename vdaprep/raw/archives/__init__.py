"""Archives read in place: listed once, then members read by where their bytes lie.

sniff        what a file is, by its name and its first bytes
spans        where members lie
zips, tars   listing them
targz        random access in a tar.gz, by seek points
targz_index  making seek points"""
