"""Bytes of records and the errors of their gradients, against top-k and RS-KD: what records.py prints."""

from tests.bench.printed import printed

PART = printed(
    "record_noise", "Records: bytes and errors of the gradient", 6, "records.py", ("--windows", "8"),
    ("--windows", "1", "--length", "32", "--draws", "2"),
)  # fmt: skip
