"""The settings that a cache was dumped with, where somebody knows them."""

from kdcache.config.file import load_config
from kdcache.dump.settings import DumpConfig
from kdcache.store.files import Root

__all__ = ["dump_settings"]


def dump_settings(root: Root, config: str | None) -> DumpConfig | None:
    """The settings of the dump that made the cache in root.

    Args:
        root: The cache.
        config: A settings file; by default what the cache says itself.

    Returns:
        The settings; None where the cache does not say them.

    Raises:
        ConfigError: The file is no such settings.
    """
    return None if config is None else load_config(DumpConfig, config)
