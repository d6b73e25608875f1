"""The story of a training run, as every rank tells it.

OUTPUT/checkpoints/   to go on from
OUTPUT/log.jsonl      the digest of each cache, and a line each log_every steps and for each evaluation
OUTPUT/tensorboard/   the same for TensorBoard
OUTPUT/student/       the finished student
OUTPUT/done.json      steps, held-out figures, precision and pinned settings; written last
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcache.errors import CacheError, TrainError
from kdcache.launcher import World
from kdcache.losses.term import Term
from kdcache.owned.folder import read_owner
from kdcache.progress import say
from kdcache.store.cache import Cache, open_cache
from kdcache.stream.mixture import Mixture
from kdcache.students.balance import terms_of_student, warn_unbalanced
from kdcache.students.collate import Collator
from kdcache.students.loss import StudentWithLoss, head_width, with_loss
from kdcache.students.making import check_fits, make_student
from kdcache.students.prefetch import Prefetcher
from kdcache.students.scoring import EVALUATION_TEMPERATURE, check_held_out, evaluate_engine
from kdcache.students.terms import loss_terms
from kdcache.train.cautions import first_targets, warn
from kdcache.train.checkpoint import Checkpoints, Saved
from kdcache.train.distributed import check_same_caches, on_first
from kdcache.train.done import DONE, Done, check_steps, is_finished, results_of, write_done
from kdcache.train.engine import make_engine, make_monitor
from kdcache.train.export import Told, export_student
from kdcache.train.leaving import Leaving
from kdcache.train.log import Log
from kdcache.train.loop import Pace, Trainer
from kdcache.train.output import take_output
from kdcache.train.phases import Phases
from kdcache.train.pinned import CHANGES, check_unchanged
from kdcache.train.plan import Run
from kdcache.train.precision import precision_in_use, spoken_precision
from kdcache.train.settings import EvalConfig

__all__ = ["open_caches", "train"]


def train(run: Run, world: World, device: str, leaving: Leaving | None = None, phases: Phases | None = None) -> None:
    """Train from the start or from the last checkpoint, evaluate, export. Raises KdcacheError.

    leaving: decides when the run saves and whether it leaves early; without one no signal is heeded.
    phases: is told what this rank does.
    """
    phases = phases or Phases()
    mixture, held_out = open_caches(run)
    check_same_caches(world, [cache.digest for cache in mixture.caches])
    run.batches.check(mixture, world.size)
    pinned = on_first(world, lambda: run.pinned_with(mixture))
    if on_first(world, lambda: is_finished(run, mixture, held_out, pinned)):
        return
    held = take_output(run, world)
    check_held = (lambda: None) if held is None else held.check
    pace = run.pace(mixture)
    leaving = leaving or Leaving(run.checkpoint, world)
    checkpoints = Checkpoints(run.output, run.checkpoint, world)
    with phases.of("load", 0):
        saved = checkpoints.latest(sweep=True)
    changes = compare(saved, run, pinned, pace.total_steps)
    say_before(run, mixture, held_out, pace, anew=saved is None and world.first)
    with run.batches.loader(mixture, world) as loader:
        cache, most = mixture.caches[0], run.most_in_a_batch
        student = make_student(run.student, cache, run.seed, batch_examples=most, device=device)
        model = model_of(run, mixture, student)
        convert = checkpoints.needs_conversion(saved, run.engine.stage)
        engine = make_engine(model, run.engine, world.size, universal=convert)
        precision = precision_in_use(engine, run.student.dtype)
        say_in_use(run, mixture, spoken_precision(precision))
        step = 0 if saved is None else saved.step
        if saved is not None:
            with phases.of("load", 0):
                checkpoints.load(engine, saved, convert=convert)
            loader.load_state_dict(saved.loader)
            say(f"going on from step {step} of {pace.total_steps}")
        terms = loss_terms(run.terms, mixture, beside=terms_of_student(student))
        trainer = Trainer(engine, pace, terms, world, device=device, step=step, leaving=leaving, phases=phases)
        log = open_log(run, world, pace, step, changes, mixture)
        evaluation = None if held_out is None or run.eval is None else Evaluation(trainer, held_out, run.eval, log)

        def after(step: int) -> None:
            if evaluation is not None and step < pace.total_steps and evaluation.is_due(step):
                trainer.settle()
                evaluation.take()
            if leaving.is_due(step, pace.total_steps):
                trainer.settle()
                check_held()
                log.sync()
                with phases.of("save", step):
                    checkpoints.save(engine, step, feed.state_dict(), {**pinned, CHANGES: changes})
                leaving.saved()
            leaving.check(step, pace.total_steps)

        with Prefetcher(loader, Collator(student, cache), trainer.device) as feed:
            trainer.run(feed, log, after)
    figures = None if evaluation is None else evaluation.take()
    check_held()
    told = Told(trainer.step, figures, precision, changes)
    with phases.of("export", trainer.step):
        folder = export_student(engine, run, mixture, world, told, phases.got_on)
    if world.first:
        finish(run, held_out, folder, told, {**pinned, CHANGES: changes})


def say_before(run: Run, mixture: Mixture, held_out: Cache | None, pace: Pace, *, anew: bool) -> None:
    """What had better be known of a run, and of a new one's caches."""
    for cache in mixture.caches if anew else ():
        warn(run.terms, cache, held_out, alone=mixture.alone)
    if words := run.batches.spoken(mixture, pace.total_steps):
        say(words)


