"""A training step from the cache, against cross-entropy, plain PyTorch, DeepSpeed, and a teacher in memory.

Every side makes a whole step, forward, backward and AdamW, on the same number of positions, in turn in one process. The
steps from a cache read it through Loader and Collator, and the time of that counts. Memory is of processes of their
own: resident memory at its highest during three steps, less what was resident after the imports.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import kdcache
from tests.bench.part import Part, Rows
from tests.bench.scene import SIZES, plain_student, student_config, teacher_folder, texts, use_threads
from tests.bench.tables import figure, spread, table
from tests.bench.timing import interleaved, middle_half, reason, status

BATCH, LENGTH = 2, 256
ROUNDS = 42
CACHED, LABELS, PLAIN = "kdcache, forward KL from the cache", "kdcache, cross-entropy", "plain PyTorch, cross-entropy"
SPED, SPED_LABELS = "DeepSpeed with kdcache, forward KL", "DeepSpeed, cross-entropy"
ONLINE, TRL = "own loop, teacher in memory, dense forward KL", "TRL's GKD trainer, teacher in memory, forward KL"
SELDOM = {SPED: 3, SPED_LABELS: 3, ONLINE: 14, TRL: 14}
"""Sides that run in each so many rounds: hundredths do not matter, and the last two take ten times as long."""
Step = Callable[[], None]
Ready = tuple[Callable[..., Any], Callable[[Any], None], Step]


def run(quick: bool) -> Rows:
    threads = use_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dump = _make_cache(folder / "cache", 2 if quick else 6)
        sizes = {}
        for size in ("7M",) if quick else SIZES:
            makers = _makers(folder / "cache", size)
            sides = {side: _later(make) for side, make in makers.items()}
            times = interleaved(sides, 2 if quick else ROUNDS, seldom=SELDOM)
            sizes[size] = {"times": times, "memory": {}}
            del sides
            for side in (CACHED, ONLINE, TRL):
                words = [sys.executable, "-m", "tests.bench.step", str(folder / "cache"), size, side]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or [""]
                sizes[size]["memory"][side] = float(said[-1]) if done.returncode == 0 else said[-1][:200]
    return {"threads": threads, "dump_cpu": dump, "positions": BATCH * (LENGTH - 1), "sizes": sizes}


def _make_cache(folder: Path, batches: int) -> float:
    """CPU seconds that the teacher and its records take for one batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teacher = AutoModelForCausalLM.from_pretrained(teacher_folder(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    ids = [token for text in texts()[:40] for token in tokenizer(text, verbose=False)["input_ids"]]
    windows = torch.tensor(ids[: (batches + 1) * BATCH * LENGTH]).reshape(-1, BATCH, LENGTH)
    seconds = []
    with torch.inference_mode(), kdcache.CacheWriter(folder, num_classes=49_152, examples_per_shard=BATCH) as writer:
        for tokens_BL in windows:
            started = time.process_time()
            logits = teacher(tokens_BL, use_cache=False).logits
            for tokens, logits_LV in zip(tokens_BL, logits, strict=True):
                writer.add(tokens, logits_LV[:-1])
            seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def _makers(folder: Path, size: str) -> dict[str, Callable[[], Step]]:
    cache = kdcache.open_cache(folder)
    return {
        CACHED: lambda: _from_cache(cache, size, "divergence"),
        LABELS: lambda: _from_cache(cache, size, "cross_entropy"),
        PLAIN: lambda: _plain(cache, size),
        SPED: lambda: _from_cache(cache, size, "divergence", deepspeed=True),
        SPED_LABELS: lambda: _plain(cache, size, deepspeed=True),
        ONLINE: lambda: _online(cache, size),
        TRL: lambda: _gkd(cache, size),
    }


def _later(make: Callable[[], Step]) -> Step:
    """Made in the first round, which does not count; a side that cannot be made says so there."""
    made: list[Step] = []

    def step() -> None:
        if not made:
            made.append(make())
        made[0]()

    return step


def _from_cache(cache: kdcache.Cache, size: str, term: str, *, deepspeed: bool = False) -> Step:
    student = kdcache.make_student(kdcache.StudentConfig(config=student_config(size)), cache, seed=0)
    model, collate = kdcache.with_loss(student), kdcache.Collator(student, cache)
    terms = kdcache.loss_terms([{"name": term}], cache)
    batches = iter(kdcache.Loader(cache, global_batch=BATCH, seed=0))
    ready, back, update = _engine(model) if deepspeed else _optimizer(model)

    def step() -> None:
        (batch,) = next(batches)
        back(ready(collate(batch), terms)[0] / batch.num_positions)
        update()

    return step


def _plain(cache: kdcache.Cache, size: str, *, deepspeed: bool = False) -> Step:
    student, batches = plain_student(size), _tokens(cache)
    ready, back, update = _engine(student) if deepspeed else _optimizer(student)

    def step() -> None:
        tokens_BL = next(batches)
        logits_PV = ready(tokens_BL, use_cache=False).logits[:, :-1].flatten(0, 1)
        back(torch.nn.functional.cross_entropy(logits_PV, tokens_BL[:, 1:].flatten()))
        update()

    return step


def _online(cache: kdcache.Cache, size: str) -> Step:
    from transformers import AutoModelForCausalLM

    teacher = AutoModelForCausalLM.from_pretrained(teacher_folder(), dtype=torch.float32).eval()
    student, batches = plain_student(size), _tokens(cache)
    _, back, update = _optimizer(student)

    def step() -> None:
        tokens_BL = next(batches)
        with torch.no_grad():
            log_p_PV = teacher(tokens_BL, use_cache=False).logits[:, :-1].flatten(0, 1).log_softmax(-1)
        log_q_PV = student(tokens_BL, use_cache=False).logits[:, :-1].flatten(0, 1).log_softmax(-1)
        back(torch.nn.functional.kl_div(log_q_PV, log_p_PV, reduction="batchmean", log_target=True))
        update()

    return step


def _gkd(cache: kdcache.Cache, size: str) -> Step:
    """Its own training_step and optimizer; lmbda = 0: on the texts that there are, not on the student's own."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    teacher = AutoModelForCausalLM.from_pretrained(teacher_folder(), dtype=torch.float32).eval()
    settings = GKDConfig(
        tempfile.mkdtemp(), lmbda=0.0, beta=0.0, temperature=1.0, per_device_train_batch_size=BATCH, report_to=[],
        bf16=False, gradient_checkpointing=False, use_cpu=True, disable_tqdm=True, max_length=LENGTH,
    )  # fmt: skip
    trainer = GKDTrainer(
        plain_student(size), teacher_model=teacher, args=settings, data_collator=lambda rows: rows,
        train_dataset=Dataset.from_dict({"input_ids": [[0, 1]]}), processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1  # set by train(), whose loop this one stands for
    model, batches = trainer.model.train(), _tokens(cache)
    _, _, update = _optimizer(model)

    def step() -> None:
        tokens_BL = next(batches)
        inputs = {"input_ids": tokens_BL, "attention_mask": torch.ones_like(tokens_BL), "labels": tokens_BL.clone()}
        trainer.training_step(model, inputs)
        update()

    return step


def _optimizer(model: torch.nn.Module) -> Ready:
    """The model, what makes gradients of a loss, and what uses them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return model, (lambda loss: loss.backward()), update


def _engine(model: torch.nn.Module) -> Ready:
    """The same by DeepSpeed, ZeRO 1 on one rank."""
    import deepspeed

    from kdcache.launcher import World
    from kdcache.train.distributed import connect

    if not torch.distributed.is_initialized():
        connect(World(), "cpu")
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ.update(alone)
    settings = {"train_micro_batch_size_per_gpu": BATCH, "zero_optimization": {"stage": 1}, "steps_per_print": 10**9,
                "zero_allow_untested_optimizer": True}  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    for name in alone:  # or TRL would believe in a launcher
        del os.environ[name]
    return engine, engine.backward, engine.step


def _tokens(cache: kdcache.Cache) -> Any:
    """The same windows again and again, int64 [B, L]."""
    batch = cache.read(0, len(cache))
    rows = [torch.from_numpy(batch.tokens(index)) for index in range(len(batch))]
    return itertools.cycle(torch.stack(rows).split(BATCH))


def render(rows: Rows) -> str:
    parts = [
        f"A whole step (forward, backward, AdamW) of {BATCH} windows of {LENGTH} tokens, float32, {rows['threads']} "
        f"threads, {ROUNDS} steps of the first three, {ROUNDS // SELDOM[SPED]} of DeepSpeed's and "
        f"{ROUNDS // SELDOM[ONLINE]} with a teacher in memory, in turn; students with the 49,152 classes of "
        "SmolLM2-135M, which is the teacher. Ratios of CPU seconds are to the first row; in brackets the middle half "
        "of the rounds. Memory is resident above the imports. Teacher and records of one batch take "
        f"{figure(rows['dump_cpu'])} CPU seconds once; so many students, trained once on the texts, or passes of one "
        "student, make the cache pay."
    ]
    for size, found in rows["sizes"].items():
        base = found["times"][CACHED]
        lines = [_line(name, row, base, found["memory"].get(name)) for name, row in found["times"].items()]
        parts += [f"**A student of {size} parameters**", table(["step", "CPU s", "ratio", "memory, MB"], lines)]
        if "failed" not in base and "failed" not in found["times"][LABELS]:
            ratio = spread(middle_half(base, found["times"][LABELS]))
            parts.append(f"A step from the cache takes {ratio} of the time of one on labels.")
        for online in (ONLINE, TRL):
            row = found["times"][online]
            if "failed" not in row and "failed" not in base:
                saved = statistics.median(row["cpu"]) - statistics.median(base["cpu"])
                count = f"{rows['dump_cpu'] / saved:.2f}" if saved > 0 else "no number of"
                parts.append(f"Break-even against {online}: {count} students or passes.")
    return "\n\n".join(parts)


def _line(name: str, row: Rows, base: Rows, memory: Any) -> list[str]:
    size = figure(memory) if isinstance(memory, float) else memory or ""
    if "failed" in row or "failed" in base:
        return [name, f"not run: {row.get('failed', '')}", "", size]
    every = round(len(base["cpu"]) / len(row["cpu"]))
    return [name, figure(statistics.median(row["cpu"])), spread(middle_half(row, base, every)), size]


PART = Part(
    name="step",
    title="Training step: the cache against labels, plain PyTorch, DeepSpeed and a teacher in memory",
    minutes=7,
    run=run,
    render=render,
    peers=True,
)

if __name__ == "__main__":
    use_threads()
    step = _makers(Path(sys.argv[1]), sys.argv[2])[sys.argv[3]]
    before = status("VmRSS")
    try:
        once = step()
        for _ in range(3):
            once()
    except Exception as error:
        sys.exit(reason(error))
    print((status("VmHWM") - before) / 1e3)
