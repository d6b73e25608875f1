"""`kdcache filter`: the examples of a cache of which an expression is true."""

import click

from kdcache.cli.options import PATH, with_force, with_module

__all__ = ["filter_"]


@click.command("filter")
@click.argument("cache", type=PATH)
@click.option("--out", required=True, type=PATH, help="The new cache: a folder or URL.")
@click.option("--where", required=True, metavar="EXPRESSION", help="Which examples stay.")
@with_module
@with_force
def filter_(cache: str, out: str, where: str, force: bool) -> None:
    """Write the examples of CACHE for which EXPRESSION is true, in their order, as the cache OUT.

    \b
    kdcache filter runs/cache --out runs/short --where 'length <= 512'
    kdcache filter runs/cache --out runs/hard  --where 'mean_entropy(1) > 0.5 and agreement < 0.9'
    kdcache filter runs/moods --out runs/joy   --where 'label in ("joy", "love") or has("surprise")'
    kdcache filter runs/cache --out runs/tenth --where 'random(7) < 0.1'
    kdcache filter runs/cache --out runs/kept  --where 'number in ids("keep.txt")'
    kdcache filter runs/both  --out runs/first --where 'source == 0'

    An expression compares numbers and texts (< <= > >= == !=, in, not in), joins that with and, or and not, and
    computes with + - * /. It may ask of an example:

    \b
    length, positions, documents   how many tokens, supervised positions and documents it has
    number, unit, index            its number (unit * 1048576 + index), its shard, its number in the shard
    source                         of a merged cache, which source it is of, counted from 0
    label                          the name of its class; of a regression the number
    has("NAME")                    whether one of its labels is this class
    agreement                      share of its positions where the teacher's likeliest class is the label
    mean_entropy(T)                mean of the teacher's entropies at temperature T, in nats
    max_entropy(T)                 the largest of them
    random(SEED)                   a number from 0 to 1, the same one for a seed and an example number
    ids("FILE")                    after in: the numbers in a file, with ranges such as 5-9

    Where an example has no supervised position, a comparison with its agreement or entropies is false.

    The header of OUT has the expression and the digest of CACHE, and its commit records say which examples were taken.
    You may interrupt it at any time and run it again. An expression that is true of nothing is refused.
    """
    from kdcache.report.rewrite import keep_examples

    keep_examples(cache, out, where, force=force)
