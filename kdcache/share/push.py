"""push: a finished cache, to a store, a folder or a repository of the Hub."""

import os

from kdcache.errors import ConfigError
from kdcache.hub import HubPlace, is_hub
from kdcache.progress import show
from kdcache.share.card import Licences
from kdcache.share.claim import claim, sweep_others
from kdcache.share.contents import check_sizes
from kdcache.share.copying import Moved, copy_cache, finish
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.output import CacheOutput
from kdcache.store.shard import repair_command

__all__ = ["push"]


def push(
    cache: str | os.PathLike[str],
    url: str,
    *,
    licences: Licences | None = None,
    private: bool = False,
    force: bool = False,
) -> None:
    """Copy a finished cache, and say what was sent.

    Args:
        cache: Its folder or URL.
        url: A place for it: hf://datasets/OWNER/NAME[@BRANCH][/PATH], or any URL or folder that can be written.
        licences: For the card of a data set on the Hub.
        private: Make the repository a private one, of the Hub.
        force: Replace another cache that is there.

    Raises:
        CacheError: The cache is not whole, another one is there, or it cannot be written.
        ConfigError: The place is none for a cache, or an option is not for it.
    """
    source = Root(cache)
    manifest = read_manifest(source)
    check_sizes(source, manifest, repair_command(source))
    if is_hub(url):
        from kdcache.share.hub_push import push_to_hub

        moved = push_to_hub(source, manifest, HubPlace.parse(url), licences or Licences(), private=private, force=force)
    else:
        if private or licences is not None:
            raise ConfigError(f"got {url} with --private or a licence, expected a URL that begins with hf://datasets/")
        inputs = {"CACHE": [] if source.local is None else [source.local]}
        output = CacheOutput(url, "push", inputs, force=force, setting="URL")
        held, replaces = claim(output, manifest)
        target = Root(url)
        with held, Moved(manifest, "push") as moved:
            copy_cache(source, target, manifest, moved, repair_command(source))
            if replaces:
                sweep_others(target, manifest)
            finish(target, manifest, moved)
    show(moved.said(url, "sent"))
