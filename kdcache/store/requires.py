"""What a reader must know to read a cache: the `requires` of a header.

Names of features of the format. A cache names those that it uses, so that a reader that lacks one says which, and a
cache that does without the newer ones stays readable by older readers. FORMAT.md says what each stands for.

    backend/NAME, record/KIND, task/NAME    a registered backend, record kind or task, a user's own among them
    token_types, windows, basis             the arrays `token_types` and `continues`, the file of a basis
    sources                                 made of other caches: what the header and commit records say of them
"""

from collections.abc import Iterable, Sequence

from kdcache.errors import CacheError
from kdcache.registry import Registry
from kdcache.store.backend import BACKENDS
from kdcache.targets.fields import Field
from kdcache.targets.registry import RECORDS
from kdcache.tasks.registry import TASKS

__all__ = ["check_requires", "required"]

REGISTRIES: dict[str, Registry] = {"backend": BACKENDS, "record": RECORDS, "task": TASKS}
OF_FIELDS = {"token_types": "token_types", "continues": "windows"}
OF_HEADERS = ("basis", "sources")


def required(
    backend: str, records: Iterable[str], task: str, fields: Sequence[Field], more: Iterable[str] = ()
) -> list[str]:
    """The features that a cache uses, in alphabetical order.

    Args:
        backend: The name of its backend.
        records: The names of its record kinds.
        task: The name of its task.
        fields: The arrays of its shards.
        more: What else its header has, of OF_HEADERS.
    """
    features = {f"backend/{backend}", f"task/{task}", *(f"record/{kind}" for kind in records)}
    features |= {OF_FIELDS[field.name] for field in fields if field.name in OF_FIELDS}
    return sorted({*features, *more})


def check_requires(features: object, where: str) -> None:
    """Look for a feature that is not known here. features: as read, of any type.

    Raises:
        CacheError: There is one.
    """
    for feature in features if isinstance(features, list) else []:
        if isinstance(feature, str) and not _known(feature):
            registered = feature.partition("/")[0] in REGISTRIES
            how = " (`module` in the settings of a dump or a run, --module of the other commands)" if registered else ""
            raise CacheError(
                f"{where} needs a newer kdcache, or a module of yours that registers it: feature {feature}{how}"
            )


def _known(feature: str) -> bool:
    what, _, name = feature.partition("/")
    return name in REGISTRIES[what] if what in REGISTRIES else feature in {*OF_FIELDS.values(), *OF_HEADERS}
