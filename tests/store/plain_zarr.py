import sys

import numpy as np
import zarr

shard = zarr.open_group(zarr.storage.ZipStore(sys.argv[1], mode="r"), mode="r")
tokens = np.split(shard["tokens"][:], np.cumsum(shard["token_counts"][:])[:-1])  # one array an example
counts = shard["entry_counts"][:]  # entries of each position
ids = np.split(shard["ids"][:], np.cumsum(counts)[:-1])  # one array a position
rank = np.concatenate([np.arange(n) for n in counts])
steps_per_octave = np.where(rank < np.repeat(shard["num_certain"][:], counts), 1024, 64)
logits = np.repeat(shard["maximum"][:], counts) + 1 - 2 ** (shard["logits"][:] / steps_per_octave)
logits = np.split(logits, np.cumsum(counts)[:-1])
