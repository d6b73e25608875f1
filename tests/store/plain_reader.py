"""A reader of caches written from FORMAT.md alone: numpy, and Zarr or pyarrow. It imports nothing of kdcache.

    python plain_reader.py CACHE      prints what the records of a cache say, as JSON

Sampled, drawn, top-k, factored, dense and captured records. It is written to be read and not for speed: one position
after the other.
"""

import hashlib
import io
import json
import math
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TEMPERATURES = (0.5, 1.0, 2.0)
KINDS = ("sampled", "drawn", "top_k", "factored", "dense", "captured")
KNOWN = {
    "backend/zarr",
    "backend/arrow",
    "backend/parquet",
    "task/causal_lm",
    "basis",
    *(f"record/{kind}" for kind in KINDS),
}
PARENTS = {"token": "example", "document": "example", "position": "example", "entry": "position"}


# Sections 1, 2 and 6: files, JSON, features


def read(folder: Path) -> tuple[dict, dict]:
    """The header, and the arrays of all shards, one after the other."""
    manifest = json.loads((folder / "cache.json").read_bytes())
    header = manifest["header"]
    assert (header["format"], header["format_version"]) == ("kdcache", 1)
    assert set(header["requires"]) <= KNOWN, f"needs {set(header['requires']) - KNOWN}"
    assert digest(canonical(header)) == digest((folder / "header.json").read_bytes())
    parts = []
    for unit, commit in enumerate(records(folder, manifest)):
        assert (commit["unit"], commit["header_sha256"]) == (unit, digest(canonical(header)))
        data = (folder / commit["file"]).read_bytes()
        assert (len(data), digest(data)) == (commit["bytes"], commit["sha256"])
        check_blocks(data, commit)
        arrays, stamp = READ[header["backend"]](data, header["fields"])
        record = {key: value for key, value in commit.items() if key not in ("bytes", "sha256", "blocks", "frame")}
        expected = {"unit": unit, "header_sha256": commit["header_sha256"], "record_sha256": digest(canonical(record))}
        assert stamp == expected
        parts.append(arrays)
        for field in header["fields"]:
            assert str(parts[-1][field["name"]].dtype) == field["dtype"]
        for key, name in {"examples": "token_counts", "tokens": "tokens", "positions": "positions"}.items():
            assert len(parts[-1][name]) == commit[key]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return header, arrays | (read_basis(folder, header) if "basis" in header else {})


def check_blocks(data: bytes, commit: dict) -> None:
    """The ranges of the blocks have their digests, and their counts add up."""
    sums = [0, 0, 0, 0]
    for line in commit["blocks"]:
        start, size, sha256, *counts = line.split(" ")
        assert digest(data[int(start) : int(start) + int(size)]) == sha256
        sums = [a + int(b) for a, b in zip(sums, counts, strict=True)]
    assert sums == [commit[name] for name in ("tokens", "documents", "positions", "entries")]
    assert len(commit["blocks"]) == max(1, math.ceil(commit["examples"] / commit["block_examples"]))


def records(folder: Path, manifest: dict) -> Iterator[dict]:
    """The commit records, compared with the table of shards."""
    import pyarrow as pa

    data = (folder / manifest["table"]["file"]).read_bytes()
    assert (len(data), digest(data)) == (manifest["table"]["bytes"], manifest["table"]["sha256"])
    rows = pa.ipc.open_file(data).read_all().to_pylist()
    assert len(rows) == manifest["totals"]["shards"]
    for unit, row in enumerate(rows):
        record = (folder / f"shards/{unit // 500:03d}/{unit:06d}.json").read_bytes()
        assert (len(record), digest(record)) == (row.pop("record_bytes"), row.pop("record_sha256").hex())
        values = json.loads(record)
        assert values["sha256"] == row.pop("sha256").hex()
        assert (values["source_sha256"] or "0" * 64) == row.pop("source_sha256").hex()
        besides = json.loads(row.pop("besides") or b"{}")
        assert besides == {
            name: values[name] for name in ("notes", "skipped", "made_under", "taken") if values.get(name)
        }
        assert row.items() <= values.items()
        yield values
    for name in ("examples", "tokens", "documents", "positions", "entries", "bytes"):
        assert sum(row[name] for row in rows) == manifest["totals"][name]


