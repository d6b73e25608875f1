"""Cache -> micro-batches: which example comes when, and reading it in time.

settings StreamConfig
order    pure: lanes, shard permutation, window shuffle; the same global batches at every valid world size
fitting  pure: sizes of batches that go together, and which to set where they do not
blocks   pure: how many steps are read as one block, for a given amount of memory
loader   Loader: threads read whole shards ahead of use, within the memory it is given
"""
