"""A shard opens without kdcache: the snippets of the README, in processes of their own that never import it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from store.making import tokens_and_logits, write_cache

from kdcache import open_cache

HERE = Path(__file__).parent
SAVE = """
import numpy as np
assert not any(name.startswith("kdcache") for name in sys.modules)
counts = [*map(len, ids)]
tokens, ids, logits = (np.concatenate([*rows]) for rows in (tokens, ids, logits))
np.savez(sys.argv[2], tokens=tokens, counts=counts, ids=ids, logits=logits)
"""


@pytest.mark.parametrize(("backend", "snippet"), [("zarr", "plain_zarr.py"), ("arrow", "plain_pandas.py")])
def test_snippet(tmp_path: Path, backend: str, snippet: str) -> None:
    write_cache(tmp_path / "cache", 6, backend=backend, examples_per_shard=6)
    shard = open_cache(tmp_path / "cache").manifest.shards[0].file
    command = [sys.executable, "-W", "error", "-c", (HERE / snippet).read_text() + SAVE]
    subprocess.run([*command, tmp_path / "cache" / shard, tmp_path / "out.npz"], cwd=tmp_path, env={}, check=True)
    read = np.load(tmp_path / "out.npz")
    examples, batch = tokens_and_logits(6), open_cache(tmp_path / "cache").read(0, 6)
    targets = batch.targets()
    kept_PE = targets.inclusion_PE > 0
    assert read["tokens"].tolist() == np.concatenate([tokens for tokens, _ in examples]).tolist()
    assert read["counts"].tolist() == kept_PE.sum(1).tolist()
    assert read["ids"].tolist() == targets.ids_PE[kept_PE].tolist()
    np.testing.assert_allclose(read["logits"], targets.logits_PE[kept_PE], atol=1e-5)
    logits_PV = np.concatenate([logits for _, logits in examples])
    row_E = np.repeat(np.arange(len(logits_PV)), read["counts"])
    np.testing.assert_allclose(read["logits"], logits_PV[row_E, read["ids"]], atol=0.2)


def test_arrow_columns_are_types_that_every_reader_knows(tmp_path: Path) -> None:
    """No float16: DuckDB refuses the whole file for one such column."""
    write_cache(tmp_path / "cache", 6, backend="arrow", examples_per_shard=6)
    schema = pa.ipc.open_file(str(tmp_path / "cache/shards/000000.arrow")).schema
    types = {field.name: str(field.type).replace("item: ", "") for field in schema}
    assert types["tokens"] == "list<uint16>"
    assert types["label_logits"] == types["maximum"] == "list<float>"
    assert types["tail_mean"] == "list<fixed_size_list<uint16>[7]>"
    assert types["ids"] == "list<list<uint16>>"
    assert types["logits"] == "list<list<uint16>>"
