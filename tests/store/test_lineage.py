"""What two caches have in common, told by what they were made of."""

from pathlib import Path

import pytest
from store.making import write_cache

from kdcache import open_cache
from kdcache.store.filter import filter_cache
from kdcache.store.lineage import lineage, shared
from kdcache.store.manifest import CorpusPin
from kdcache.store.merge import merge


def corpus(name: str) -> CorpusPin:
    return CorpusPin(sha256=name * 64, files=1, rows=1, bytes=1)


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    """a and b of a corpus each; both of them; thirds of a at random, of both, and a third of a third."""
    for seed, name in enumerate("ab"):
        write_cache(tmp_path / name, 20, seed=seed, corpus=corpus(name))
    write_cache(tmp_path / "again", 20, seed=5, corpus=corpus("a"))
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    for name, of, where in (
        ("few", "a", "random(7) < 0.4"),
        ("rest", "a", "random(7) >= 0.4"),
        ("half", "a", "random(8) < 0.5"),
        ("of-both", "both", "random(9) < 0.6"),
        ("fewer", "rest", "random(3) < 0.6"),
        ("of-again", "again", "random(7) < 0.4"),
    ):
        filter_cache(tmp_path / of, tmp_path / name, where)
    return tmp_path


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("a", "b", None),
        ("a", "again", "holds examples of the same corpus"),
        ("a", "both", "holds examples of the same cache"),
        ("few", "a", "holds examples of the same cache"),
        ("few", "both", "holds examples of the same cache"),
        ("few", "b", None),
        ("few", "rest", None),
        ("few", "half", "examples of the same cache"),
        ("few", "of-both", "may hold examples of the same cache"),
        ("few", "fewer", "may hold examples of the same cache"),
        ("of-both", "again", "holds examples of the same corpus"),
        ("few", "of-again", "may hold examples of the same corpus"),
    ],
)
def test_what_two_caches_share(caches: Path, one: str, other: str, how: str | None) -> None:
    for first, second in ((one, other), (other, one)):
        found = shared(open_cache(caches / first), open_cache(caches / second))
        assert (found is None) == (how is None)
        assert (how or "") in (found or "")


def test_examples_that_two_filters_took_are_counted(caches: Path) -> None:
    def taken(name: str) -> set[bytes]:
        cache = open_cache(caches / name)
        batch = cache.read(0, len(cache))
        return {batch.tokens(i).tobytes() for i in range(len(batch))}

    both = taken("few") & taken("half")
    assert both
    found = shared(open_cache(caches / "few"), open_cache(caches / "half"))
    assert found is not None
    assert found.startswith(f"holds {len(both)} examples of the same cache")


def test_a_lineage_goes_through_all_that_was_made(caches: Path) -> None:
    found = lineage(open_cache(caches / "of-both"))
    digests = {name: open_cache(caches / name).digest for name in ("of-both", "both", "a", "b")}
    assert found.caches == {digest: name == "of-both" for name, digest in digests.items()}
    assert found.corpora == {"a" * 64: False, "b" * 64: False}
