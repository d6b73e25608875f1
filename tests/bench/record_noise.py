"""Bytes of records and the errors of their gradients, against top-k, RS-KD and DistillKit: what records.py prints.

On torch.nn's docstrings, which no setting was tuned on.
"""

from tests.bench.printed import printed

PART = printed(
    "record_noise", "Records: bytes and errors of the gradient", 5, "records.py",
    ("--windows", "4", "--corpus", "docstrings"), ("--windows", "1", "--length", "32", "--draws", "2"),
)  # fmt: skip
