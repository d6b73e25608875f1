"""kdcache: run the teacher once, train many students from the cache.

The public names load on first use, so that `import kdcache` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.losses.divergence import distillation_loss
    from kdcache.models.registry import register_student
    from kdcache.store.cache import Cache, open_cache
    from kdcache.store.writer import CacheWriter
    from kdcache.targets.compress import compress
    from kdcache.targets.record import TeacherTargets
    from kdcache.targets.spec import RecordSpec

__version__ = "0.1.0"
__all__ = [
    "Cache",
    "CacheWriter",
    "RecordSpec",
    "TeacherTargets",
    "compress",
    "distillation_loss",
    "open_cache",
    "register_student",
]

_HOME = {
    "Cache": "kdcache.store.cache",
    "CacheWriter": "kdcache.store.writer",
    "RecordSpec": "kdcache.targets.spec",
    "TeacherTargets": "kdcache.targets.record",
    "compress": "kdcache.targets.compress",
    "distillation_loss": "kdcache.losses.divergence",
    "open_cache": "kdcache.store.cache",
    "register_student": "kdcache.models.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdcache' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