def canonical(values: dict) -> bytes:
    return (json.dumps(values, sort_keys=True, indent=1) + "\n").encode()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Section 3: arrays


def read_zarr(data: bytes, fields: list[dict]) -> tuple[dict, dict]:
    import zarr
    from zarr.core.buffer import default_buffer_prototype

    buffer = default_buffer_prototype().buffer
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: buffer.from_bytes(archive.read(name)) for name in archive.namelist()}
    group = zarr.open_group(zarr.storage.MemoryStore(members), mode="r")
    blocks = [group[str(number)] for number in range(len([*group.members()]))]
    for number, block in enumerate(blocks):
        assert block.attrs["kdcache"] == {**group.attrs["kdcache"], "block": number}
        for field in fields:
            assert block[field["name"]].attrs.get("steps_per_octave") == field.get("steps_per_octave")
    names = [name for name, _ in blocks[0].members()]
    return {name: np.concatenate([block[name][:] for block in blocks]) for name in names}, group.attrs["kdcache"]


def read_arrow(data: bytes, fields: list[dict]) -> tuple[dict, dict]:
    import pyarrow as pa

    file = pa.ipc.open_file(pa.BufferReader(data))
    blocks = [read_batch(file.get_batch(number), fields) for number in range(file.num_record_batches)]
    arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return arrays, json.loads(file.schema.metadata[b"kdcache"])


def read_batch(batch: Any, fields: list[dict]) -> dict:
    arrays = {}
    for field in fields:
        column, level = batch.column(field["name"]), field["level"]
        path = [] if level not in PARENTS else [level] if PARENTS[level] == "example" else [PARENTS[level], level]
        for one in path:
            arrays[f"{one}_counts"] = np.diff(column.offsets.to_numpy())
            column = column.values
        for _ in field["shape"]:
            column = column.values
        arrays[field["name"]] = column.to_numpy().astype(field["dtype"]).reshape(-1, *field["shape"])
    return arrays


def read_parquet(data: bytes, fields: list[dict]) -> tuple[dict, dict]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data))
    groups = [file.read_row_group(number).combine_chunks() for number in range(file.num_row_groups)]
    blocks = [read_batch(group.to_batches()[0], fields) for group in groups if group.num_rows]
    notes = file.metadata.metadata
    steps = {one["name"]: one["steps_per_octave"] for one in fields if "steps_per_octave" in one}
    assert json.loads(notes.get(b"steps_per_octave", b"{}")) == steps
    stamp, at = json.loads(notes[b"kdcache"]), 4
    for number in range(len(groups)):  # the text before the first page of each block
        length = int.from_bytes(data[at : at + 4], "little")
        assert json.loads(data[at + 4 : at + 4 + length])["stamp"] == {**stamp, "block": number}
        group = file.metadata.row_group(number)
        at += 4 + length + sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}, stamp


READ = {"zarr": read_zarr, "arrow": read_arrow, "parquet": read_parquet}


def read_basis(folder: Path, header: dict) -> dict:
    pin = header["basis"]
    data = (folder / pin["file"]).read_bytes()
    assert (len(data), digest(data)) == (pin["bytes"], pin["sha256"])
    mean = {"name": "mean", "level": "class", "dtype": "float32", "shape": []}
    basis = {"name": "basis", "level": "class", "dtype": "float16", "shape": [pin["rank"]]}
    arrays, stamp = READ[header["backend"]](data, [mean, basis])
    settings = {key: value for key, value in header.items() if key != "basis"}
    settings["fields"] = [field for field in header["fields"] if field["name"] != "coefficients"]
    settings["requires"] = [feature for feature in header["requires"] if feature != "basis"]
    assert stamp == {"basis_of_sha256": digest(canonical(settings))}
    return arrays


# Section 4: records


