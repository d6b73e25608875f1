"""How many rows a unit has, where the settings leave it open: a pure function that every rank computes alike.

small corpora    64 units, each of 256 KiB to 2 MiB of corpus, so that there is something to share between ranks. A
                 shard costs 16 kB beside its records, and its last window is half empty: of 32 KiB of text, 80 units
                 of two rows take 232 bytes per position, one unit 73; at 256 KiB that is below a hundredth
large corpora    shards of 64 MB, and beyond 0.5 TB of cache larger ones, up to 256 MB, so that there are 8,192 of them
                 until they cannot grow. Units grow towards that only where 1,024 of them remain
every corpus     no shard above 256 MB (of a dense record that is some thousand tokens), and no unit above 32 MiB of
                 corpus or 2¹⁸ rows

A rank that is killed loses the unit that it is in: of the default record 0.9 million tokens for 64 MB and 3.7 for 256,
5 and 18 seconds at 200,000 tokens per second. A dump takes 7 times the size of a shard in memory, beside the teacher
(of dense records: 0.63 GB with shards of 6 MB, 1.09 with 65), so up to 2 GB more where shards have 256 MB.

What is foretold of a shard's size holds within a factor of two. A cache of 12.8 TB has 100,000 files, which is what a
repository of the Hub takes.
"""

__all__ = ["LEAST_SHARD_BYTES", "MOST_SHARD_BYTES", "auto_unit_rows"]

UNITS, LEAST_UNIT_BYTES, UNIT_BYTES = 64, 256 << 10, 2 << 20
MANY_UNITS, MOST_UNIT_BYTES, MOST_ROWS = 1024, 32 << 20, 1 << 18
LEAST_SHARD_BYTES, MOST_SHARD_BYTES, SHARDS = 64e6, 256e6, 8192


def auto_unit_rows(rows: int, corpus_bytes: int, shard_share: float | None = None) -> int:
    """Rows per unit.

    Args:
        rows: Of the corpus.
        corpus_bytes: What of it is read, in bytes.
        shard_share: How many bytes of shard a byte of corpus makes, about; None where it is not known.

    Returns:
        From 1 to `rows`.
    """
    size = max(corpus_bytes, 1)
    most, least = UNIT_BYTES * rows // size, -(-LEAST_UNIT_BYTES * rows // size)
    small = min(most, max(rows // UNITS, least))
    if shard_share is None:
        return max(1, min(rows, small, MOST_ROWS))
    aim = min(max(size * shard_share / SHARDS, LEAST_SHARD_BYTES), MOST_SHARD_BYTES)
    large = int(rows / size * min(size / MANY_UNITS, aim / shard_share, MOST_UNIT_BYTES))
    return max(1, min(rows, max(small, large), int(rows / size * MOST_SHARD_BYTES / shard_share), MOST_ROWS))
