"""Files, local or remote; knows nothing of shards.

paths         one path type for folders, web servers and object stores, and what is read through it
urls          telling URLs from paths, hiding what is secret in them
range_reader  a file read in parts, and the file object over it
remote        one interface to servers, which asks again
retry         how long and how often it asks
http          web servers
stores        object stores
atomic        files that are complete or not there
locks         one process at a time
output        the folder that a conversion writes into
cache         a bounded folder of whole shards
documents     JSON, TOML and lines of text from outside, checked
limits        what an input may cost
"""
