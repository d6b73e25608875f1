import json
import sys

import duckdb
import numpy as np

shards = sys.argv[1]  # a path, or all of them: my-cache/shards/*/*.parquet
examples = duckdb.sql(f"select * from '{shards}'")  # one row per example
tokens = examples.fetchnumpy()["tokens"]
columns = ["positions", "maximum", "num_certain", "span", "ids", "logits"]
columns = [name for name in columns if name in examples.columns]  # a dense record has no ids: every class, in order
each = ", ".join(f"unnest({name}) as {name}" for name in columns)
records = duckdb.sql(f"select {each} from '{shards}'").df()  # one row per position
notes = duckdb.sql(f"select decode(key), decode(value) from parquet_kv_metadata('{shards}')").fetchall()
steps = json.loads(dict(notes).get("steps_per_octave", "{}")).get("logits")  # of certain entries and of the others


def raw_logits(row):
    below = np.asarray(row.logits)
    if "span" in columns:  # logit_dtype uint8: 255 equal steps per position
        below = below * (-row.span / 255.0)
    if steps:
        certain = np.arange(len(below)) < row.num_certain if "ids" in columns else True
        below = 1 - 2 ** (below / np.where(certain, *steps))
    return row.maximum + below


ids, logits = records.get("ids"), [raw_logits(row) for row in records.itertuples()]