def say_in_use(run: Run, mixture: Mixture, precision: str) -> None:
    """What a run that could be started reads, and how it computes."""
    for (path, weight), cache in zip(run.caches, mixture.caches, strict=True):
        say(f"cache: {path}, sha256 {cache.digest}{'' if mixture.alone else f', weight {weight:g}'}")
    say(f"precision: {precision}")


def model_of(run: Run, mixture: Mixture, student: Any) -> StudentWithLoss:
    """A student of the first cache with its loss. Raises StudentError where it does not fit the others."""
    first, *others = mixture.caches
    for other in others:
        check_fits(student, other)
    warn_unbalanced(student)
    return with_loss(student, chunk=run.loss_chunk, modules=modules_of(run.terms, run.seed, student, first))


def finish(run: Run, held_out: Cache | None, folder: Path, told: Told, settings: dict[str, Any]) -> None:
    """Write what a finished run came to. folder: of the student. settings: those that are pinned."""
    owner, precision = read_owner(folder), dict(told.precision or {})
    files = {} if owner is None else dict(owner.files)
    write_done(run.output, Done(told.steps, told.figures, precision, settings, results_of(run, held_out), files))
    say(f"wrote {folder}{spoken(told.figures)}")


def open_log(run: Run, world: World, pace: Pace, step: int, changes: list[dict[str, Any]], mixture: Mixture) -> Log:
    """The log of a run that goes on from a step, with what was changed just now, and first with the caches' digests."""
    monitor = make_monitor(run.engine.for_monitors(run.output))
    again = ("eval",) if step == pace.total_steps else ()
    log = Log(run.output, monitor, world, step, steps_per_epoch=pace.steps_per_epoch, again=again)
    if step == 0:
        passes = mixture.passes(pace.total_steps * run.batches.global_batch)
        for (path, weight), cache, count in zip(run.caches, mixture.caches, passes, strict=True):
            of_mixture = {} if mixture.alone else {"path": path, "weight": weight, "passes": round(count, 4)}
            log.write(0, "cache", {"cache_sha256": cache.digest, **of_mixture})
    for change in changes:
        if change["step"] == step:
            say(f"going on with {change['key']} {change['to']}, which was {change['from']}")
            log.write(step, "change", change)
    return log


def compare(saved: Saved | None, run: Run, pinned: dict[str, Any], total_steps: int) -> list[dict[str, Any]]:
    """Compare a run with what it goes on from. Returns all changes of its settings so far, each with its step.

    Raises ConfigError where the checkpoint is of another run or of a later step than is asked for, TrainError for a
    finished run without a checkpoint.
    """
    if saved is None:
        if (run.output / DONE).is_file():
            raise TrainError(
                f"{run.output} holds a finished run and no checkpoint to go on from; expected one: copy it back, start "
                f"anew with another output, or delete {run.output / DONE} to train again from step 0"
            )
        return []
    found = check_unchanged(saved.settings, pinned, run.output, run.allow_change)
    check_steps(total_steps, saved.step, run.output)
    return [*saved.settings.get(CHANGES, []), *({"step": saved.step, **change} for change in found)]


