"""The story of a training run, as every rank tells it.

OUTPUT/checkpoints/   to go on from
OUTPUT/log.jsonl      a line each log_every steps and for each evaluation
OUTPUT/tensorboard/   the same for TensorBoard
OUTPUT/student/       the finished student
OUTPUT/done.json      steps, held-out figures, precision and pinned settings; written last
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from kdcache.disk import Disk
from kdcache.errors import CacheError, TrainError
from kdcache.launcher import World
from kdcache.losses.bottleneck import Bottleneck, make_bottlenecks
from kdcache.losses.terms import LossTerms
from kdcache.progress import counted, say
from kdcache.store.cache import Cache, open_cache
from kdcache.stream.fitting import check_sizes
from kdcache.stream.loader import Loader
from kdcache.stream.order import steps_per_epoch
from kdcache.students.balance import balancing_weight, warn_unbalanced
from kdcache.students.class_weights import class_weights
from kdcache.students.collate import Collator
from kdcache.students.loss import head_width, with_loss
from kdcache.students.making import make_student
from kdcache.students.scoring import EVALUATION_TEMPERATURE, check_held_out, evaluate_engine
from kdcache.train.cautions import first_targets, warn
from kdcache.train.checkpoint import Checkpoints
from kdcache.train.engine import make_engine, make_monitor
from kdcache.train.export import export_student
from kdcache.train.loop import Log, Trainer
from kdcache.train.pinned import check_unchanged, pinned_settings
from kdcache.train.precision import precision_in_use, spoken_precision
from kdcache.train.settings import TrainConfig

__all__ = ["is_finished", "open_caches", "open_loader", "train"]

DONE = "done.json"


def train(config: TrainConfig, world: World, device: str) -> None:
    """Train from the start or from the last checkpoint, evaluate, export. Raises KdcacheError."""
    cache, held_out = open_caches(config)
    check_sizes(
        len(cache),
        global_batch=config.global_batch,
        micro_batch=config.micro_batch,
        lanes=config.stream.lanes,
        world_size=world.size,
    )
    if is_finished(config, cache):
        return
    output = Path(config.output)
    total = total_steps(config, cache)
    pinned = pinned_settings(config, cache.digest)
    checkpoints = Checkpoints(output, config.checkpoint, world)
    saved = checkpoints.latest()
    if saved is not None:
        check_unchanged(saved.settings, pinned, config.output)
    elif world.first:
        warn(config, cache, held_out)
    if left_out := left_out_of_an_epoch(config, cache, total):
        say(left_out)

    with open_loader(config, cache, world) as loader:
        student = make_student(
            config.student, cache, config.seed, batch_examples=most_in_a_batch(config), device=device
        )
        warn_unbalanced(student)
        model = with_loss(
            student,
            chunk=config.loss_chunk,
            bottlenecks=bottlenecks_of(config, student, cache),
        )
        convert = saved is not None and checkpoints.needs_conversion(saved, config)
        engine = make_engine(model, config, world.size, universal=convert)
        precision = precision_in_use(engine, config)
        say(f"precision: {spoken_precision(precision)}")
        if saved is not None:
            checkpoints.load(engine, saved, convert=convert)
            loader.load_state(saved.loader)
            say(f"going on from step {saved.step} of {total}")
        trainer = Trainer(
            engine,
            config,
            LossTerms(
                config.terms,
                cache.manifest.header.num_classes,
                class_weights(config.terms, cache),
                balance=balancing_weight(student),
            ),
            Collator(student, cache),
            world,
            device=device,
            total_steps=total,
            step=0 if saved is None else saved.step,
        )
        log = Log(output, make_monitor(config), world, trainer.step)

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
            if step < total and config.eval is not None and is_due(step, config.eval.every):
                evaluate()
            if step == total or is_due(step, config.checkpoint.every):
                checkpoints.save(engine, step, loader.state(), pinned)

        trainer.run(loader, log, after)
    figures = evaluate()
    folder = export_student(engine, config, cache, world, steps=trainer.step, figures=figures, precision=precision)
    if world.first:
        done = {"steps": total, "evaluation": figures, "precision": precision, "settings": pinned}
        Disk(output).write(DONE, json.dumps(done, indent=1).encode())
        say(f"wrote {folder}{spoken(figures)}")


def open_caches(config: TrainConfig) -> tuple[Cache, Cache | None]:
    """The training cache and the held-out one. Raises CacheError or ConfigError for one that cannot be used."""
    cache = open_cache(config.cache)
    if cache.num_positions == 0:
        raise CacheError(
            f"{config.cache} has no supervised position in its {len(cache)} examples, expected at least one: "
            "look at the loss mask of its task"
        )
    if cache.manifest.header.tokenizer is not None:
        cache.check_tokenizer()
    unlabelled = cache.manifest.totals.notes.get("unlabelled", 0) if cache.manifest.header.id2label else 0
    if unlabelled == cache.num_positions and all(term.name == "cross_entropy" for term in config.terms):
        raise CacheError(
            f"{config.cache} has no label, expected some for a cross_entropy term: dump it with corpus.label_field or "
            "corpus.tags_field"
        )
    asking = next((term for term in config.terms if term.needs_teacher), None)
    if cache.manifest.header.record is None and asking is not None:
        article = "an" if asking.name == "entropy" or asking.weighting == "entropy" else "a"
        what = f"{article} {'entropy-weighted ' if asking.weighting == 'entropy' else ''}{asking.name}"
        raise CacheError(
            f"{config.cache} holds labels and no teacher, expected one for {what} term: "
            "use terms: [{name: cross_entropy}], or dump with a teacher"
        )
    class_weights(config.terms, cache)
    if any(term.name == "bottleneck" for term in config.terms):
        feature_width(cache)
    if cache.manifest.header.record is not None:
        LossTerms(config.terms, cache.manifest.header.num_classes).check(first_targets(cache))
    if config.eval is None:
        return cache, None
    held_out = open_cache(config.eval.cache)
    check_held_out(held_out, cache)
    if held_out.manifest.header.record is not None:
        first_targets(held_out).log_partition(EVALUATION_TEMPERATURE)
    return cache, held_out


def most_in_a_batch(config: TrainConfig) -> int:
    """Examples of a forward pass of a rank, in training and in evaluations."""
    return max(config.micro_batch, 1 if config.eval is None else config.eval.batch_examples)


def bottlenecks_of(config: TrainConfig, student: Any, cache: Cache) -> list[Bottleneck]:
    """Those of the config's terms, the same on every rank and at every world size."""
    if all(term.name != "bottleneck" for term in config.terms):
        return []
    torch.manual_seed(config.seed)
    return make_bottlenecks(config.terms, head_width(student), feature_width(cache))


