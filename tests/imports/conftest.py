"""A tokenizer of 320 ids, and imports of captures with it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import make_tokenizer

from kdcache.imports.options import ImportOptions
from kdcache.imports.run import import_capture
from kdcache.store.manifest import Manifest

Import = Callable[..., Manifest]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture
def importing(tokenizer: Path) -> Import:
    """importing(format, paths, out, top_k=…): num_classes is 320 unless given."""
    return partial(_import, tokenizer)


def _import(tokenizer: Path, format: str, paths: list[Path], out: Path, **options: Any) -> Manifest:
    given = {"num_classes": 320, **options}
    return import_capture(
        format, [*map(str, paths)], str(out), ImportOptions(tokenizer=str(tokenizer), **given), teacher="a table"
    )
