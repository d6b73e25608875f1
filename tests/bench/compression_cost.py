"""What compression adds to the teacher's forward pass: what compression.py prints."""

from tests.bench.printed import printed

PART = printed(
    "compression_cost", "What compression adds to a forward pass", 3, "compression.py", ("--windows", "2"),
    ("--windows", "1", "--length", "32", "--rounds", "2"),
)  # fmt: skip
