import sys

import pandas as pd

examples = pd.read_feather(sys.argv[1])  # one row an example
tokens = examples["tokens"]
columns = ["positions", "maximum", "span", "ids", "logits"]
records = examples[columns].explode(columns).dropna()  # one row a position
ids = records["ids"]
logits = records["maximum"] - records["logits"] * (records["span"] / 255)
