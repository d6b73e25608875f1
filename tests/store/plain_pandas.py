import sys

import numpy as np
import pandas as pd

examples = pd.read_feather(sys.argv[1])  # one row an example
tokens = examples["tokens"]
columns = ["positions", "maximum", "num_certain", "ids", "logits"]
records = examples[columns].explode(columns).dropna()  # one row a position


def raw_logits(row):
    steps_per_octave = np.where(np.arange(len(row.logits)) < row.num_certain, 1024, 64)
    return row.maximum + 1 - 2 ** (row.logits / steps_per_octave)


ids, logits = records["ids"], [raw_logits(row) for row in records.itertuples()]
