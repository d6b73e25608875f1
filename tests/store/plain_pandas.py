import json
import sys

import numpy as np
import pandas as pd
import pyarrow as pa

examples = pd.read_feather(sys.argv[1])  # one row per example
tokens = examples["tokens"]
columns = ["positions", "maximum", "num_certain", "span", "ids", "logits"]
columns = [name for name in columns if name in examples]  # a dense record has no ids: every class, in order
records = examples[columns].explode(columns).dropna()  # one row per position
about = pa.ipc.open_file(sys.argv[1]).schema.field("logits").metadata or {}
steps = json.loads(about.get(b"steps_per_octave", "null"))  # of certain entries and of the others


def raw_logits(row):
    below = np.asarray(row.logits)
    if "span" in columns:  # logit_dtype uint8: 255 equal steps per position
        below = below * (-row.span / 255.0)
    if steps:
        certain = np.arange(len(below)) < row.num_certain if "ids" in columns else True
        below = 1 - 2 ** (below / np.where(certain, *steps))
    return row.maximum + below


ids, logits = records.get("ids"), [raw_logits(row) for row in records.itertuples()]