def feature_width(cache: Cache) -> int:
    """How many numbers the teacher's features have. Raises CacheError where the cache holds none."""
    for field in cache.manifest.header.fields:
        if field.name == "features":
            return field.shape[0]
    raise CacheError(
        f"{cache.root.url} holds no features of the teacher, expected them for a bottleneck term: "
        "dump again with record.features, or take the term out of terms"
    )


def open_loader(config: TrainConfig, cache: Cache, world: World) -> Loader:
    return Loader(
        cache,
        global_batch=config.global_batch,
        micro_batch=config.micro_batch,
        lanes=config.stream.lanes,
        window=config.stream.window,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        memory_gb=config.stream.memory_gb,
    )


def total_steps(config: TrainConfig, cache: Cache) -> int:
    epoch = steps_per_epoch(len(cache), lanes=config.stream.lanes, global_batch=config.global_batch)
    return config.steps or math.ceil((config.epochs or 0) * epoch)


def left_out_of_an_epoch(config: TrainConfig, cache: Cache, total: int) -> str:
    """What to say of the examples that fill no step, if an epoch has some and the run has an epoch."""
    steps = steps_per_epoch(len(cache), lanes=config.stream.lanes, global_batch=config.global_batch)
    left = len(cache) - steps * config.global_batch
    if not left or total < steps:
        return ""
    return (
        f"an epoch is {counted(steps, 'step')} of {config.global_batch} examples: {left:,} of {len(cache):,} are left "
        "out of it, others in each epoch"
    )


def is_finished(config: TrainConfig, cache: Cache) -> bool:
    """Whether OUTPUT holds this very run, done; says so. Raises ConfigError where it holds another."""
    output = Path(config.output)
    if not ((output / DONE).is_file() and (output / "student" / "config.json").is_file()):
        return False
    steps, settings = read_done(output / DONE)
    check_unchanged(settings, pinned_settings(config, cache.digest), config.output)
    total = total_steps(config, cache)
    if steps != total:
        return False
    say(f"{output} is finished: {total} of {total} steps; the student is in {output / 'student'}")
    return True


def read_done(path: Path) -> tuple[int, dict[str, Any]]:
    """Steps and pinned settings of a finished run. Raises TrainError for a file that no run wrote."""
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
        return int(done["steps"]), dict(done["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainError(
            f"{path} is damaged ({type(error).__name__}), expected what a finished run writes; delete it and run the "
            "same command again, which goes on from the last checkpoint"
        ) from None


def is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def spoken(figures: dict[str, float] | None) -> str:
    if not figures:
        return ""
    return "; held out: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "positions")
