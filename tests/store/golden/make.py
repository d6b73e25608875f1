"""Makes the golden caches that are not there yet: `python tests/store/golden/make.py` from the repository's root.

A cache that is there is never made again: the tests read it as it was written, by whatever version wrote it. A new
record kind, task or backend gets a new folder. expected.json beside each cache is what this version decodes.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent.parent.parent))

from kdcache import CacheWriter, open_cache  # noqa: E402
from kdcache.store.backend import BACKENDS  # noqa: E402
from kdcache.store.batch import Batch  # noqa: E402

CLASSES, WIDTH = 24, 6
TEMPERATURES = (0.5, 1.0, 2.0)
FEW = {"num_classes": 3, "labels": ["bad", "fair", "good"]}
CACHES: dict[str, dict[str, Any]] = {
    "sampled": {"record": {"kind": "sampled", "exact_top_k": 2, "samples": 6}, "examples_per_shard": 2},
    "sampled_at_1": {
        "record": {"kind": "sampled", "exact_top_k": 0, "samples": 6, "curve": {"temperatures": [1.0]}},
    },
    "sampled_uint8": {"record": {"kind": "sampled", "exact_top_k": 2, "samples": 6, "logit_dtype": "uint8"}},
    "drawn": {"record": {"kind": "drawn", "samples": 5, "keep": ["entropy", "label_loss"]}},
    "top_k": {"record": {"kind": "top_k", "k": 4}},
    "factored": {"record": {"kind": "factored", "rank": 3, "exact_top_k": 2}},
    "captured": {"record": {"kind": "captured", "k": 4}},
    "captured_renormalised": {"record": {"kind": "captured", "k": 4, "temperature": 2.0, "tail": "renormalise"}},
    "dense": {"record": {"kind": "dense"}},
    "dense_uint16": {"record": {"kind": "dense", "logit_dtype": "uint16"}},
    "features": {"record": [{"kind": "sampled", "exact_top_k": 2, "samples": 6}, {"kind": "features"}]},
    "label_only": {"record": None},
    "sequence_classification": {"task": {"name": "sequence_classification"}, **FEW},
    "token_classification": {"task": {"name": "token_classification"}, **FEW},
    "regression": {"task": {"name": "regression"}, "num_classes": 2, "labels": ["height", "width"]},
    "multilabel_classification": {"task": {"name": "multilabel_classification"}, **FEW},
}


def make(folder: Path, backend: str, settings: dict[str, Any]) -> None:
    """Write a small cache of three examples."""
    settings = {"num_classes": CLASSES, "backend": backend, "seed": 7, "examples_per_shard": 4, **settings}
    name = settings.get("task", {}).get("name", "causal_lm")
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.normal(0, 1.5, (settings["num_classes"], WIDTH)).astype(np.float32))
    record = settings.get("record", {"kind": "dense"})
    kinds = {one["kind"] for one in (record if isinstance(record, list) else [record] if record else [])}
    if "factored" in kinds:
        settings |= {"output_layer": (weight, None), "calibration": torch.from_numpy(_normal(rng, 60))}
    if "features" in kinds:
        settings["features"] = WIDTH
    with CacheWriter(folder, **settings) as writer:
        for length in (4, 2, 3):
            positions = {"causal_lm": length - 1, "token_classification": length}.get(name, 1)
            hidden = torch.from_numpy(_normal(rng, positions))
            given: dict[str, Any] = {"features": hidden} if "features" in kinds else {}
            if "factored" in kinds:
                given["hidden"] = hidden
            elif kinds:
                given["logits"] = hidden @ weight.T
            if name != "causal_lm":
                given["labels"] = _labels(rng, name, positions, settings["num_classes"])
            writer.add(rng.integers(0, CLASSES, length), **given)


def _normal(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.normal(0, 1, (rows, WIDTH)).astype(np.float32)


def _labels(rng: np.random.Generator, name: str, positions: int, classes: int) -> Any:
    if name == "regression":
        return rng.normal(0, 1, (positions, classes)).astype(np.float32)
    if name == "multilabel_classification":
        return rng.integers(0, 2, (positions, classes))
    return np.where(np.arange(positions) == 2, -100, rng.integers(0, classes, positions))


def decoded(folder: Path) -> dict[str, Any]:
    """What this version reads in a cache, as plain lists."""
    cache = open_cache(folder)
    batch = cache.read(0, len(cache))
    values: dict[str, Any] = {
        "tokens": [batch.tokens(i).tolist() for i in range(len(batch))],
        "positions": [batch.positions(i).tolist() for i in range(len(batch))],
        "labels": _plain(batch.labels),
    }
    if batch.features is not None:
        values["features"] = _plain(batch.features)
    if batch.distribution is not None:
        values |= _of_targets(batch)
    return values


def _of_targets(batch: Batch) -> dict[str, Any]:
    targets = batch.targets()
    kept_PE = (targets.inclusion_PE != 0).expand(targets.ids_PE.shape)
    values: dict[str, Any] = {
        "num_certain": _plain(targets.num_certain_P),
        "counts": _plain(kept_PE.sum(1)),
        "ids": _plain(targets.ids_PE[kept_PE]),
        "logits": _plain(targets.logits_PE[kept_PE]),
        "at": {},
    }
    assert batch.distribution is not None
    for temperature in TEMPERATURES:
        if batch.distribution.answers(temperature):
            at = {
                "log_partition": _plain(targets.log_partition(temperature)),
                **({"entropy": _plain(targets.entropy(temperature))} if targets.knows_entropy else {}),
                "weights": _plain(targets.weights(temperature)[kept_PE]),
            }
            if targets.knows_every_class:
                at["log_probs"] = _plain(targets.dense_log_probs(temperature))
            values["at"][f"{temperature:g}"] = at
    return values


def _plain(values: Any) -> list[Any]:
    array = np.asarray(values)
    return array.tolist() if array.dtype.kind in "iu" else np.round(array.astype(np.float64), 7).tolist()


if __name__ == "__main__":
    for kind, settings in CACHES.items():
        for backend in BACKENDS.built_in:
            folder = ROOT / f"{kind}-{backend}"
            if not folder.exists():
                make(folder, backend, settings)
                shutil.rmtree(folder / ".kdcache")  # whose folder it is says nothing of the format
                (folder / "expected.json").write_text(json.dumps(decoded(folder)) + "\n")
                print(folder.name, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
