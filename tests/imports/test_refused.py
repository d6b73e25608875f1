"""What a capture must not be is refused in one line with its place, and nothing half-written is called finished."""

import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imports import capturing
from imports.conftest import Import

from kdcache.errors import ConfigError, CorpusError, KdcacheError

LOGITS = capturing.table()
OF = capturing.texts(LOGITS)


def rows(k: int = 5) -> list[dict[str, Any]]:
    return capturing.vllm_rows(LOGITS, OF, k)


def entry(row: dict[str, Any], at: int) -> dict[str, Any]:
    return row["prompt_logprobs"][at]


def replaced(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """The likeliest entry of token 7 with another log-probability, or under another name."""

    def change(row: dict[str, Any]) -> None:
        entries = entry(row, 7)
        first = max(entries, key=lambda one: entries[one]["logprob"])
        if name == "logprob":
            entries[first] = {"logprob": value}
        else:
            entries[str(value)] = entries.pop(first)

    return change


def drop(row: dict[str, Any]) -> None:
    for one in [*entry(row, 7)][:3]:
        del entry(row, 7)[one]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nan": (replaced("logprob", math.nan), r"scored.jsonl:4, position 6: it has a log-probability that is NaN"),
    "null": (
        replaced("logprob", None),
        r"scored.jsonl:4, prompt_logprobs 7: the log-probability of class \d+ is missing",
    ),
    "above 0": (replaced("logprob", 2.5), r"scored.jsonl:4, position 6: it has log-probability 2.5, expected"),
    "sum": (
        lambda row: entry(row, 7).update({one: {"logprob": -0.9} for one in entry(row, 7)}),
        r"scored.jsonl:4, position 6: the probabilities of its entries sum to 2",
    ),
    "-inf": (replaced("logprob", -math.inf), r"scored.jsonl:4, position 6: it has [45] entries with a probability"),
    "vocabulary": (replaced("id", 320), r"scored.jsonl:4, position 6: it has class 320, expected 0 to 319"),
    "negative": (replaced("id", -1), r"position 6: it has class -1, expected 0 to 319"),
    "twice": (replaced("id", "token_id:0"), ""),
    "text": (
        replaced("id", "Hello"),
        r"scored.jsonl:4, prompt_logprobs 7: a class is told as 'Hello', expected its id",
    ),
    "fewer": (drop, r"scored.jsonl:4, position 6: it has [23] entries with a probability, expected 5.*--short-rows"),
    "length": (lambda row: row["prompt_logprobs"].pop(), "prompt_logprobs has 39 items, expected 40"),
    "tokens": (
        lambda row: row["prompt_token_ids"].__setitem__(0, 999),
        "scored.jsonl:4: got token ids .* expected 0 to",
    ),
    "no ids": (
        lambda row: row.update({"prompt_token_ids": None, "logprobs": row.pop("prompt_logprobs")[1:]}),
        "scored.jsonl:4 has log-probabilities and no token ids, expected input_ids",
    ),
    "none": (
        lambda row: row.pop("prompt_logprobs"),
        "scored.jsonl:4 has no log-probabilities, expected prompt_logprobs",
    ),
}


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "twice"])
def test_a_row_that_cannot_be(name: str, importing: Import, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    given = rows()
    change(given[3])
    file = capturing.write_jsonl(tmp_path / "scored.jsonl", given)
    with pytest.raises(CorpusError, match=message) as refused:
        importing("jsonl", [file], tmp_path / "cache", rows_per_shard=2)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "cache/cache.json").exists()


def test_a_class_that_comes_twice(importing: Import, tmp_path: Path) -> None:
    given = rows()
    first = next(iter(entry(given[3], 7)))
    entry(given[3], 7)[f"token_id:{first}"] = {"logprob": -20.0}
    file = capturing.write_jsonl(tmp_path / "scored.jsonl", given)
    with pytest.raises(CorpusError, match=f"scored.jsonl:4, position 6: it has class {first} twice"):
        importing("jsonl", [file], tmp_path / "cache")


