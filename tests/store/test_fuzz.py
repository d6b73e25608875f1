"""Mutated caches: only a KdcacheError comes out, in one line, and never another batch without a word.

pytest tests/store/test_fuzz.py                       some hundred mutations, half a minute
pytest --long -m long tests/store/test_fuzz.py -s     KDCACHE_FUZZ of them (20,000), with the counts
"""

import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from store.fuzzing import MUTATIONS, outcome, whole
from store.making import BACKENDS, write_cache
from store.test_basis_file import write as write_factored

CACHES: dict[str, Callable[[Path], object]] = {
    f"{kind}-{backend}": make
    for backend in BACKENDS
    for kind, make in {
        "sampled": lambda path, backend=backend: write_cache(path, backend=backend, block_examples=2),
        "factored": lambda path, backend=backend: write_factored(path, backend=backend),
        "dense": lambda path, backend=backend: write_cache(
            path, 6, record={"kind": "dense"}, backend=backend, block_examples=3
        ),
    }.items()
}


@pytest.fixture(scope="module", params=CACHES)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "cache"
    CACHES[request.param](folder)
    return folder


def run(sound: Path, name: str, seed: int, folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that a forger made up
        return outcome(name, Random(seed), folder, whole(sound))


@pytest.mark.parametrize("name", MUTATIONS)
@given(seed=st.integers(0, 2**32))
@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
def test_a_mutated_cache(sound: Path, name: str, tmp_path: Path, seed: int) -> None:
    run(sound, name, seed, tmp_path / "cache")


@pytest.mark.long
def test_many_mutated_caches(sound: Path, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for seed in range(int(os.environ.get("KDCACHE_FUZZ", "20000")) // (len(CACHES) * len(MUTATIONS))):
        for name in MUTATIONS:
            counts[f"{name}: {run(sound, name, seed, tmp_path / 'cache')}"] += 1
    print(f"\n{sound.parent.name}: {sum(counts.values())} mutations; {dict(sorted(counts.items()))}")
