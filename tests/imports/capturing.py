"""Captures of a small teacher, written from the formats' public descriptions alone: nothing of the readers is here.

The teacher is a table of bigrams that is sure of what follows: each text goes on mostly with its likeliest class, so
that a capture whose rows are moved by one token is told at once.

P positions, V classes.
"""

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

V = 320
TEXTS, LENGTH = 6, 40


def table(seed: int = 0) -> np.ndarray:
    """Logits [V, V] of what follows a class, with a gap between the likeliest and the others."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (V, V))
    logits[np.arange(V), rng.permutation(V)] += 8
    return logits


def texts(logits: np.ndarray, count: int = TEXTS, length: int = LENGTH, seed: int = 1) -> list[np.ndarray]:
    """Of 7 in 8 tokens the likeliest one follows."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tokens = [int(rng.integers(3, V))]
        while len(tokens) < length:
            tokens.append(int(logits[tokens[-1]].argmax()) if rng.random() < 7 / 8 else int(rng.integers(3, V)))
        found.append(np.array(tokens))
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def likeliest(log_p: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log-probabilities of each row, likeliest first."""
    ids = np.argsort(-log_p, -1, kind="stable")[..., :k]
    return ids, np.take_along_axis(log_p, ids, -1)


# vLLM


def vllm_rows(logits: np.ndarray, of: list[np.ndarray], k: int) -> list[dict[str, Any]]:
    """prompt_logprobs: the first null, and the token itself an entry besides the k likeliest."""
    rows = []
    for tokens in of:
        log_p = log_softmax(logits[tokens])
        said: list[Any] = [None]
        for i in range(1, len(tokens)):
            row = log_p[i - 1]
            order = np.argsort(-row, kind="stable")
            rank = {int(c): r + 1 for r, c in enumerate(order)}
            named = [*map(int, order[:k])]
            named = [int(tokens[i]), *[c for c in named if c != tokens[i]]]
            said.append({str(c): {"logprob": float(row[c]), "rank": rank[c], "decoded_token": "x"} for c in named})
        rows.append({"prompt_token_ids": tokens.tolist(), "prompt_logprobs": said})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# llama.cpp


def write_llama(path: Path, logits: np.ndarray, tokens: np.ndarray, n_ctx: int) -> Path:
    chunks = len(tokens) // n_ctx
    first = n_ctx // 2
    data = bytearray(b"_logits_" + struct.pack("<iii", n_ctx, logits.shape[1], chunks))
    data += tokens[: chunks * n_ctx].astype("<i4").tobytes()
    for c in range(chunks):
        for p in range(first, n_ctx - 1):
            row = logits[tokens[c * n_ctx + p]].astype(np.float64)
            top, low = row.max(), max(row.min(), row.max() - 16)
            total = np.log(np.exp(row - top).sum())
            scale = np.float32((top - low) / 65535)
            codes = np.where(row > low, np.rint((row - low) / scale), 0).astype("<u2")
            data += struct.pack("<ff", scale, low - top - total) + codes.tobytes() + b"\0\0" * (len(row) % 2)
    path.write_bytes(bytes(data))
    return path


# DistillKit


def packed_bits(numbers: np.ndarray, bits: int) -> list[list[int]]:
    """Each row as one run of bits, highest first, filled up to whole bytes."""
    rows = []
    for row in numbers:
        text = "".join(format(int(one), f"0{bits}b") for one in row)
        text += "0" * (-len(text) % 8)
        rows.append([int(text[i : i + 8], 2) for i in range(0, len(text), 8)])
    return rows


COMPRESSION = """\
d: 320
k: 12
exact_k: 4
exact_dtype: float32
polynomial_terms: [0, 1, sqrt]
term_dtype: float32
residual_bins:
- {scale_dtype: float16, element_bits: 8, num_elements: 5}
- {scale_dtype: float32, element_bits: 1, num_elements: 2}
delta_encoding: true
error_diffusion: false
normalize_t: false
"""


def compressed(log_p: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
    """Rows of 12 log-probabilities by COMPRESSION -> bytes, and what they stand for."""
    rows, means = [], []
    for one in log_p:
        deltas = np.concatenate([one[:1], np.diff(one)])
        exact = deltas[:4].astype(np.float32)
        t = np.arange(8.0)
        basis = np.stack([t**0, t, np.sqrt(t)], 1)
        coefficients = np.linalg.lstsq(basis, deltas[4:], rcond=None)[0].astype(np.float32)
        fit = basis @ coefficients.astype(np.float64)
        left = deltas[4:] - fit
        data, got = exact.tobytes() + coefficients.tobytes(), fit.copy()
        scale = np.float16(np.abs(left[:5]).max() / 128)
        codes = np.clip(np.rint(left[:5] / float(scale)), -128, 127) + 128
        data += scale.tobytes() + bytes(codes.astype(np.uint8))
        got[:5] += (codes - 128) * float(scale)
        scale1 = np.float32(np.abs(left[5:7]).max())
        signs = (left[5:7] > 0).astype(int)
        data += scale1.tobytes() + bytes([signs[0] << 7 | signs[1] << 6])
        got[5:7] += (2 * signs - 1) * float(scale1)
        rows.append([*data])
        means.append(np.concatenate([exact.astype(np.float64), got]).cumsum())
    return rows, np.array(means)


def write_distillkit(folder: Path, logits: np.ndarray, of: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two Parquet files and their config; gives the ids and the log-probabilities that each text's bytes stand for."""
    folder.mkdir()
    (folder / "compression_config.yaml").write_text(COMPRESSION)
    truth, rows = [], []
    for tokens in of:
        ids, log_p = likeliest(log_softmax(logits[tokens[:-1]]), 12)
        data, means = compressed(log_p)
        truth.append((ids, means))
        rows.append({"input_ids": tokens, "compressed_logprobs": data, "bytepacked_indices": packed_bits(ids, 9)})
    schema = pa.schema(
        [
            ("input_ids", pa.list_(pa.uint64())),
            ("compressed_logprobs", pa.list_(pa.list_(pa.uint8()))),
            ("bytepacked_indices", pa.list_(pa.list_(pa.uint8()))),
        ]
    )
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        pq.write_table(pa.Table.from_pylist(part, schema), folder / f"data_{number}.parquet")
    return truth


# Megatron


def write_megatron(
    folder: Path,
    logits: np.ndarray,
    samples: np.ndarray,
    *,
    version: int = 2,
    dp: int = 2,
    mbs: int = 1,
    k: int = 6,
    p: float | None = None,
) -> None:
    """Each iteration has 2 · dp · mbs samples; all of them in one flush."""
    folder.mkdir()
    gbs = 2 * dp * mbs
    saver = {"k": k, "p": p, "min_k": 1, "save_dtype": "fp32"}
    if version == 2:
        saver |= {"format_version": 2, "mbs_save": mbs, "dp_size_save": dp, "gbs_save": gbs}
    for rank in range(dp):
        name = f"dp{rank}__0-{len(samples)}.tar" if version == 2 else f"dp{rank}__{len(samples) // gbs - 1}.tar"
        with tarfile.open(folder / name, "w") as tar:
            add(tar, "_meta.json", json.dumps({"hash": "0", "saver": saver}).encode())
            for iteration, start in enumerate(range(0, len(samples), gbs)):
                micro = [
                    samples[start + (m * dp + rank) * mbs : start + (m * dp + rank + 1) * mbs]
                    for m in range(gbs // dp // mbs)
                ]
                parts = [tensors(logits, one, k, p) for one in micro]
                if version == 2:
                    values, ids = (torch.cat([part[i] for part in parts], 1) for i in (0, 1))
                    bits = torch.from_numpy(np.packbits((ids.numpy() >> 16 & 1).astype(bool)))
                    payload = {"values": values, "indices_low": (ids & 0xFFFF).to(torch.uint16), "bit_17": bits}
                    payload["format_version"] = 2
                    member = f"{start}-{start + gbs}.pt.zst"
                else:
                    payload = {
                        "values": [one for one, _ in parts],
                        "indices_low": [(ids & 0xFFFF).to(torch.uint16) for _, ids in parts],
                        "bit_17": [(ids >> 16 & 1).bool() for _, ids in parts],
                    }
                    member = f"{iteration}.pt.zst"
                data = io.BytesIO()
                torch.save(payload, data)
                add(tar, member, pa.compress(data.getvalue(), "zstd", asbytes=True))


def tensors(logits: np.ndarray, samples: np.ndarray, k: int, p: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """values and classes, [S, N, k]."""
    ids, log_p = likeliest(log_softmax(logits[samples.T]), k)
    if p is not None:
        before = np.exp(log_p).cumsum(-1) - np.exp(log_p)
        ids, log_p = np.where(before < p, ids, -1), np.where(before < p, log_p, -1e4)
    return torch.from_numpy(log_p.astype(np.float32)), torch.from_numpy(ids)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
