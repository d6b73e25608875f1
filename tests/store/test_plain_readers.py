"""A shard opens without kdcache: the snippets of READING.md, in processes of their own that never import it."""

import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from store.making import CLASSES, tokens_and_logits, write_cache

from kdcache import CacheWriter, open_cache

HERE = Path(__file__).parent
SNIPPETS = {"zarr": "plain_zarr.py", "arrow": "plain_pandas.py", "parquet": "plain_duckdb.py"}
SAVE = """
import numpy as np
assert not any(name.startswith("kdcache") for name in sys.modules)
counts = [*map(len, logits)]
tokens, logits = (np.concatenate([*rows]) for rows in (tokens, logits))
ids = np.zeros(0) if ids is None else np.concatenate([*ids])
np.savez(sys.argv[2], tokens=tokens, counts=counts, ids=ids, logits=logits)
"""
RECORDS = {
    "default": {"exact_top_k": 5},
    "one temperature": {"exact_top_k": 0, "samples": 8, "curve": {"temperatures": [1.0]}},
    "bytes": {"exact_top_k": 5, "logit_dtype": "uint8"},
    "floats": {"exact_top_k": 5, "logit_dtype": "float32"},
    "dense": {"kind": "dense", "logit_dtype": "uint16"},
    "dense floats": {"kind": "dense"},
}


def plainly_read(cache: Path, backend: str, out: Path) -> dict[str, np.ndarray]:
    """What a snippet makes of the one shard of a cache."""
    shard = open_cache(cache).manifest.shards[0].file
    command = [sys.executable, "-W", "error", "-c", (HERE / SNIPPETS[backend]).read_text() + SAVE]
    subprocess.run([*command, cache / shard, out], cwd=out.parent, env={}, check=True)
    return dict(np.load(out))


@pytest.mark.parametrize("backend", SNIPPETS)
@pytest.mark.parametrize("record", RECORDS)
def test_snippet(tmp_path: Path, backend: str, record: str) -> None:
    write_cache(tmp_path / "cache", 6, backend=backend, examples_per_shard=6, block_examples=4, record=RECORDS[record])
    read = plainly_read(tmp_path / "cache", backend, tmp_path / "out.npz")
    examples, batch = tokens_and_logits(6), open_cache(tmp_path / "cache").read(0, 6)
    targets = batch.targets()
    kept_PE = (targets.inclusion_PE > 0).expand(targets.ids_PE.shape)
    assert read["tokens"].tolist() == np.concatenate([tokens for tokens, _ in examples]).tolist()
    assert read["counts"].tolist() == kept_PE.sum(1).tolist()
    assert read["ids"].tolist() == ([] if targets.is_exact else targets.ids_PE[kept_PE].tolist())
    np.testing.assert_allclose(read["logits"], targets.logits_PE[kept_PE], atol=1e-5)
    logits_PV = np.concatenate([logits for _, logits in examples])
    row_E = np.repeat(np.arange(len(logits_PV)), read["counts"])
    loss = 1.5 if record == "one temperature" else 0.2
    np.testing.assert_allclose(read["logits"], logits_PV[row_E, targets.ids_PE[kept_PE].numpy()], atol=loss)


@pytest.mark.parametrize("backend", SNIPPETS)
def test_snippet_on_a_classification(tmp_path: Path, backend: str) -> None:
    logits_NC = np.random.default_rng(0).normal(0, 3, (6, 3)).astype(np.float32)
    settings = {"task": {"name": "sequence_classification"}, "labels": ["a", "b", "c"], "backend": backend}
    with CacheWriter(tmp_path / "cache", num_classes=3, **settings) as writer:
        for number, (tokens, _) in enumerate(tokens_and_logits(6)):
            writer.add(tokens % CLASSES, logits_NC[[number]], labels=[number % 3])
    read = plainly_read(tmp_path / "cache", backend, tmp_path / "out.npz")
    assert read["counts"].tolist() == [3] * 6
    np.testing.assert_allclose(read["logits"].reshape(6, 3), logits_NC, atol=5e-3)


@pytest.mark.parametrize("record", [*RECORDS.values(), {"kind": "drawn", "keep": ["entropy", "label_loss"]}])
def test_pandas_duckdb_and_polars_read_every_column_of_parquet(tmp_path: Path, record: dict) -> None:
    """The numbers of open_cache, from all shards of a cache at once."""
    write_cache(tmp_path / "cache", 10, backend="parquet", record=record)
    shards, cache = tmp_path / "cache/shards/*/*.parquet", open_cache(tmp_path / "cache")
    read = {
        "pandas": pd.concat([pd.read_parquet(path) for path in sorted(tmp_path.glob("cache/shards/*/*.parquet"))]),
        "duckdb": duckdb.sql(f"select * from '{shards}'").df(),
        "polars": polars.read_parquet(shards).to_pandas(),
    }
    arrays = cache.read(0, 10).arrays
    for library, examples in read.items():
        assert [*examples] == [field.name for field in cache.manifest.header.fields]
        for field in cache.manifest.header.fields:
            flat = np.array(flattened(examples[field.name]), arrays[field.name].dtype)
            assert np.array_equal(flat, arrays[field.name].reshape(-1)), (library, field.name)


def flattened(values: object) -> list:
    """What nested lists hold, one after the other."""
    if isinstance(values, (list, np.ndarray, pd.Series)):
        return [one for value in values for one in flattened(value)]
    return [values]


def test_arrow_columns_are_types_that_every_reader_knows(tmp_path: Path) -> None:
    """No float16: DuckDB refuses the whole file for one such column."""
    write_cache(tmp_path / "cache", 6, backend="arrow", examples_per_shard=6)
    schema = pa.ipc.open_file(str(tmp_path / "cache/shards/000/000000.arrow")).schema
    types = {field.name: str(field.type).replace("item: ", "") for field in schema}
    assert types["tokens"] == "list<uint16>"
    assert types["label_logits"] == types["maximum"] == "list<float>"
    assert types["tail_mean"] == "list<fixed_size_list<uint16>[7]>"
    assert types["ids"] == "list<list<uint16>>"
    assert types["logits"] == "list<list<uint16>>"
