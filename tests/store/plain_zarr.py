import sys

import numpy as np
import zarr

shard = zarr.open_group(zarr.storage.ZipStore(sys.argv[1], mode="r"), mode="r")
tokens = np.split(shard["tokens"][:], np.cumsum(shard["token_counts"][:])[:-1])  # one array an example
ids = np.split(shard["ids"][:], np.cumsum(shard["entry_counts"][:])[:-1])  # one array a position
steps = np.split(shard["logits"][:], np.cumsum(shard["entry_counts"][:])[:-1])
logits = [m - s * (span / 255) for m, span, s in zip(shard["maximum"][:], shard["span"][:], steps, strict=True)]
