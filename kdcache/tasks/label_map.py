"""LabelMap: from what the corpus calls a label to what the classes are called, as task.label_map and rest_class say."""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from kdcache.errors import ConfigError

__all__ = ["LabelMap"]

OUTSIDE = "O"


class LabelMap:
    """names: corpus name -> class. rest: the class of what neither `names` nor the classes know. bio: whether a key may
    be what follows B- and I-, so that PER: PERSON renames B-PER and I-PER, and MISC: O drops both.

    used: keys that were met. rested: how often what became the rest class.
    """

    def __init__(self, names: Mapping[str, str] | None = None, rest: str | None = None, bio: bool = False) -> None:
        self.rest = rest
        self._names, self._bio = dict(names or {}), bio
        self.used: set[str] = set()
        self.rested: Counter[str] = Counter()

    def __call__(self, name: str, classes: Container[str]) -> str:
        """The name of a class, or a name that is none of the classes where there is no rest."""
        found = self._renamed(name)
        if found in classes or self.rest is None:
            return found
        self.rested[name] += 1
        return self.rest

    def classes_of(self, names: Iterable[str]) -> set[str]:
        """The classes that a corpus of these names has, where nothing else says what they are."""
        found = {name: self._renamed(name) for name in names}
        if self.rest is None or not self._names:
            return {*found.values(), *([] if self.rest is None else [self.rest])}
        mapped = {new for name, new in found.items() if self._key(name) is not None}
        return mapped | {self.rest}

    def check(self, classes: Sequence[str]) -> None:
        """Raises ConfigError for a class of the settings that is none of the classes."""
        for key, name in self._names.items():
            if name not in classes and not (self._bio and f"B-{name}" in classes):
                raise ConfigError(f"got task.label_map {key}: {name}, expected one of {_listed(classes)}")
        if self.rest is not None and self.rest not in classes:
            raise ConfigError(f"got task.rest_class {self.rest}, expected one of {_listed(classes)}")

    @property
    def unused(self) -> list[str]:
        """Keys that were not met."""
        return [key for key in self._names if key not in self.used]

    def _key(self, name: str) -> str | None:
        if name in self._names:
            return name
        kind = name[2:] if self._bio and name[:2] in ("B-", "I-") else None
        return kind if kind in self._names else None

    def _renamed(self, name: str) -> str:
        key = self._key(name)
        if key is None:
            return name
        self.used.add(key)
        new = self._names[key]
        return new if key == name or new == OUTSIDE else name[:2] + new


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
