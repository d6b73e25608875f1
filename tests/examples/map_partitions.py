"""A cache from any map over partitions: Spark, a pool of processes, whatever calls a function on parts of the data.

    python map_partitions.py TEXT.txt CACHE --processes 4
    spark-submit map_partitions.py TEXT.txt CACHE --spark

A partition is a unit of the cache and becomes one shard. Its number and its rows decide the shard's bytes, not who
makes it, when, or how often: one that stands is not made again, so a partition that is run twice, or a job that is
started again, costs nothing. Put your own teacher in place of `logits_of`.
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import kdcache

ROWS = 8
"""Rows of a partition."""
CLASSES = 256


def logits_of(tokens: np.ndarray) -> np.ndarray:
    """Stands for a teacher: tokens [L] -> logits [L − 1, V] of the next ones."""
    rng = np.random.default_rng(int(tokens.sum()))
    return rng.normal(size=(len(tokens) - 1, CLASSES)).astype(np.float32)


def cache_of(settings: dict[str, Any]) -> Any:
    """Begins the cache, or goes on with it: the same settings everywhere, and any number of processes at once."""
    return kdcache.CacheWriter(**settings).builder


def make(partition: tuple[int, list[str]], settings: dict[str, Any]) -> int:
    """Runs wherever the partition is."""
    number, rows = partition
    with cache_of(settings) as builder:
        if number not in builder.committed():
            with builder.unit(number) as unit:
                for row in rows:
                    tokens = np.frombuffer(row.encode(), np.uint8).astype(np.int64)
                    unit.add(tokens, logits_of(tokens))
    return number


def by_processes(make: Callable[[Any], int], partitions: list[Any], processes: int) -> Iterable[int]:
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(make, partitions)


def by_spark(make: Callable[[Any], int], partitions: list[Any]) -> Iterable[int]:
    from pyspark.sql import SparkSession

    context = SparkSession.builder.getOrCreate().sparkContext
    return context.parallelize(partitions, len(partitions)).map(make).collect()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("cache")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--spark", action="store_true")
    given = parser.parse_args()

    rows = [row for row in Path(given.text).read_text().splitlines() if len(row) > 1]
    partitions = [(first // ROWS, rows[first : first + ROWS]) for first in range(0, len(rows), ROWS)]
    settings = {"path": given.cache, "num_classes": CLASSES, "teacher": "mine", "examples_per_shard": ROWS}
    do = partial(make, settings=settings)
    made = by_spark(do, partitions) if given.spark else by_processes(do, partitions, given.processes)
    print(f"{len([*made])} partitions")
    with cache_of(settings) as builder:
        builder.finalize(len(partitions))


if __name__ == "__main__":
    main()
