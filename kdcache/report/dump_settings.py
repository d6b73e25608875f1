"""The settings that a cache was dumped with, where somebody knows them."""

from typing import Any

from pydantic import ValidationError

from kdcache.config.file import load_config
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError, ConfigError, next_command
from kdcache.owned.folder import HIDDEN, read_mark
from kdcache.store.files import Root

__all__ = ["dump_settings"]


def dump_settings(root: Root, config: str | None, *words: str) -> DumpConfig | None:
    """The settings of the dump that made the cache in root.

    Args:
        root: The cache.
        config: A settings file; by default what the cache says itself, in .kdcache/owner.json. What a cache says is its
            maker's word: settings that would run code are not taken from there.
        words: Of the command that asks, for messages.

    Returns:
        The settings; None where the cache does not say them.

    Raises:
        ConfigError: The file is no such settings.
        CacheError: The cache's own settings would run code.
    """
    if config is not None:
        return load_config(DumpConfig, config)
    kept = _kept(root)
    if not isinstance(kept, dict) or "teacher" not in kept:
        return None
    teacher = kept["teacher"]
    if kept.get("module") or (isinstance(teacher, dict) and teacher.get("trust_remote_code")):
        raise CacheError(
            f"the settings that {root.url} keeps would run code (module or teacher.trust_remote_code), expected a "
            f"settings file of yours that says so: {next_command('verify', root.url, *words, '--config', 'dump.yaml')}"
        )
    try:
        return DumpConfig.model_validate(kept)
    except ValidationError:
        return None


def _kept(root: Root) -> Any:
    try:
        return read_mark(Root(f"{root.url}/{HIDDEN}").read("owner.json"), root.url).config
    except (FileNotFoundError, ConfigError, CacheError):
        return None