def decode(header: dict, arrays: dict) -> dict:
    """What the distributions say, by position."""
    (record,) = [one for one in header["records"] if one["kind"] in KINDS]
    if record["kind"] == "drawn":
        return decode_drawn(record, arrays)
    if record["kind"] == "captured":
        return decode_captured(record, arrays)
    names = ("log_partition", "entropy", "weights", *(["log_probs"] if record["kind"] in ("dense", "factored") else []))
    at = {f"{T:g}": {name: [] for name in names} for T in TEMPERATURES}
    found: dict = {"counts": [], "ids": [], "logits": [], "at": at}
    starts = np.cumsum(arrays["entry_counts"]) - arrays["entry_counts"] if "ids" in arrays else None
    for p in range(len(arrays["positions"])):
        if record["kind"] == "dense":
            ids, z, certain, tail = *dense_row(record, header, arrays, p), None
        else:
            entries = slice(int(starts[p]), int(starts[p] + arrays["entry_counts"][p]))
            ids, z, certain, tail = sparse_row(record, header, arrays, p, entries)
        maximum = float(arrays["maximum"][p])
        found["counts"].append(len(ids))
        found["ids"] += [int(i) for i in ids]
        found["logits"] += [maximum + float(x) for x in z]
        for T in TEMPERATURES:
            if tail is not None and tail.temperatures is not None and T not in tail.temperatures:
                at.pop(f"{T:g}", None)
                continue
            log_z, entropy, weights = answers(record, z, certain, tail, T)
            at[f"{T:g}"]["log_partition"].append(log_z + maximum / T)
            at[f"{T:g}"]["entropy"].append(entropy)
            at[f"{T:g}"]["weights"] += weights.tolist()
            if record["kind"] == "dense":
                at[f"{T:g}"]["log_probs"].append((z / T - log_z).tolist())
            if record["kind"] == "factored":
                log_mass = tail.at(1 / T)[0] - log_z
                whole = whole_row(header, arrays, p, T, ids[certain], z[certain] / T - log_z, log_mass)
                at[f"{T:g}"]["log_probs"].append(whole.tolist())
    return found


def decode_drawn(record: dict, arrays: dict) -> dict:
    """The same of drawn records; their logits are T log p, and not known of drawn classes."""
    T, at = record["temperature"], {"log_partition": [], "entropy": [], "weights": []}
    found: dict = {"num_certain": [], "counts": [], "ids": [], "logits": [], "at": {f"{T:g}": at}}
    start = 0
    for p, count in enumerate(arrays["entry_counts"]):
        codes, ids = (arrays[name][start : start + count].tolist() for name in ("shares", "ids"))
        start += count
        certain = sum(code > 0 for code in codes)
        left, p_certain = 1.0, []
        for code in codes[:certain]:
            share = 1.0 if code == 255 else 1 / (1 + math.exp(math.log(record["samples"]) - (code - 1) / 16))
            p_certain.append(left * share)
            left *= 1 - share
        drawn = np.cumsum(ids[certain:]).tolist()
        found["num_certain"].append(certain)
        found["counts"].append(int(count))
        found["ids"] += [*ids[:certain], *map(int, drawn)]
        found["logits"] += [*(T * math.log(one) for one in p_certain), *(math.nan for _ in drawn)]
        at["log_partition"].append(0.0)
        at["entropy"].append(int(arrays["entropy"][p]) / 16)
        at["weights"] += [*p_certain, *(left / len(drawn) for _ in drawn)]
    return found


def decode_captured(record: dict, arrays: dict) -> dict:
    """The same of captured records; their logits are T log p of the temperature of the capture."""
    own, renormalised = record["temperature"], record["tail"] == "renormalise"
    temperatures = [T for T in TEMPERATURES if renormalised or own == T]
    at = {f"{T:g}": {"log_partition": [], "weights": []} for T in temperatures}
    found: dict = {"num_certain": [], "counts": [], "ids": [], "logits": [], "at": at}
    ends = np.cumsum(arrays["entry_counts"])
    for start, end in zip(ends - arrays["entry_counts"], ends, strict=True):
        z = own * arrays["log_probs"][start:end].astype(np.float64)
        found["num_certain"].append(int(end - start))
        found["counts"].append(int(end - start))
        found["ids"] += arrays["ids"][start:end].tolist()
        found["logits"] += z.tolist()
        for T in temperatures:
            log_z = log_sum_exp(z / T) if renormalised else 0.0
            at[f"{T:g}"]["log_partition"].append(log_z)
            at[f"{T:g}"]["weights"] += np.exp(z / T - log_z).tolist()
    return found


