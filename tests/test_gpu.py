"""What only a GPU can show: the same numbers as on a CPU, and nothing that its host waits for without need.

Skipped where there is none. `bash launch/bench_gpu.sh` has the speeds.
"""

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train.tiny import train_settings, write_cache

import kdcache
from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.targets.coded import Coded
from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.moving import tensors_in
from kdcache.targets.records import record_kinds
from kdcache.targets.teacher_rows import TeacherRows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
V = 5000
RECORDS: list[dict[str, Any]] = [
    {"kind": "sampled"},
    {"kind": "sampled", "logit_dtype": "float32"},
    {"kind": "top_k", "k": 20},
    {"kind": "drawn"},
    {"kind": "dense"},
]
TERMS: list[dict[str, Any]] = [
    {"name": "divergence"},
    {"name": "divergence", "kind": "reverse_kl"},
    {"name": "divergence", "kind": "jsd"},
    {"name": "cross_entropy"},
]


@pytest.fixture(scope="module")
def logits_PV() -> torch.Tensor:
    return torch.randn(700, V, generator=torch.Generator().manual_seed(0)) * 4


@contextmanager
def no_waits() -> Iterator[list[str]]:
    """Where a host waited for its GPU inside; what transformers does is its own."""
    found: list[str] = []
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename}:{w.lineno}" for w in seen if "called a synchronizing" in str(w.message)]
    found += [place for place in places if "/transformers/" not in place]


def decoded(record: dict[str, Any], arrays: dict[str, np.ndarray], device: str) -> kdcache.TeacherTargets:
    coded = Coded.of(record_kinds(record)[0], arrays, V)
    there = Coded(coded.kind, {k: v.to(device) for k, v in coded.arrays.items()}, V, coded.facts)
    return there.targets()


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_records_are_those_of_a_cpu(record: dict[str, Any], logits_PV: torch.Tensor) -> None:
    """But where a sum's last bit moves a rounding."""
    here = compress_to_arrays(logits_PV, record)
    there = compress_to_arrays(logits_PV.cuda(), record)
    assert here.keys() == there.keys()
    same = here.get("entry_counts", np.zeros(1)) == there.get("entry_counts", np.zeros(1))
    assert same.mean() > 0.99
    for name, array in here.items():
        if array.shape == there[name].shape:
            assert np.isclose(array.astype(float), there[name].astype(float), rtol=1e-5, atol=1.01).mean() > 0.99, name


