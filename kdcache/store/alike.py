"""Whether two caches are of one task, one set of classes and one tokenizer, and what to call their records."""

from kdcache.errors import CacheError
from kdcache.store.cache import Cache
from kdcache.store.manifest import Header
from kdcache.store.same_tokenizer import difference_of_tokenizers
from kdcache.tasks.registry import task_of

__all__ = ["check_alike", "kinds_in_words"]


def check_alike(first: Cache, other: Cache, names: str) -> None:
    """Compare what a student or a mean of teachers must have one of.

    Args:
        first: What is expected.
        other: What is compared.
        names: How the message begins, such as "B cannot be mixed with A".

    Raises:
        CacheError: Names what differs.
    """
    ours, theirs = first.manifest.header, other.manifest.header
    if _task(ours) != _task(theirs):
        raise CacheError(f"{names}: it is of {_task(theirs)}, expected {_task(ours)}")
    if ours.num_classes != theirs.num_classes:
        raise CacheError(
            f"{names}: it has {theirs.num_classes} classes, expected {ours.num_classes}: dump both with one tokenizer "
            "and one task.num_classes"
        )
    if why := difference_of_tokenizers(first, other):
        raise CacheError(f"{names}: its tokens are of another tokenizer ({why}), expected the same: dump it again")


def _task(header: Header) -> str:
    """What of a task a student and a loss depend on, in words."""
    classes = ", ".join(header.class_names)
    words = f"{header.task['name']} ({classes})" if classes else str(header.task["name"])
    return f"{words} with attention {task_of(header.task).attention}"


def kinds_in_words(header: Header) -> str:
    """What a cache keeps of its teacher."""
    return " and ".join(kind.kind for kind in header.records) or "labels only"
