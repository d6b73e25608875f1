"""What still stands of a begun cache: a restart makes what a fresh dump would write otherwise, and nothing else.

A shard stands where the digest of its unit's rows is that of the corpus now, and where the settings for bad and
overlong rows that mattered to it are those of the config now. Comparing reads the rows of committed units once, at
the speed of sha256.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable

from kdcache.corpus import Corpus
from kdcache.corpus.hub import is_commit
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CacheError
from kdcache.store.cache import begun_header, read_cache_json
from kdcache.store.commits import Committed
from kdcache.store.files import Root
from kdcache.store.finished import read_finished
from kdcache.store.manifest import BasisPin, CalibrationPin, CorpusPin
from kdcache.store.places import has_shards

__all__ = ["as_begun", "basis_fault", "calibration_pin", "lay_out", "standing"]


def as_begun(config: CorpusConfig, root: Root) -> CorpusConfig:
    """With what a cache that has shards was begun with, where the config leaves it open: the size of units, as the
    corpus may have grown, and the commit of a dataset on the hub, as its branch may have moved.

    Raises CacheError for a cache that cannot be read here, before anything is written beside it.
    """
    begun = begun_header(root)
    if begun is None or not has_shards(root):
        return config
    open_here = {"unit_rows"} if config.unit_rows == "auto" else set()
    if config.format == "datasets" and not is_commit(config.revision):
        open_here.add("revision")
    known = {name: begun.compute[name] for name in open_here if begun.compute.get(name)}
    return config.model_copy(update=known)


def lay_out(corpus: Corpus, root: Root, *, append: bool) -> int:
    """Cut a corpus into units as the finished cache of it is cut.

    Args:
        corpus: As it is now.
        root: The cache.
        append: Whether it is to keep every shard: then the rows that it was not made of yet begin a new unit.

    Returns:
        How many shards have to stay, 0 without append.

    Raises:
        CacheError: There is nothing to append to.
    """
    finished = _finished(root)
    pin = None if finished is None else finished[0]
    if not append:
        if pin is not None and pin.grown_at and pin.sha256 == corpus.pin["sha256"]:
            corpus.grow(pin.grown_at)
        return 0
    if finished is None or pin is None:
        raise CacheError(f"{root.url} holds no finished dump, expected one for --append: run the command without it")
    if corpus.num_rows < pin.rows:
        raise CacheError(
            f"got a corpus of {corpus.num_rows:,} rows, expected the {pin.rows:,} that {root.url} was made of, and "
            "more rows after them; without --append the shards of rows that are gone are deleted"
        )
    corpus.grow([*(pin.grown_at or ()), pin.rows])
    return finished[1]


def _finished(root: Root) -> tuple[CorpusPin | None, int] | None:
    """What a finished cache was made of, and how many shards it has; its mark says so too."""
    try:
        manifest = read_cache_json(root)
    except (FileNotFoundError, CacheError):
        mark = read_finished(root)
        return None if mark is None else (mark.corpus, mark.shards)
    return manifest.corpus, manifest.totals.shards


def standing(commits: Iterable[Committed], corpus: Corpus, settings: dict[str, str]) -> tuple[set[int], Counter[str]]:
    """(units whose shards stand, how many do not for which reason). settings: kdcache.dump.units.remedies."""
    stand: set[int] = set()
    reasons: Counter[str] = Counter()
    for commit in commits:
        if commit.unit >= corpus.num_units:
            reasons["the corpus ends before them"] += 1
        elif commit.source_sha256 != corpus.unit_sha256(commit.unit):
            reasons["their rows of the corpus changed"] += 1
        elif changed := _changed(commit.made_under, settings):
            reasons[f"their bad or overlong rows were treated with {changed}"] += 1
        else:
            stand.add(commit.unit)
    return stand, reasons


def calibration_pin(corpus: Corpus, units: int, *, whole: bool, made_under: dict[str, str]) -> CalibrationPin:
    """whole: whether the corpus gave fewer positions than were wanted, so that more rows would have been taken."""
    return CalibrationPin(units=units, source_sha256=_source(corpus, units, whole), made_under=made_under or None)


def basis_fault(pin: BasisPin, corpus: Corpus, settings: dict[str, str]) -> str | None:
    """Why a fresh dump would have another basis; None where it would be the same."""
    made = pin.calibration
    if made is None:
        return None
    rows = f"the first {corpus.rows_before(made.units):,} rows, on which its record was calibrated"
    sources = {
        _source(corpus, min(made.units, corpus.num_units), whole) for whole in (False, made.units == corpus.num_units)
    }
    if made.units > corpus.num_units or made.source_sha256 not in sources:
        return f"{rows}, changed; give them back as they were"
    if changed := _changed(made.made_under, settings):
        return f"{rows}, were treated with {changed}; set that again"
    return None


def _source(corpus: Corpus, units: int, whole: bool) -> str:
    digests = [corpus.unit_sha256(unit) for unit in range(units)] + ["end"] * whole
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _changed(made_under: dict[str, str] | None, settings: dict[str, str]) -> str | None:
    """The first setting that mattered and is another now."""
    return next((f"{key}: {value}" for key, value in (made_under or {}).items() if settings.get(key) != value), None)
