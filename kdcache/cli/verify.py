"""`kdcache verify`: checks a cache, repairs it, or asks the teacher again."""

import json

import click
from click.core import ParameterSource

from kdcache.cli.options import LOCAL, PATH, with_module
from kdcache.config.paths import expanded

__all__ = ["verify"]

WAYS = {
    "": ("jobs", "anew"),
    "--repair": ("config", "copy", "force"),
    "--teacher": ("config", "sample", "seed", "as_json"),
}
"""Each way to verify, and the options that say something about it."""


@click.command()
@click.argument("cache", type=PATH)
@with_module
@click.option("--repair", is_flag=True, help="Make damaged and missing files what they were, and delete leftovers.")
@click.option(
    "--config",
    type=LOCAL,
    metavar="DUMP.YAML",
    help="The settings file of the dump, for a cache that does not keep its settings.",
)
@click.option(
    "--from", "copy", type=PATH, metavar="COPY", help="With --repair: take files from this copy of the cache."
)
@click.option("--force", is_flag=True, help="With --repair: also delete files that kdcache did not write.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="How many shards are read at the same time; as many as there are cores by default, at most 4.",
)
@click.option(
    "--anew", is_flag=True, help="Read every shard, also those that a verify found sound before it was stopped."
)
@click.option(
    "--teacher",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Run the teacher again on some examples; PATH where it is not in the folder that the dump had it from.",
)
@click.option(
    "--sample",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="With --teacher: how many examples, spread over the shards.",
)
@click.option("--seed", default=0, show_default=True, help="With --teacher: which examples.")
@click.option("--json", "as_json", is_flag=True, help="With --teacher: print JSON instead of a table.")
def verify(
    cache: str,
    *,
    repair: bool,
    config: str | None,
    copy: str | None,
    force: bool,
    jobs: int | None,
    anew: bool,
    teacher: str | None,
    sample: int,
    seed: int,
    as_json: bool,
) -> None:
    """Check every byte of CACHE: the manifest, and the counts, size and sha256 of each shard.

    If anything is wrong, it prints each fault and the command to type next, and the exit status is 1. It writes nothing
    unless you say --repair. One that was stopped goes on within a day, and reads no file again that it found sound.

    With --repair, the header comes from cache.json, a commit record from its shard and shards.arrow, and these two
    files from the header and the commit records. The tokenizer, the basis and shards are made again as they were made,
    for which corpus and teacher must be where they were. A file is written only if its digest is the recorded one: the
    cache is what it was then, byte for byte. Where it is not (another GPU or library), a line says what differs.

    With --teacher, it asks instead whether the records are what the teacher gives: it runs the teacher twice on some
    examples, and says apart how two runs of it differ, how the stored records differ from the first run, and what even
    a sound record leaves out (KL in nats at T = 1 and 2, or the noise of a sample). The exit status is 1 if the records
    differ from the teacher by more than it differs from itself.

    \b
    kdcache verify runs/cache
    kdcache verify runs/cache --repair
    kdcache verify runs/cache --repair --from s3://backup/cache
    kdcache verify runs/cache --teacher --sample 64
    kdcache verify runs/cache --teacher models/SmolLM2-135M --json
    """
    if repair and teacher is not None:
        raise click.UsageError("got --repair with --teacher, expected one of them")
    if teacher is not None:
        refuse_options_of_another("--teacher")
        from kdcache.report.teacher_check import check_teacher, refuse_unfaithful, render

        path = expanded(teacher) if teacher else None
        facts = check_teacher(cache, path, sample=sample, seed=seed, config=config)
        click.echo(json.dumps(facts, indent=1) if as_json else render(facts))
        refuse_unfaithful(facts)
        return
    from kdcache.report.verify import verify_and_repair, verify_cache

    refuse_options_of_another("--repair" if repair else "")
    if repair:
        verify_and_repair(cache, config=config, copy=copy, force=force)
    else:
        verify_cache(cache, jobs=jobs, anew=anew)


def refuse_options_of_another(way: str) -> None:
    """An option that says something about another way to verify would be ignored.

    Raises:
        click.UsageError: One was given.
    """
    context = click.get_current_context()
    for option in context.command.params:
        ways = [other for other, names in WAYS.items() if option.name in names]
        if ways and way not in ways and context.get_parameter_source(str(option.name)) != ParameterSource.DEFAULT:
            got = f"got {option.opts[-1]} {f'with {way}' if way else f'without {ways[0]}'}"
            raise click.UsageError(f"{got}, expected it {' or '.join(f'with {w}' if w else 'alone' for w in ways)}")
