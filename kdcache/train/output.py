"""The folder of a run: ours, apart from what the run reads, and written by one run at a time."""

from kdcache.errors import KdcacheError
from kdcache.launcher import World
from kdcache.owned.folder import check_output, claim
from kdcache.owned.lock import Hold, check_free, hold
from kdcache.train.plan import Run

__all__ = ["check_run_output", "take_output"]


def check_run_output(run: Run) -> None:
    """Raises ConfigError for a folder that is not ours, LockedError where a run writes there; nothing is written."""
    check_output(run.output, "run", inputs=_inputs(run), force=run.force)
    if not run.force:
        check_free(run.output)


def take_output(run: Run, world: World) -> Hold | None:
    """Mark the folder and hold it, by the first rank for all of them; every rank calls this.

    The lease ends with the process, or when nobody keeps what this gives. Raises what check_run_output does, on every
    rank.
    """
    held, fault = None, None
    if world.first:
        try:
            check_output(run.output, "run", inputs=_inputs(run), force=run.force)
            held = hold(run.output, "train", force=run.force)
            claim(run.output, "run", config=run.settings, inputs=_inputs(run), force=run.force)
        except KdcacheError as error:
            fault = error
    fault = world.from_first(fault)
    if fault is not None:
        raise fault
    return held


def _inputs(run: Run) -> dict[str, list[str]]:
    names = ["cache"] if len(run.caches) == 1 else [f"caches.{number}" for number in range(len(run.caches))]
    found: dict[str, str | None] = {name: path for name, (path, _) in zip(names, run.caches, strict=True)}
    found |= {"student.path": run.student.path, "eval.cache": None if run.eval is None else run.eval.cache}
    return {name: [path] for name, path in found.items() if path}
