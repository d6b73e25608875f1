"""`kdcache push`: a cache to a store or to the Hugging Face Hub."""

import click

from kdcache.cli.options import PATH, with_module

__all__ = ["push"]


@click.command()
@click.argument("cache", type=PATH)
@click.argument("url", type=PATH)
@click.option("--private", is_flag=True, help="Make the repository on the Hub a private one, where it is new.")
@click.option("--license", "of_cache", metavar="NAME", help="Of the cache, for its card on the Hub, e.g. cc-by-4.0.")
@click.option("--teacher-license", "of_teacher", metavar="NAME", help="Of the teacher, for the card.")
@click.option("--corpus-license", "of_corpus", metavar="NAME", help="Of the corpus, for the card.")
@click.option("--force", is_flag=True, help="Replace another cache that is there; its files are deleted.")
@with_module
def push(
    cache: str,
    url: str,
    *,
    private: bool,
    of_cache: str | None,
    of_teacher: str | None,
    of_corpus: str | None,
    force: bool,
) -> None:
    """Copy the finished cache CACHE to URL: the Hub, or any store or folder that fsspec writes.

    Each file is compared with its digest before it is sent, and cache.json goes last, so that nobody takes half a cache
    for one. A push that was stopped goes on when it is started again, and sends what is missing or different. Another
    cache that is there stays; with --force it is replaced.

    A repository on the Hub gets a card that says what the cache holds. What is licensed how is your word: what you do
    not say stands there as not said. The token is that of huggingface_hub, HF_TOKEN or `hf auth login`.

    \b
    kdcache push runs/cache hf://datasets/ann/smollm2-logits --license cc-by-4.0 --private
    kdcache push runs/cache hf://datasets/ann/smollm2-logits@v2/held-out
    kdcache push runs/cache s3://bucket/caches/smollm2

    Whoever has it reads it where it is, or fetches it:

    \b
    kdcache train train.yaml -o cache=hf://datasets/ann/smollm2-logits
    kdcache fetch hf://datasets/ann/smollm2-logits --out runs/cache
    """
    from kdcache.share.card import Licences
    from kdcache.share.push import push as push_cache

    given = Licences(cache=of_cache, teacher=of_teacher, corpus=of_corpus)
    push_cache(cache, url, licences=given if given != Licences() else None, private=private, force=force)