def whole_row(
    header: dict, arrays: dict, p: int, T: float, ids: np.ndarray, log_p: np.ndarray, log_tail_mass: float
) -> np.ndarray:
    """log p of every class: certain entries are exact, the others share the tail's mass as the coefficients say."""
    logits = arrays["mean"] + arrays["basis"].astype(np.float64) @ unzigzag(arrays["coefficients"][p])
    if (cap := header["basis"].get("soft_cap")) is not None:
        logits = cap * np.tanh(logits / cap)
    in_tail = ~np.isin(np.arange(header["num_classes"]), ids)
    whole = logits / T + log_tail_mass - log_sum_exp(logits[in_tail] / T)
    whole[ids] = log_p
    return whole


def dense_row(record: dict, header: dict, arrays: dict, p: int) -> tuple:
    stored = arrays["logits"][p]
    z = steps_of(stored, header, np.ones(len(stored), bool)) if record["logit_dtype"] == "uint16" else stored
    return np.arange(header["num_classes"]), z.astype(np.float64), np.ones(len(stored), bool)


def sparse_row(record: dict, header: dict, arrays: dict, p: int, entries: slice) -> tuple:
    stored, ids = arrays["logits"][entries], arrays["ids"][entries]
    certain = np.arange(len(ids)) < arrays["num_certain"][p]
    if record["logit_dtype"] == "uint16":
        z = steps_of(stored, header, certain)
    elif record["logit_dtype"] == "uint8":
        span = float(arrays["span"][p])
        z = stored * -((span if span > 0 else 1.0) / 255)
    else:
        z = stored.astype(np.float64)
    lowest = z[certain].min() if certain.any() else 0.0
    z = np.where(certain, z, np.minimum(z, lowest))
    count = header["num_classes"] - int(arrays["num_certain"][p])
    return ids, z, certain, Tail(record["curve"], arrays, p, count, lowest)


def steps_of(stored: np.ndarray, header: dict, certain: np.ndarray) -> np.ndarray:
    (field,) = [field for field in header["fields"] if field["name"] == "logits"]
    return 1 - 2 ** (stored / np.where(certain, *field["steps_per_octave"]))


def answers(record: dict, z: np.ndarray, certain: np.ndarray, tail: "Tail | None", T: float) -> tuple:
    """log Z of logits relative to the maximum, entropy, and normalised weights."""
    value, mean = (-math.inf, 0.0) if tail is None else tail.at(1 / T)
    log_z = np.logaddexp(log_sum_exp(z[certain] / T), value)
    log_p = z / T - log_z
    tail_mass = math.exp(value - log_z)
    entropy = -(np.exp(log_p) * log_p)[certain].sum() + tail_mass * (log_z - mean / T)
    weights = np.exp(log_p)
    if record.get("samples"):
        weights = weights / inclusion(record, z, certain, tail)
        drawn = weights[~certain].sum()
        weights = np.where(certain, weights, weights * tail_mass / (drawn or 1.0))
    return float(log_z), float(entropy), weights


def inclusion(record: dict, z: np.ndarray, certain: np.ndarray, tail: "Tail") -> np.ndarray:
    shares, masses = [], []
    for T in record["proposal_temperatures"]:
        value, _ = tail.at(1 / T)
        log_z = np.logaddexp(log_sum_exp(z[certain] / T), value)
        shares.append(np.exp(z / T - log_z))
        masses.append(math.exp(value - log_z))
    scale = max(record["samples"], 1 / np.mean(masses) if np.mean(masses) > 0 else 0)
    return np.where(certain, 1.0, np.minimum(1.0, scale * np.mean(shares, 0)))


