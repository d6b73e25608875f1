"""All backends, and a small finished cache in each."""

from pathlib import Path

import pytest
from hypothesis import settings
from store.making import BACKENDS, write_cache

settings.register_profile("store", deadline=None, max_examples=50)
settings.load_profile("store")


@pytest.fixture(params=BACKENDS)
def backend_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cache_folder(tmp_path: Path, backend_name: str) -> Path:
    """10 examples in shards of 4, 4 and 2, in blocks of 3, 1, 3, 1 and 2."""
    write_cache(tmp_path / "cache", backend=backend_name)
    return tmp_path / "cache"