@pytest.mark.parametrize("record", RECORDS[:3], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_records_of_a_gpu_know_the_normaliser(
    record: dict[str, Any], dtype: torch.dtype, logits_PV: torch.Tensor
) -> None:
    rows = logits_PV.to(dtype).cuda()
    targets = kdcache.compress(rows, record)
    for temperature in (0.7, 1.0, 2.0):
        exact_P = (rows.double() / temperature).logsumexp(-1)
        assert (targets.log_partition(temperature).double() - exact_P).abs().mean() < 2e-3
    exact_PV = rows.double().softmax(-1)
    kept_PE = exact_PV.gather(1, targets.ids_PE)
    off_PE = (targets.log_probs(1.0).exp().double() - kept_PE).abs().masked_fill(targets.inclusion_PE == 0, 0.0)
    assert off_PE.max() < 2e-3


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_records_are_decoded_alike(record: dict[str, Any], logits_PV: torch.Tensor) -> None:
    arrays = compress_to_arrays(logits_PV, record)
    here, there = decoded(record, arrays, "cpu"), decoded(record, arrays, "cuda")
    for a, b in zip(tensors_in(here), tensors_in(there), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(here.weights(1.0), there.weights(1.0).cpu(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("record", [RECORDS[0], RECORDS[4]], ids=str)
@pytest.mark.parametrize("term", TERMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_that_of_float64(
    record: dict[str, Any], term: dict[str, Any], dtype: torch.dtype, logits_PV: torch.Tensor
) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden_PD = torch.randn(len(logits_PV), 64, generator=generator).to(dtype)
    weight_VD = (torch.randn(V, 64, generator=generator) / 3).to(dtype)
    supervision = Supervision(
        torch.randint(0, V, (len(logits_PV),), generator=generator), kdcache.compress(logits_PV, record)
    )
    terms = kdcache.LossTerms([kdcache.make_term(**term)], V)

    def found(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
        hidden, weight = (x.to(device, dtype, copy=True).requires_grad_() for x in (hidden_PD, weight_VD))
        loss, _ = FusedLoss(terms, supervision.to(device), chunk=256)(hidden, weight)
        (loss / len(hidden)).backward()
        return [x.detach().double().cpu() for x in (loss, hidden.grad, weight.grad)]

    exact, got = found("cpu", torch.float64), found("cuda", dtype)
    limits = (1e-5, 2e-5, 2e-5) if dtype == torch.float32 else (1e-5, 8e-3, 8e-3)
    for wanted, other, limit in zip(exact, got, limits, strict=True):
        assert (wanted - other).norm() <= limit * wanted.norm()


@pytest.mark.parametrize("record", RECORDS[:4], ids=str)
def test_a_block_of_rows_waits_once(record: dict[str, Any], logits_PV: torch.Tensor) -> None:
    """For its records."""
    kind, rows = record_kinds(record)[0], TeacherRows.of(logits_PV.cuda())
    kind.encode(rows)
    with no_waits() as found:
        kind.encode(rows)
    assert len(found) <= 1, found


SMALL = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> kdcache.Cache:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("gpu") / "cache"
    with kdcache.CacheWriter(folder, num_classes=V, examples_per_shard=8) as writer:
        for _ in range(24):
            writer.add(rng.integers(V, size=33), (rng.normal(size=(32, V)) * 4).astype(np.float32))
    return kdcache.open_cache(folder)


def test_inputs_arrive_from_pinned_memory_and_a_step_waits_for_nothing(cache: kdcache.Cache) -> None:
    config = SMALL | {"num_attention_heads": 4, "vocab_size": V}
    student = kdcache.make_student(kdcache.StudentConfig(config=config), cache, seed=0)
    twin = copy.deepcopy(student)
    collate, model = kdcache.Collator(student, cache), kdcache.with_loss(student).cuda()
    terms = kdcache.loss_terms([{"name": "divergence"}, {"name": "divergence", "kind": "reverse_kl"}], cache)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    with kdcache.Loader(cache, global_batch=8, micro_batch=4) as loader:
        expected = [collate(batch) for _ in range(4) for batch in next(loader)]
    assert expected[0].pin_memory().buffer.is_pinned()  # type: ignore[union-attr]

    def step(feed: Iterator[kdcache.Prefetched]) -> kdcache.Prefetched:
        fed = next(feed)
        (model(fed.inputs, terms)[0] / fed.positions).backward()
        optimizer.step()
        optimizer.zero_grad()
        return fed

    with (
        kdcache.Loader(cache, global_batch=8, micro_batch=4) as loader,
        kdcache.Prefetcher(loader, collate, "cuda") as feed,
    ):
        seen = [step(feed), step(feed)]
        with no_waits() as found:
            seen += [step(feed) for _ in range(4)]
    assert found == []
    here = kdcache.with_loss(twin)
    for fed, wanted in zip(seen, expected[:6], strict=True):
        for got, sent in zip(tensors_in(fed.inputs), tensors_in(wanted.decoded()), strict=True):
            torch.testing.assert_close(got.cpu(), sent, rtol=1e-6, atol=1e-6)
        there = model(fed.inputs, terms)[0].item()
        assert there == pytest.approx(here(wanted, terms)[0].item(), rel=1e-4)


def test_a_dump_on_a_gpu(tmp_path: Path) -> None:
    """Its whole path: a teacher in bfloat16, records of the GPU, and what `verify --teacher` would compare."""
    from bench.gpu_scene import TINY, make_corpus, make_teacher
    from bench.gpu_sides import dump

    device = torch.device("cuda")
    teacher = make_teacher(tmp_path / "teacher", TINY, device)
    folder, _ = dump(tmp_path / "dump", teacher, make_corpus(tmp_path / "corpus.jsonl", TINY), TINY, device)
    cache = kdcache.open_cache(folder)
    batch = cache.read(0, 4)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).cuda()
    tokens_BL = torch.stack([torch.from_numpy(batch.tokens(i)) for i in range(4)]).cuda()
    with torch.inference_mode():
        exact_P = model(tokens_BL).logits[:, :-1].flatten(0, 1).double().logsumexp(-1).cpu()
    assert (batch.targets().log_partition(1.0).double() - exact_P).abs().mean() < 0.05


def test_a_run_on_a_gpu(tmp_path: Path) -> None:
    """`kdcache train` under DeepSpeed: it logs a loss that falls, and exports a student."""
    pytest.importorskip("deepspeed")
    settings = train_settings(
        write_cache(tmp_path / "cache"), tmp_path / "run", steps=12, device="cuda", terms=[{"name": "divergence"}]
    )
    (tmp_path / "train.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "kdcache", "train", str(tmp_path / "train.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "student" / "config.json").is_file()
