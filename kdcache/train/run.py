"""The story of a training run, as every rank tells it.

OUTPUT/checkpoints/   to go on from
OUTPUT/log.jsonl      a line each log_every steps and for each evaluation
OUTPUT/tensorboard/   the same for TensorBoard
OUTPUT/student/       the finished student
OUTPUT/done.json      steps and held-out figures; written last
"""

import json
import math
from pathlib import Path
from typing import Any

from kdcache.config import TrainConfig
from kdcache.errors import CacheError
from kdcache.losses.terms import LossTerms
from kdcache.progress import say
from kdcache.store.cache import Cache, open_cache
from kdcache.stream.loader import Loader
from kdcache.train.checkpoint import Checkpoints
from kdcache.train.distributed import World
from kdcache.train.engine import make_engine, make_monitor, read_deepspeed, zero_stage
from kdcache.train.evaluate import check_held_out, evaluate_engine
from kdcache.train.export import export_student
from kdcache.train.loop import Log, Trainer
from kdcache.train.model import with_loss
from kdcache.train.settings import check_unchanged, pinned_settings
from kdcache.train.student import attention_of, make_student

__all__ = ["train"]

DONE = "done.json"


def train(config: TrainConfig, world: World, device: str) -> None:
    """Train from the start or from the last checkpoint, evaluate, export. Raises KdcacheError."""
    output = Path(config.output)
    cache = open_cache(config.cache)
    held_out = open_held_out(config, cache)
    check_has_positions(cache, config)
    pinned = pinned_settings(config, cache.digest)
    checkpoints = Checkpoints(output, config.checkpoint, world)
    saved = checkpoints.latest()
    if saved is not None:
        check_unchanged(saved.settings, pinned, config.output)

    stream = config.stream
    with Loader(
        cache,
        global_batch=config.global_batch,
        micro_batch=config.micro_batch,
        lanes=stream.lanes,
        window=stream.window,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        memory_gb=stream.memory_gb,
    ) as loader:
        total = config.steps or math.ceil((config.epochs or 0) * loader.steps_per_epoch)
        if is_finished(output, total, world):
            say(f"{output} is finished: {total} of {total} steps, the student is in {output / 'student'}")
            return
        terms = LossTerms(config.terms, cache.manifest.header.num_classes)
        student = make_student(config.student, cache, config.seed)
        model = with_loss(student, cache.manifest.header.num_classes, chunk=config.loss_chunk)
        stage = zero_stage(read_deepspeed(config.deepspeed))
        universal = saved is not None and checkpoints.needs_conversion(saved, stage)
        engine = make_engine(model, config, world.size, universal=universal)
        step = 0
        if saved is not None:
            checkpoints.load(engine, saved)
            loader.load_state(saved.loader)
            step = saved.step
            say(f"going on from step {step} of {total}")
        if world.first:
            output.mkdir(parents=True, exist_ok=True)
        log = Log(output, make_monitor(config), world, step)
        trainer = Trainer(
            engine,
            config,
            terms,
            world,
            device=device,
            attention=attention_of(cache),
            total_steps=total,
            step=step,
        )

        def evaluate() -> dict[str, float] | None:
            if held_out is None or config.eval is None:
                return None
            figures = evaluate_engine(
                engine,
                held_out,
                world,
                trainer.device,
                batch_examples=config.eval.batch_examples,
                max_examples=config.eval.max_examples,
            )
            log.write(trainer.step, "eval", figures)
            return figures

        def after(step: int) -> None:
            if step < total and is_due(step, config.checkpoint.every):
                checkpoints.save(engine, step, loader.state(), pinned)
            if step < total and config.eval is not None and is_due(step, config.eval.every):
                evaluate()

        trainer.run(loader, log, after)
        if saved is None or step < total:
            checkpoints.save(engine, trainer.step, loader.state(), pinned)
    figures = evaluate()
    folder = export_student(engine, config, cache, world, steps=trainer.step, figures=figures)
    if world.first:
        (output / DONE).write_text(json.dumps({"steps": total, "evaluation": figures}, indent=1), encoding="utf-8")
        say(f"wrote {folder}{spoken(figures)}")


def open_held_out(config: TrainConfig, cache: Cache) -> Cache | None:
    if config.eval is None:
        return None
    held_out = open_cache(config.eval.cache)
    check_held_out(held_out, cache)
    return held_out


def check_has_positions(cache: Cache, config: TrainConfig) -> None:
    if cache.num_positions == 0:
        raise CacheError(
            f"{config.cache} has no supervised position in its {len(cache)} examples, expected at least one: "
            "look at the loss mask of its task"
        )


def is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def is_finished(output: Path, total: int, world: World) -> bool:
    done: dict[str, Any] = {}
    if world.first and (output / DONE).is_file():
        done = json.loads((output / DONE).read_text(encoding="utf-8"))
    return world.from_first(done.get("steps")) == total


def spoken(figures: dict[str, float] | None) -> str:
    if not figures:
        return ""
    return "; held out: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "positions")
