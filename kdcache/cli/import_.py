"""`kdcache import`: a capture that another tool took of a teacher, as a cache."""

from typing import Any

import click

from kdcache.cli.options import PATH, with_force, with_module
from kdcache.errors import ConfigError

__all__ = ["import_command"]


@click.command("import")
@click.argument("format")
@click.argument("files", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder or URL of the cache.")
@click.option("--tokenizer", required=True, type=PATH, help="Folder of the tokenizer that made the capture's ids.")
@click.option("--teacher", metavar="NAME", help="The teacher's name, for the header.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Of the captured softmax.")
@click.option(
    "--tail",
    type=click.Choice(["ghost", "renormalise"]),
    help="What a loss makes of classes that were not captured: one class with the mass that is left, at the capture's "
    "temperature alone (ghost, the default), or nothing, at any temperature and biased (renormalise: also for captures "
    "whose entries were scaled to sum to 1).",
)
@click.option("--top-k", type=int, help="Keep at most so many entries of each position.  [default: all]")
@click.option("--short-rows", is_flag=True, help="Take positions that have fewer entries than the others.")
@click.option("--shift", type=int, default=0, help="Move every distribution by so many tokens.")
@click.option("--no-alignment-check", is_flag=True, help="Believe that distributions stand where they say.")
@click.option("--num-classes", type=int, help="Classes of the teacher, where they are not the tokenizer's ids.")
@click.option("--logprobs-field", metavar="NAME", help="jsonl: the field of the log-probabilities.")
@click.option("--compression-config", type=PATH, help="distillkit: compression_config.yaml, if it lies elsewhere.")
@click.option("--tokens", type=PATH, help="megatron: a .npy file of the tokens, [samples, tokens].")
@click.option(
    "--record",
    metavar="YAML",
    help="llama_cpp: what is kept, such as '{kind: drawn, samples: 50}'.",
)
@click.option("--rows-per-shard", type=int, default=32, show_default=True, help="Rows or chunks of a shard.")
@click.option("--backend", default="zarr", show_default=True, help="How shards are written.")
@with_module
@with_force
def import_command(
    format: str,
    files: tuple[str, ...],
    out: str,
    teacher: str | None,
    backend: str,
    force: bool,
    no_alignment_check: bool,
    record: str | None,
    **given: Any,
) -> None:
    """Make a cache of FILES, which another tool captured of a teacher; run again, it goes on where it was ended.

    \b
    FORMAT      what FILES are
    jsonl       log-probabilities of vLLM, OpenAI's API or axolotl, one text a line; .gz and .zst too
    distillkit  Parquet files of a DistillKit capture, with compression_config.yaml beside them
    megatron    tar shards of Megatron-LM's --logits-save-dir; they have no tokens, see --tokens
    llama_cpp   files of llama-perplexity --kl-divergence-base

    \b
    kdcache import jsonl scored/*.jsonl.zst --tokenizer teacher/ --out runs/cache --teacher Qwen/Qwen3-32B
    kdcache import llama_cpp base.bin --tokenizer teacher/ --out runs/cache
    kdcache inspect runs/cache
    kdcache train train.yaml -o cache=runs/cache

    A capture of the likeliest classes becomes a captured record, which says no more than the capture: it answers the
    capture's own temperature, and refuses others, the teacher's entropy, and what needs the whole tail. The header says
    what is missing (compute.import). What cannot be is refused with its place: NaN, a class twice or beyond the
    vocabulary, probabilities that sum to more than 1, a file that was cut short. Where the likeliest classes fit the
    tokens better when they are moved, the command says by how much (--shift).
    """
    from kdcache.imports.options import ImportOptions
    from kdcache.imports.run import import_capture
    from kdcache.progress import show

    kept = None if record is None else _record(record)
    options = ImportOptions(check_alignment=not no_alignment_check, record=kept, **given)
    manifest = import_capture(format, files, out, options, teacher=teacher, backend=backend, force=force)
    totals = manifest.totals
    show(
        f"{out}: {totals.examples:,} examples, {totals.positions:,} positions, {totals.bytes / 1e6:,.2f} MB, "
        f"{totals.bytes / max(totals.positions, 1):.1f} bytes per position"
    )


def _record(text: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"got --record {text}, expected a mapping such as '{{kind: drawn, samples: 50}}'")
    return found