def log_sum_exp(x: np.ndarray) -> float:
    return float(np.log(np.exp(x - x.max()).sum()) + x.max()) if len(x) else -math.inf


def unzigzag(codes: np.ndarray) -> list[int]:
    return [int(code) // 2 if code % 2 == 0 else -(int(code) + 1) // 2 for code in codes]


def unfold(residual: int) -> int:
    """Beyond 8 nats, 16384 steps, a residual of a value goes on in steps 16 times as large."""
    beyond = abs(residual) - 16384
    return residual if beyond <= 0 else int(math.copysign(16384 + 16 * beyond, residual))


class Tail:
    """The curve of one position."""

    def __init__(self, curve: dict, arrays: dict, p: int, count: int, ceiling: float) -> None:
        self.temperatures, self.ceiling = curve.get("temperatures"), ceiling
        self.empty = count == 0 or arrays["tail_value"][p][0] == 65535
        value = [unfold(code) for code in unzigzag(arrays["tail_value"][p])]
        mean = unzigzag(arrays["tail_mean"][p])
        if self.temperatures:
            self.betas = [1 / T for T in self.temperatures]
            self.value, self.mean, self.v = [x / 2048 for x in value], [x / 128 for x in mean], None
            return
        self.betas = curve["nodes"]
        deviation = np.cumsum(unzigzag(arrays["tail_deviation"][p])).tolist()
        v = [(one / 64) ** 2 for one in deviation]
        first = math.log(max(count, 1)) + value[0] / 2048
        value[0] += round(math.log(max(count, 1)) * 2048)
        for k in range(1, len(self.betas)):
            h = self.betas[k] - self.betas[k - 1]
            forecast = mean[k - 1] + round(128 * h * (v[k - 1] + v[k]) / 2)
            mean[k] += min(max(forecast, -255 * 128), 0)
            bend = min(max(h * h * (v[k - 1] - v[k]) / 12, -1.0), 1.0)
            value[k] += value[k - 1] + round(2048 * (h * (mean[k - 1] + mean[k]) / 2 / 128 + bend))
        self.value = [first, *(x / 2048 for x in value[1:])]
        self.mean, self.v = [x / 128 for x in mean], v

    def at(self, beta: float) -> tuple[float, float]:
        """(log Σ exp(β z), mean of z) of the tail's logits relative to the maximum."""
        if self.empty:
            return -math.inf, 0.0
        for k, node in enumerate(self.betas):
            if abs(node - beta) <= 1e-6 * beta:
                return self.value[k], self.mean[k]
        assert self.v is not None
        assert beta < self.betas[-1]
        k = max(i for i, node in enumerate(self.betas) if node < beta)
        h = self.betas[k + 1] - self.betas[k]
        f0, f1 = self.value[k], self.value[k + 1]
        m0, m1 = self.mean[k] * h, self.mean[k + 1] * h
        s0, s1 = self.v[k] * h * h, self.v[k + 1] * h * h
        # The quintic a + b t + … with these values, slopes and curvatures at t = 0 and t = 1.
        rows = [[1] * 3, [3, 4, 5], [6, 12, 20]]
        right = [f1 - f0 - m0 - s0 / 2, m1 - m0 - s0, s1 - s0]
        coefficients = [f0, m0, s0 / 2, *np.linalg.solve(rows, right)]
        t = (beta - self.betas[k]) / h
        value = sum(c * t**i for i, c in enumerate(coefficients))
        mean = sum(i * c * t ** (i - 1) for i, c in enumerate(coefficients) if i) / h
        left, right_ = f0 + t * m0, f1 - (1 - t) * m1
        value = min(max(value, left, right_), f0 + t * (f1 - f0))
        return value, min(max(mean, self.mean[k]), self.mean[k + 1])


if __name__ == "__main__":
    answered = decode(*read(Path(sys.argv[1])))
    assert not any(name.split(".")[0] in ("kdcache", "torch") for name in sys.modules)
    print(json.dumps(answered))