def test_short_rows_are_taken_when_they_are_to_be(importing: Import, tmp_path: Path) -> None:
    given = rows()
    drop(given[3])
    importing("jsonl", [capturing.write_jsonl(tmp_path / "scored.jsonl", given)], tmp_path / "cache", short_rows=True)


def test_a_renormalised_capture_must_be_called_so(importing: Import, tmp_path: Path) -> None:
    given = []
    for tokens in OF:
        ids, log_p = capturing.likeliest(capturing.log_softmax(LOGITS[tokens]), 5)
        log_p = capturing.log_softmax(log_p)
        given.append(
            {"input_ids": tokens.tolist(), "target_token_ids": ids.tolist(), "target_logprobs": log_p.tolist()}
        )
    file = capturing.write_jsonl(tmp_path / "scored.jsonl", given)
    with pytest.raises(ConfigError, match="sum to 1, as if they had been renormalised: give --tail renormalise"):
        importing("jsonl", [file], tmp_path / "cache")
    manifest = importing("jsonl", [file], tmp_path / "cache", tail="renormalise")
    assert manifest.header.compute["import"]["answers"] == [0.5, 1.0, 2.0, 4.0]


def llama(folder: Path) -> tuple[str, list[Path], dict[str, Any]]:
    tokens = np.concatenate(capturing.texts(LOGITS, 1, 64))
    return "llama_cpp", [capturing.write_llama(folder / "base.bin", LOGITS, tokens, n_ctx=16)], {}


def distillkit(folder: Path) -> tuple[str, list[Path], dict[str, Any]]:
    capturing.write_distillkit(folder / "captured", LOGITS, OF)
    return "distillkit", [folder / "captured/data_1.parquet"], {}


def megatron(folder: Path) -> tuple[str, list[Path], dict[str, Any]]:
    samples = np.stack(capturing.texts(LOGITS, 8, 24))
    capturing.write_megatron(folder / "shards", LOGITS, samples)
    np.save(folder / "tokens.npy", samples)
    return "megatron", [folder / "shards/dp1__0-8.tar", folder / "shards"], {"tokens": str(folder / "tokens.npy")}


def jsonl(folder: Path) -> tuple[str, list[Path], dict[str, Any]]:
    return "jsonl", [capturing.write_jsonl(folder / "scored.jsonl", rows())], {}


def compressed(folder: Path) -> tuple[str, list[Path], dict[str, Any]]:
    plain = capturing.write_jsonl(folder / "plain", rows()).read_bytes()
    (folder / "scored.jsonl.zst").write_bytes(pa.compress(plain, "zstd", asbytes=True))
    return "jsonl", [folder / "scored.jsonl.zst"], {}


@pytest.mark.parametrize("make", [llama, distillkit, megatron, jsonl, compressed])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_a_file_that_was_cut_short(make: Any, share: float, importing: Import, tmp_path: Path) -> None:
    format, paths, options = make(tmp_path)
    file = paths[0]
    data = file.read_bytes().rstrip(b"\0")  # a tar is filled up with zeros
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(KdcacheError, match=file.name) as refused:
        importing(format, paths, tmp_path / "cache", **options)
    assert refused.value.exit_status == 1
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "cache/cache.json").exists()


def test_a_tar_that_ends_between_two_members(importing: Import, tmp_path: Path) -> None:
    format, paths, options = megatron(tmp_path)
    with tarfile.open(paths[0]) as tar:
        last = tar.getmembers()[-1]
    paths[0].write_bytes(paths[0].read_bytes()[: last.offset])
    with pytest.raises(CorpusError, match=r"dp1__0-8.tar ends at byte .* without the mark of its end"):
        importing(format, paths, tmp_path / "cache", **options)


