"""Run the teacher of a finished cache again, on some of its examples, as the dump ran it.

The bits of a logit depend on what else is in the batch, so an example runs in the batch that it had: its unit's
examples in their order, longest first. They come from the cache itself; only a teacher that reads other tokens than the
cache's needs the corpus again.

P positions.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcache.dump.batches import longest_first
from kdcache.dump.engines.engine import Engine, Wanted
from kdcache.dump.lazy_teacher import begun_ways, devices_of, load_engine, with_attention
from kdcache.dump.material import Material, gather
from kdcache.dump.pins import OF_THE_CORPUS, pin_teacher
from kdcache.dump.records import rows_of
from kdcache.dump.settings import ComputeConfig, DumpConfig, TeacherConfig
from kdcache.dump.teacher import teacher_folder
from kdcache.dump.teacher_files import TeacherFiles
from kdcache.errors import CacheError
from kdcache.launcher import World
from kdcache.models.registry import register_small_models
from kdcache.store.batch import Batch
from kdcache.store.cache import Cache
from kdcache.store.manifest import SourcePin, difference
from kdcache.store.merge import origin
from kdcache.store.unit import EXAMPLES_PER_UNIT
from kdcache.targets.calibration import Encoder
from kdcache.targets.records import calibrated_of
from kdcache.targets.teacher_rows import TeacherRows
from kdcache.tasks import Example, task_of
from kdcache.tasks.tokenizer import load_tokenizer

__all__ = ["Block", "Rerun", "Sample"]

OWN = {"max_length": None, "tokenizer_sha256": None, "prefix_sha256": None, "messages_field": None}
"""What of a teacher's pin is of what it read, where that is not in the cache."""
PLACE = {"name": "", "revision": None, **OWN}
"""What of a teacher's pin may be another, or does not depend on its files."""


@dataclass(frozen=True)
class Sample:
    """A batch of a unit's examples that is run for the sake of some of them.

    Attributes:
        unit: The number of the unit.
        batch: The numbers of the batch's examples in it, int64.
        wanted: Those among them that were chosen.
    """

    unit: int
    batch: np.ndarray
    wanted: frozenset[int]


@dataclass(frozen=True)
class Block:
    """Some positions of a sample's batch, run twice.

    Attributes:
        first: The rows of the first run.
        second: Those of the second.
        wanted_P: Which of them are of chosen examples, bool.
        positions_P: The numbers of all of them among the positions of the unit, int64.
    """

    first: TeacherRows
    second: TeacherRows
    wanted_P: np.ndarray
    positions_P: np.ndarray