@dataclass(frozen=True)
class Evaluation:
    """The student of a run on its held-out cache; every rank takes part."""

    trainer: Trainer
    held_out: Cache
    settings: EvalConfig
    log: Log

    def is_due(self, step: int) -> bool:
        """Whether the run is to be evaluated between two steps."""
        return is_due(step, self.settings.every)

    def take(self) -> dict[str, float]:
        """The figures as the trainer's step left the student, which are logged."""
        trainer = self.trainer
        with trainer.phases.of("evaluation", trainer.step):
            figures = evaluate_engine(
                trainer.engine,
                self.held_out,
                trainer.world,
                trainer.device,
                batch_examples=self.settings.batch_examples,
                max_examples=self.settings.max_examples,
                progress=trainer.phases.got_on,
            )
        self.log.write(trainer.step, "eval", figures)
        return figures


def open_caches(run: Run) -> tuple[Mixture, Cache | None]:
    """The training caches and the held-out one. Raises CacheError or ConfigError for one that cannot be used."""
    opened = [(open_cache(path), weight) for path, weight in run.caches]
    for (path, _), (cache, _) in zip(run.caches, opened, strict=True):
        check_trainable(run, path, cache)
    mixture = Mixture(opened)
    loss_terms(run.terms, mixture)
    if run.eval is None:
        return mixture, None
    held_out = open_cache(run.eval.cache)
    check_held_out(held_out, mixture.caches[0])
    if held_out.manifest.header.distribution is not None:
        first_targets(held_out).log_partition(EVALUATION_TEMPERATURE)
    return mixture, held_out


def check_trainable(run: Run, path: str, cache: Cache) -> None:
    """Raises CacheError or ConfigError for a cache that the terms of a run cannot learn from."""
    if cache.num_positions == 0:
        raise CacheError(
            f"{path} has no supervised position in its {len(cache)} examples, expected at least one: "
            "look at the loss mask of its task"
        )
    if cache.manifest.header.tokenizer is not None:
        cache.check_tokenizer()
    unlabelled = cache.manifest.totals.notes.get("unlabelled", 0)
    if unlabelled == cache.num_positions and all(term.needs_labels for term in run.terms):
        raise CacheError(
            f"{path} has no label, expected some for {run.terms[0].spoken} term: dump it with "
            "corpus.label_field or corpus.tags_field"
        )
    header = cache.manifest.header
    asking = next((term for term in run.terms if term.needs_teacher), None)
    of_features = asking is not None and asking.needs_features and bool(header.records)
    if header.distribution is None and asking is not None and not of_features:
        raise CacheError(
            f"{path} holds labels and no teacher, expected one for {asking.spoken} term: "
            "use terms: [{name: cross_entropy}], or dump with a teacher"
        )
    terms = loss_terms(run.terms, cache)
    feature_width(run.terms, cache)
    if header.distribution is not None:
        terms.check(first_targets(cache))


def modules_of(terms: Sequence[Term], seed: int, student: Any, cache: Cache) -> dict[int, torch.nn.Module]:
    """Those that terms train beside the student, by their place; the same on every rank and at every world size."""
    wanting = {k: term for k, term in enumerate(terms) if term.trains_a_module}
    if not wanting:
        return {}
    torch.manual_seed(seed)
    width, features = head_width(student), feature_width(terms, cache)
    made = {k: term.make_module(width, features) for k, term in wanting.items()}
    return {k: module for k, module in made.items() if module is not None}


def feature_width(terms: Sequence[Term], cache: Cache) -> int | None:
    """How many numbers the teacher's features have. Raises CacheError where a term needs some and there are none."""
    width = cache.manifest.header.features_width
    asking = next((term for term in terms if term.needs_features), None)
    if width is not None or asking is None:
        return width
    raise CacheError(
        f"{cache.root.url} holds no features of the teacher, expected them for {asking.spoken} term: "
        "dump again with a record {kind: features}, or take the term out of terms"
    )


def is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def spoken(figures: dict[str, float] | None) -> str:
    if not figures:
        return ""
    return "; held out: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if name != "positions")
