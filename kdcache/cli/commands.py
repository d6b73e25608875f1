"""All commands, by name. A command is one file here and one line below."""

import click

from kdcache.cli.convert import convert
from kdcache.cli.cut import cut
from kdcache.cli.dump_logits import dump_logits
from kdcache.cli.ensemble import ensemble
from kdcache.cli.evaluate import evaluate
from kdcache.cli.export import export
from kdcache.cli.fetch import fetch
from kdcache.cli.filter import filter_
from kdcache.cli.import_ import import_command
from kdcache.cli.inspect import inspect
from kdcache.cli.merge import merge
from kdcache.cli.plan import plan
from kdcache.cli.push import push
from kdcache.cli.train import train
from kdcache.cli.verify import verify

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kdcache")
def cli() -> None:
    """Run a teacher once over a corpus, keep its logits in a cache, and train many students from the cache.

    \b
    kdcache dump-logits dump.yaml      makes a cache of a teacher and a corpus
    kdcache verify runs/cache          checks that every byte is what it should be
    kdcache train train.yaml           trains a student from a cache; the teacher is not needed any more
    kdcache eval runs/student/student --cache runs/held-out

    The settings files are YAML. README.md has a pair of them to start from, and configs/SETTINGS.md every setting.
    """


for _command in (
    dump_logits,
    train,
    export,
    evaluate,
    inspect,
    verify,
    plan,
    convert,
    merge,
    ensemble,
    filter_,
    cut,
    push,
    fetch,
):
    cli.add_command(_command)
cli.add_command(import_command)
