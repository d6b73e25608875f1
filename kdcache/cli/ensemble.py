"""`kdcache ensemble`: several teachers' caches to one of their mean."""

import click

from kdcache.cli.options import PATH, with_force, with_module

__all__ = ["ensemble"]


@click.command()
@click.argument("caches", nargs=-1, required=True, type=PATH, metavar="CACHE CACHE...")
@click.option("--out", required=True, type=PATH, help="The new cache: a folder or URL.")
@click.option(
    "--weights",
    metavar="W,W,...",
    help="How much each teacher counts, in the order of the caches, such as 2,1. By default all count alike.",
)
@click.option(
    "--record",
    metavar="RECORD",
    help="What OUT keeps of each distribution, as in a settings file: '{kind: dense}', '{kind: sampled, samples: 25}'. "
    "By default what the first cache keeps, unless that is factored.",
)
@with_module
@with_force
def ensemble(caches: tuple[str, ...], out: str, weights: str | None, record: str | None, force: bool) -> None:
    """Write the weighted mean of several teachers' probabilities as the one cache OUT.

    The caches hold the same examples: one corpus, task and tokenizer, dumped once with each teacher; tokens and
    labels are compared one by one. Their records must know every class, so they are dense or factored. The mean is
    that of the probabilities at temperature 1. A student that is trained at another temperature learns that mean at
    this temperature, not the mean of the teachers at it.

    Several teachers have no output layer together, so OUT cannot be factored: where the first cache is, give --record.

    The header of OUT names all caches, with their teachers, digests and weights (kdcache inspect shows them). The
    same caches give the same bytes. You may interrupt it at any time and run it again.

    \b
    kdcache ensemble runs/bert runs/roberta --out runs/both
    kdcache ensemble runs/7b runs/3b --weights 2,1 --record '{kind: sampled}' --out runs/mean
    """
    from kdcache.config.yaml_text import YamlError, read_yaml
    from kdcache.errors import ConfigError
    from kdcache.report.rewrite import ensemble_caches

    try:
        numbers = None if weights is None else [float(weight) for weight in weights.split(",")]
    except ValueError:
        raise ConfigError(f"got --weights {weights}, expected a number for each cache, such as 2,1") from None
    try:
        kind = None if record is None else read_yaml(record)
    except YamlError as error:
        raise ConfigError(f"got --record {record}, which {error}; expected such as '{{kind: sampled}}'") from None
    ensemble_caches(caches, out, weights=numbers, record=kind, force=force)
