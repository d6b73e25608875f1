"""The cache on disk: atomic commits, every read checked, bytes that are a function of content.

cache      open_cache, Cache: reading
batch      Batch: some examples in memory
builder    CacheBuilder: begin, resume, commit units, finalize
writer     CacheWriter: examples one after the other, on top of it
checked    what a caller gives as an example -> Example, checked
unit       the examples and records of one shard
manifest   header, commit records, cache.json
schema     which arrays a task's shards hold
shard      one shard file and its commit record
basis_file the basis of calibrated records, one file of the cache
backend    flat arrays <-> one file: zarr_backend, arrow_backend
files      a cache's folder, local or remote; local_copies: shards of remote caches
convert    from one backend to the other
verify     every digest and count of a cache

This package knows nothing of teachers, corpora or training.
"""
