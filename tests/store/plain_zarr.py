import sys

import numpy as np
import zarr

file = zarr.open_group(zarr.storage.ZipStore(sys.argv[1], mode="r"), mode="r")
blocks = [file[str(number)] for number in range(file.nmembers())]  # each some consecutive examples
shard = {name: np.concatenate([block[name][:] for block in blocks]) for name in blocks[0].array_keys()}
tokens = np.split(shard["tokens"], np.cumsum(shard["token_counts"])[:-1])  # one array per example
below, maximum = shard["logits"], shard["maximum"]
steps = blocks[0]["logits"].attrs.get("steps_per_octave")  # of certain entries and of the others
ids, ends = None, None  # a dense record: every class, in order
if "ids" in shard:  # others: so many entries of each position, one after the other
    counts = shard["entry_counts"]
    ends = np.cumsum(counts)[:-1]
    ids = np.split(shard["ids"], ends)
    rank = np.concatenate([np.arange(n) for n in counts])
    certain = rank < np.repeat(shard["num_certain"], counts)
    maximum = np.repeat(maximum, counts)
    if "span" in shard:  # logit_dtype uint8: 255 equal steps per position
        below = below * -np.repeat(shard["span"] / np.float64(255), counts)
else:
    certain, maximum = True, maximum[:, None]
if steps:
    below = 1 - 2 ** (below / np.where(certain, *steps))
logits = maximum + below
logits = logits if ends is None else np.split(logits, ends)