class Rerun:
    """A cache and its teacher, loaded.

    Args:
        cache: A finished cache that kdcache dump-logits made.
        settings: Of its dump, where they are known.
        path: The teacher's folder, where it is not that of the settings.

    Raises:
        CacheError: The cache does not say how its teacher was run, or its teacher was another one.
        TeacherError: The teacher does not load.
    """

    def __init__(self, cache: Cache, settings: DumpConfig | None, path: str | None = None) -> None:
        self.cache, self.header = cache, cache.manifest.header
        self.task = task_of(self.header.task)
        self._check_sources()
        self.config = self._config(settings, path)
        register_small_models()
        self._check_pins()
        self._material = self._gathered(settings)
        self._units: dict[int, Sequence[Example]] = {}
        self.teacher = self._load()
        self.encoder = self._encoder()

    @property
    def batch_tokens(self) -> int:
        """How many tokens a forward pass of the dump had at most."""
        return int(self.header.compute["batch_tokens"])

    def samples(self, count: int, seed: int) -> list[Sample]:
        """Choose so many examples with supervised positions, spread over the shards; the same ones for a seed."""
        rng = np.random.default_rng(seed)
        units = np.flatnonzero(self.cache.manifest.shards.table["positions"])
        order = rng.permutation(units)[: max(count, 1)]
        chosen: list[Sample] = []
        for place, unit in enumerate(order.tolist()):
            examples = self._examples(unit)
            supervised = [i for i, example in enumerate(examples) if len(example.positions)]
            share = count // len(order) + (place < count % len(order))
            wanted = {*rng.permutation(supervised)[:share].tolist()}
            for batch in longest_first([len(example.tokens) for example in examples], self.batch_tokens):
                if mine := wanted.intersection(batch.tolist()):
                    chosen.append(Sample(unit, batch, frozenset(mine)))
        return chosen

    def blocks(self, sample: Sample) -> Iterator[Block]:
        """The rows of a sample's batch, twice, block by block."""
        examples = self._examples(sample.unit)
        chosen = [examples[i] for i in sample.batch]
        counts = [len(example.positions) for example in examples]
        starts = np.cumsum([0, *counts])
        positions_P = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in sample.batch])
        wanted_P = np.repeat([int(i) in sample.wanted for i in sample.batch], [counts[i] for i in sample.batch])
        source, unit = origin(self.header, sample.unit)
        header = self.header if source is None else self.header.model_copy(update={"seed": source.seed})
        numbers = sample.batch + unit * EXAMPLES_PER_UNIT
        runs = [rows_of(header, self.teacher, chosen, numbers) for _ in range(2)]
        for (part, first), (_, second) in zip(*runs, strict=True):
            yield Block(first, second, wanted_P[part], positions_P[part])

    def _check_sources(self) -> None:
        """Raises CacheError for a cache made of others whose teacher cannot be run again as it ran."""
        sources, where = [*_dumped(self.header.sources or ())], self.cache.root.url
        if not sources or not self.header.records:
            return
        if any(pin.weight is not None for pin in sources):
            raise CacheError(
                f"{where} holds the mean of {len(sources)} teachers, which no single one gives, expected the records "
                "of one: check each of the caches that it was made of"
            )
        filtered = next((pin for pin in sources if pin.where is not None), None)
        if filtered is not None:
            raise CacheError(
                f"{where} was filtered, and a record depends on the examples that shared its batch: check the cache "
                f"that it was filtered from (sha256 {filtered.cache_sha256[:12]}…)"
            )
        run = {name for pin in sources for name in pin.compute} - OF_THE_CORPUS
        here = self.header.compute
        alike = all(pin.compute.get(name) == here.get(name) for pin in sources for name in run)
        if not alike or (self.header.teacher is None and any(pin.teacher for pin in sources)):
            raise CacheError(
                f"{where} was merged of caches whose teachers are different or ran with different settings, expected "
                "one teacher: check each of the caches that it was merged of"
            )
        if self.header.teacher is not None and self.header.teacher.tokenizer_sha256 is not None:
            raise CacheError(
                f"{where} was merged, and its teacher read other tokens than the cache's, which come from the corpus: "
                "check each of the caches that it was merged of"
            )

    def _config(self, settings: DumpConfig | None, path: str | None) -> TeacherConfig:
        pin = self.header.teacher
        if pin is None or not self.header.records:
            raise CacheError(
                f"{self.cache.root.url} holds labels and no teacher, expected a cache with a teacher's records"
            )
        if "batch_tokens" not in self.header.compute:
            raise CacheError(
                f"{self.cache.root.url} was made by another program, which ran its teacher {pin.name}, expected a "
                "cache made by kdcache dump-logits"
            )
        if settings is not None and isinstance(settings.teacher, TeacherConfig):
            return settings.teacher if path is None else settings.teacher.model_copy(update={"path": path})
        if path is None:
            raise CacheError(
                f"{self.cache.root.url} does not say where its teacher {pin.name} is: give its folder, --teacher PATH"
            )
        return TeacherConfig.model_validate({"path": path, "dtype": pin.dtype})

    def _check_pins(self) -> None:
        """Raises CacheError for another teacher, before it is loaded."""
        folder, pin = teacher_folder(self.config), self.header.teacher
        assert pin is not None
        files = TeacherFiles(folder, code=self.config.trust_remote_code)
        here = pin_teacher(self.config, folder, files)
        found = difference(pin.model_copy(update=PLACE), here.model_copy(update=PLACE))
        if found is not None:
            key, there, value = found
            raise CacheError(
                f"{self.config.path} is not the teacher of {self.cache.root.url}: its {key} is {_short(value)}, "
                f"expected {_short(there)}; give the folder of {pin.name}, --teacher PATH"
            )

    def _gathered(self, settings: DumpConfig | None) -> Material | None:
        """Where the teacher reads other tokens than the cache's: what it was made of."""
        pin = self.header.teacher
        assert pin is not None
        if not pin.reads_its_own:
            return None
        if settings is None:
            raise CacheError(
                f"the teacher of {self.cache.root.url} read other tokens than the cache's, and nothing says which: "
                "give the settings file of its dump, --config dump.yaml"
            )
        corpus = settings.corpus.model_copy(update={"unit_rows": self.header.compute["unit_rows"]})
        material = gather(
            settings.model_copy(update={"output": self.cache.root.url, "corpus": corpus, "teacher": self.config})
        )
        found = difference(pin, pin.model_copy(update=OWN | (material.own.pins if material.own else {})))
        if found is not None:
            key, there, here = found
            raise CacheError(
                f"by these settings the teacher of {self.cache.root.url} would read other tokens: its {key} is "
                f"{_short(here)}, expected {_short(there)}; give the settings file of its dump, --config dump.yaml"
            )
        return material

    def _load(self) -> Engine:
        pinned = self.header.compute
        device = pinned["device"] if pinned["device"] != "cuda" or torch.cuda.is_available() else "auto"
        compute = ComputeConfig.model_validate(
            {"device": device, "batch_tokens": self.batch_tokens, "block_positions": pinned["block_positions"]}
        )
        if threads := int(pinned.get("threads") or 0):
            torch.set_num_threads(threads)
        devices = devices_of(self.config, compute, World())
        config = with_attention(self.config, pinned)
        teacher = load_engine(
            Wanted(
                config,
                compute,
                World(),
                devices,
                self.task if self._material is None else self._material.asked,
                self.header.num_classes,
                self.header.records,
                self._fed_with(),
                self._some,
            )
        )
        teacher.run_as(begun_ways(pinned, config))
        return teacher

    def _fed_with(self) -> Any:
        if self._material is not None:
            return self._material.fed_with
        if self.header.tokenizer is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            self.cache.save_tokenizer(folder)
            return load_tokenizer(Path(folder))

    def _some(self) -> Sequence[Example]:
        units = np.flatnonzero(self.cache.manifest.shards.table["positions"])
        return [example for example in self._examples(int(units[0])) if len(example.positions)]

    def _encoder(self) -> Encoder | None:
        kind = calibrated_of(self.header.records)
        if kind is None:
            return None
        return kind.make_encoder(self.cache.basis, self.teacher.output_layer())

    def _examples(self, unit: int) -> Sequence[Example]:
        """The examples of a unit, in the tokens that the teacher reads."""
        if unit not in self._units:
            self._units = {unit: self._made(unit)}
        return self._units[unit]

    def _made(self, unit: int) -> Sequence[Example]:
        if self._material is None:
            return examples_of(self.cache.read_shard(unit))
        if self._material.corpus.unit_sha256(unit) != self.cache.manifest.shards[unit].source_sha256:
            raise CacheError(f"the rows of shard {unit} changed since the dump: give the corpus back as it was")
        made = self._material.unit(unit, skip=self._material.config.on_bad_row == "skip")
        assert made.own is not None
        return made.own


def _dumped(sources: Sequence[SourcePin]) -> Iterator[SourcePin]:
    """The caches that a teacher made, or that were filtered, below those that were merged of others."""
    for pin in sources:
        if pin.where is None and pin.sources:
            yield from _dumped(pin.sources)
        else:
            yield pin


def examples_of(batch: Batch) -> list[Example]:
    """The examples of a shard, as the dump's tokenizer made them."""
    ends = np.cumsum([len(batch.positions(i)) for i in range(len(batch))])
    starts, continues, labels = [0, *ends[:-1]], batch.continues, batch.labels
    return [
        Example(
            tokens=batch.tokens(i),
            positions=batch.positions(i),
            labels=labels[starts[i] : ends[i]],
            documents=batch.documents(i),
            continues=bool(continues[i]),
            types=batch.types(i),
        )
        for i in range(len(batch))
    ]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}…"
