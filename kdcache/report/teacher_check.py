"""`kdcache verify --teacher`: is what a cache holds what its teacher gives?

The teacher runs twice on some examples, and three things are told apart:

    itself     the first run against the second: the teacher's own nondeterminism
    stored     the stored records against those of the first run: whether the cache is faithful
    left out   what a sound record does not know: the KL from the teacher's distribution to the record's own, or the
               noise of a record that is a sample
"""

from collections.abc import Mapping
from typing import Any

from kdcache.dump.remake import installed
from kdcache.dump.rerun import Rerun
from kdcache.errors import CacheError
from kdcache.progress import Progress, counted
from kdcache.report.comparison import Comparison
from kdcache.report.dump_settings import dump_settings
from kdcache.store.cache import open_cache

__all__ = ["check_teacher", "refuse_unfaithful", "render"]

SLACK = 2.0
"""A stored record may differ from a new one by so many times what two runs differ by."""


def check_teacher(
    path: str, teacher: str | None, *, sample: int = 16, seed: int = 0, config: str | None = None
) -> dict[str, Any]:
    """Run the teacher of a cache twice on some of its examples, and compare.

    Args:
        path: The cache.
        teacher: The teacher's folder; None for that of the dump's settings.
        sample: How many examples to run.
        seed: Which ones.
        config: The settings file of the dump, for a cache that does not keep its settings.

    Returns:
        The facts that `render` tells, as JSON.

    Raises:
        CacheError: The cache was not made with this teacher, or does not say how.
        TeacherError: The teacher does not load.
    """
    cache = open_cache(path)
    rerun = Rerun(cache, dump_settings(cache.root, config, "--teacher"), teacher)
    samples = rerun.samples(sample, seed)
    comparison = Comparison(rerun)
    with Progress(len(samples), "batches", "verify") as progress:
        for chosen in samples:
            stored = cache.read_shard(chosen.unit).arrays
            for block in rerun.blocks(chosen):
                comparison.add(block, stored)
            progress.advance()
    facts = {
        "cache": path,
        "teacher": rerun.config.path,
        "examples": sum(len(chosen.wanted) for chosen in samples),
        "shards": len({chosen.unit for chosen in samples}),
        **comparison.facts(),
    }
    return facts | {"verdict": _verdict(facts, _elsewhere(rerun))}


def _elsewhere(rerun: Rerun) -> str:
    """What of this machine is another than where the cache was made."""
    device, made_on = rerun.teacher.device.type, rerun.header.compute.get("device")
    parts = [] if device == made_on else [f"it was made on {made_on}, this is {device}"]
    here = {name: installed(name) for name in rerun.header.libraries}
    parts += [
        f"{name} {there}, here {here[name]}" for name, there in rerun.header.libraries.items() if here[name] != there
    ]
    return ", ".join(parts)


def _verdict(facts: Mapping[str, Any], elsewhere: str) -> dict[str, Any]:
    """faithful: whether the stored records are what this teacher gives; words: why."""
    stored, own = facts["stored"], (facts["itself"]["logits"] or {"max": 0.0})["max"]
    count, differ = facts["positions"], stored["differing"]
    if not differ:
        return {
            "faithful": True,
            "words": f"the cache holds what this teacher gives, bit for bit at {count:,} positions",
        }
    apart = max((stored[name] or {"max": 0.0})["max"] for name in ("logits", "log_partition"))
    allowed = SLACK * own + (stored["rounding"] or {"max": 0.0})["max"]
    if own > 0 and apart <= allowed:
        words = (
            f"{differ:,} of {count:,} positions differ, by no more than two runs of this teacher do "
            f"(logits by up to {apart:.2g}, two runs by {own:.2g})"
        )
        return {"faithful": True, "words": words}
    beyond = f"two runs differ by {own:.2g}" if own else "two runs of this teacher are the same"
    why = f" ({elsewhere})" if elsewhere else ""
    words = (
        f"the cache is not what this teacher gives: {differ:,} of {count:,} positions differ, logits by up to "
        f"{apart:.2g}, while {beyond}{why}"
    )
    return {"faithful": False, "words": words}


def render(facts: Mapping[str, Any]) -> str:
    """A small table and the verdict."""
    count, stored = facts["positions"], facts["stored"]
    differing = f"{stored['differing']:,} of {count:,}"
    lines = [
        f"{facts['cache']} and {facts['teacher']}: {counted(facts['examples'], 'example')} of "
        f"{counted(facts['shards'], 'shard')}, {counted(count, 'position')}",
        f"{'':<44}{'mean':>12}{'max':>12}",
        "the teacher's first run and its second",
        _line("KL, nats", facts["itself"]["kl"]),
        _line("logits", facts["itself"]["logits"]),
        "what is stored and the first run",
        f"{'  positions that differ':<44}{differing:>24}",
        _line("logits of the entries", stored["logits"]),
        _line("log-partition", stored["log_partition"]),
        "what the record leaves out",
        *(_line(f"KL at T = {t}, nats", figures) for t, figures in facts["left_out"].items()),
        *(f"{f'  noise of a gradient at T = {t}':<44}{noise:>12.3g}" for t, noise in facts["noise"].items()),
    ]
    return "\n".join([*lines, facts["verdict"]["words"]])


def _line(name: str, figures: Mapping[str, float] | None) -> str:
    shown = f"{'none':>24}" if figures is None else f"{figures['mean']:>12.3g}{figures['max']:>12.3g}"
    return f"{f'  {name}':<44}{shown}"


def refuse_unfaithful(facts: Mapping[str, Any]) -> None:
    """Raises CacheError where the verdict is bad."""
    if not facts["verdict"]["faithful"]:
        raise CacheError(f"{facts['cache']}: {facts['verdict']['words']}")
