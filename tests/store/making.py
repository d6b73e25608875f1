"""Shards and caches to test with: hypothesis strategies for the format, and small real caches."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from kdcache import CacheWriter
from kdcache.store.backend import BACKENDS as REGISTERED
from kdcache.store.backend import Backend, Part, array_fields, check_arrays, level_sizes
from kdcache.store.blocks import cut
from kdcache.targets.fields import COUNTS, PARENT, Field, levels_of
from kdcache.targets.sampled import Sampled

DTYPES = ["uint8", "uint16", "uint32", "int8", "int64", "float16", "float32", "float64"]
SHAPES = [(), (), (1,), (3,), (2, 3)]
CLASSES = 40
BACKENDS = REGISTERED.built_in
"""What every test of backends runs over."""
STAMP = {"unit": 3, "header_sha256": "ab"}


@st.composite
def schemas(draw: st.DrawFn) -> tuple[Field, ...]:
    """One to six fields of any levels, dtypes and trailing shapes."""
    field = st.tuples(st.sampled_from(["example", *PARENT]), st.sampled_from(DTYPES), st.sampled_from(SHAPES))
    return tuple(Field(f"f{i}", *parts) for i, parts in enumerate(draw(st.lists(field, min_size=1, max_size=6))))


@st.composite
def shards(draw: st.DrawFn) -> tuple[tuple[Field, ...], dict[str, np.ndarray]]:
    """Fields and arrays of 0 to 5 examples, empty rows and every bit pattern but NaN among them."""
    fields = draw(schemas())
    examples = draw(st.integers(0, 5))
    arrays: dict[str, np.ndarray] = {}
    sizes = {"example": examples}
    for level in levels_of(fields):
        parent = sizes[PARENT[level]]
        counts = draw(st.lists(st.integers(0, 4), min_size=parent, max_size=parent))
        arrays[COUNTS[level]] = np.array(counts, np.uint32)
        sizes[level] = sum(counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    for field in fields:
        arrays[field.name] = random_bits(rng, (sizes[field.level], *field.shape), field.dtype)
    return fields, arrays


def random_bits(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array = np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape).copy()
    if array.dtype.kind == "f":
        array[np.isnan(array)] = -np.inf
    return array


def same_arrays(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Equal names, dtypes, shapes and bits."""

    def bits(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
        return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}

    return bits(first) == bits(second)


def there_and_back(
    store: Backend, fields: Sequence[Field], arrays: dict[str, np.ndarray], size: int = 1 << 20
) -> dict[str, np.ndarray]:
    """What comes back of arrays that are written in blocks of so many examples, each read from its range alone."""
    blocks = cut(fields, arrays, size) if "class" not in {field.level for field in fields} else [arrays]
    data = store.encode(fields, blocks, STAMP)
    layout, whole = store.layout(fields, data), memoryview(data)
    assert len(layout.blocks) == len(blocks)
    assert all(start + size <= after for (start, size), (after, _) in pairwise([*layout.blocks, (len(data), 0)]))
    parts = [Part(start, memoryview(bytes(whole[start : start + size]))) for start, size in layout.blocks]
    frame = None if layout.frame is None else Part(layout.frame[0], whole[layout.frame[0] :][: layout.frame[1]])
    decoded = []
    for number, (part, block) in enumerate(zip(parts, blocks, strict=True)):
        found, stamp = store.decode(fields, part, frame, level_sizes(fields, block))
        assert stamp == {**STAMP, "block": number}
        check_arrays(fields, found)
        decoded.append(found)
    return {name: np.concatenate([one[name] for one in decoded]) for name in decoded[0]}


def split_examples(fields: tuple[Field, ...], arrays: dict[str, np.ndarray]) -> list[dict[str, list]]:
    """The oracle: each example as plain nested lists, cut out one element at a time."""
    sizes = level_sizes(fields, arrays)
    owner: dict[str, list[int]] = {"example": [*range(sizes["example"])]}
    for level in levels_of(fields):
        parents = owner[PARENT[level]]
        owner[level] = [parents[i] for i, count in enumerate(arrays[COUNTS[level]]) for _ in range(count)]
    examples: list[dict[str, list]] = [{} for _ in owner["example"]]
    for field in array_fields(fields):
        for example in examples:
            example[field.name] = []
        for i, value in zip(owner[field.level], arrays[field.name], strict=True):
            examples[i][field.name].append(value.tobytes())
    return examples


def tokens_and_logits(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Examples of 1 to 12 tokens with the teacher's logits at every token but the last."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        length = rng.integers(1, 13)
        logits = rng.normal(0, 3, (length - 1, CLASSES)).astype(np.float32)
        examples.append((rng.integers(0, CLASSES, length), logits))
    return examples


def write_cache(path: Path | str, count: int = 10, *, examples_per_shard: int = 4, seed: int = 0, **settings) -> None:
    settings.setdefault("record", Sampled(exact_top_k=5))
    settings.setdefault("block_examples", 3)
    with CacheWriter(path, num_classes=CLASSES, examples_per_shard=examples_per_shard, **settings) as writer:
        for tokens, logits in tokens_and_logits(count, seed):
            writer.add(tokens, None if settings["record"] is None else logits)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".kdcache" not in path.parts
    }