def test_a_rank_that_is_missing(importing: Import, tmp_path: Path) -> None:
    format, paths, options = megatron(tmp_path)
    paths[0].unlink()
    with pytest.raises(CorpusError, match="samples 0-4 has no shard of data-parallel rank 1, expected 2 ranks"):
        importing(format, paths[1:], tmp_path / "cache", **options)


def test_a_damaged_llama_file(importing: Import, tmp_path: Path) -> None:
    format, paths, _ = llama(tmp_path)
    data = bytearray(paths[0].read_bytes())
    end = len(data) - 7 * 2 * 324
    data[end + 8 : end + 400] = b"\xff" * 392
    paths[0].write_bytes(bytes(data))
    with pytest.raises(CorpusError, match=r"base.bin chunk 4, position 8: scale .* expected 1: the file is damaged"):
        importing(format, paths, tmp_path / "cache")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("d: 1", "d Input should be greater"),
        ("k: 3", "got exact_k 4"),
        ("exact_dtype: int8", "exact_dtype Input should be 'float16'"),
        ("[", "is no YAML"),
    ],
)
def test_a_compression_that_cannot_be(line: str, message: str, importing: Import, tmp_path: Path) -> None:
    format, paths, _ = distillkit(tmp_path)
    config = tmp_path / "captured/compression_config.yaml"
    config.write_text(config.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=message):
        importing(format, paths, tmp_path / "cache")


def test_bytes_of_another_compression(importing: Import, tmp_path: Path) -> None:
    format, paths, _ = distillkit(tmp_path)
    config = tmp_path / "captured/compression_config.yaml"
    config.write_text(config.read_text().replace("exact_k: 4", "exact_k: 3"))
    with pytest.raises(CorpusError, match=r"data_1.parquet row 1: compressed_logprobs has .* bytes for each position"):
        importing(format, paths, tmp_path / "cache")


def test_parquet_that_is_no_capture(importing: Import, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "plain.parquet")
    with pytest.raises(CorpusError, match=r"plain.parquet has the columns text, expected input_ids with"):
        importing("distillkit", [tmp_path / "plain.parquet"], tmp_path / "cache")


def test_options_that_do_not_fit(importing: Import, tmp_path: Path) -> None:
    format, paths, _ = megatron(tmp_path)
    with pytest.raises(ConfigError, match="the shards have no tokens, expected them as --tokens"):
        importing(format, paths[1:], tmp_path / "cache")
    format, paths, _ = jsonl(tmp_path)
    with pytest.raises(ConfigError, match="got --record, expected it of a capture that knows every class"):
        importing(format, paths, tmp_path / "cache", record={"kind": "dense"})
    with pytest.raises(ConfigError, match="got format of captures 'jsnl', which is not known; did you mean jsonl"):
        importing("jsnl", paths, tmp_path / "cache")


def test_other_tokens_for_the_same_shards(importing: Import, tmp_path: Path) -> None:
    format, paths, options = megatron(tmp_path)
    importing(format, paths[1:], tmp_path / "cache", **options)
    tokens = np.load(options["tokens"])
    np.save(options["tokens"], np.where(tokens == tokens[0, 0], 5, tokens))
    with pytest.raises(KdcacheError, match=r"was begun with compute.import.tokens_sha256"):
        importing(format, paths[1:], tmp_path / "cache", **options)


def test_a_capture_that_changed_is_not_gone_on_with(importing: Import, tmp_path: Path) -> None:
    format, paths, _ = jsonl(tmp_path)
    importing(format, paths, tmp_path / "cache", rows_per_shard=2)
    (tmp_path / "cache/cache.json").unlink()
    lines = paths[0].read_text().splitlines()
    changed = json.loads(lines[0])
    changed["prompt_logprobs"][3].pop(next(iter(changed["prompt_logprobs"][3])))
    changed["prompt_logprobs"][4]["1"] = {"logprob": -30.0}
    paths[0].write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    with pytest.raises(KdcacheError, match="begun from other rows than the capture has in unit 0"):
        importing(format, paths, tmp_path / "cache", rows_per_shard=2)
