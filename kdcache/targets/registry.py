"""RECORDS: the record kinds by name."""

from kdcache.registry import Registry
from kdcache.targets.kind import RecordKind

__all__ = ["RECORDS", "register_record"]

RECORDS: Registry[type[RecordKind]] = Registry(
    "record kind",
    {
        "sampled": "kdcache.targets.sampled:Sampled",
        "drawn": "kdcache.targets.drawn:Drawn",
        "top_k": "kdcache.targets.top_k:TopK",
        "factored": "kdcache.targets.factored:Factored",
        "dense": "kdcache.targets.dense:Dense",
        "captured": "kdcache.targets.captured:Captured",
        "features": "kdcache.targets.features:Features",
    },
)


def register_record(name: str, kind: type[RecordKind]) -> None:
    """Make a record kind of your own known by its name.

    Settings files then take it as `record: {kind: NAME, …}`, and caches that hold it can be read; `module: MODULE` at
    the top of a settings file imports the module that calls this.

    Args:
        name: what settings and manifests call it.
        kind: the class, with a field `kind: Literal[NAME] = NAME`.

    Raises:
        ConfigError: for a name that another kind has.
    """
    RECORDS.register(name, kind)
