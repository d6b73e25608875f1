"""Begin a cache, or go on with one: what it is made of, its header, its builder."""

import glob
import os
import tempfile
from functools import partial
from typing import Any

from kdcache.dump.calibrate import calibrate
from kdcache.dump.hardware import machine_pins
from kdcache.dump.lazy_teacher import LazyTeacher
from kdcache.dump.material import Material
from kdcache.dump.pins import build_header, pin_teacher
from kdcache.dump.placements.placement import placement_of
from kdcache.dump.prepare import features_width, made_of_corpus
from kdcache.dump.resume import basis_fault
from kdcache.dump.settings import DumpConfig
from kdcache.store.builder import CacheBuilder
from kdcache.store.manifest import CalibrationPin, Header, TokenizerPin
from kdcache.store.output import CacheOutput
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.targets.basis import Basis
from kdcache.targets.records import calibrated_of
from kdcache.targets.sparse_rows import method_on
from kdcache.tasks.tokenizer import gives_types, save_tokenizer, tokenizing_libraries

__all__ = ["begin", "inputs_of", "made_header", "settings_to_keep"]


def inputs_of(config: DumpConfig) -> dict[str, list[str]]:
    """The local files and folders that a dump reads, by setting."""
    found = {"corpus.paths": [name for path in config.corpus.paths for name in glob.glob(path) or [path]]}
    if config.teacher != "none":
        found["teacher.path"] = [config.teacher.path]
    if config.tokenizer is not None:
        found["tokenizer"] = [config.tokenizer]
    return found


def settings_to_keep(config: DumpConfig) -> dict[str, Any]:
    """The settings as JSON, with files and folders by their whole paths: a repair may run in another folder."""
    kept = config.model_dump(mode="json")
    kept["corpus"]["paths"] = [_whole_path(path) for path in config.corpus.paths]
    if config.teacher != "none":
        kept["teacher"]["path"] = _whole_path(config.teacher.path)
    if config.tokenizer is not None:
        kept["tokenizer"] = _whole_path(config.tokenizer)
    return kept


def _whole_path(path: str) -> str:
    """A URL, and a name on the hub, stay."""
    return os.path.abspath(path) if "://" not in path and (glob.glob(path) or os.path.exists(path)) else path


def begin(material: Material, teacher: LazyTeacher, threads: int, output: CacheOutput) -> CacheBuilder:
    """A new cache, or one that was begun with the same settings. Raises CacheError where it was begun with others."""
    config, corpus = material.config, material.corpus

    def make_basis() -> tuple[Basis, CalibrationPin]:
        loaded = teacher.ready()
        assert loaded is not None
        kind = calibrated_of(config.record)
        assert kind is not None
        return calibrate(config, kind, corpus, material.reader, loaded, material.own.reader if material.own else None)

    with tempfile.TemporaryDirectory() as copy:
        save_tokenizer(material.tokenizer, copy)
        return CacheBuilder(
            output,
            made_header(material, teacher, pin_tokenizer(copy, material.tokenizer), threads),
            copy,
            make_basis=make_basis,
            basis_fault=partial(basis_fault, corpus=corpus, settings=material.remedies),
            from_corpus=() if material.kept else made_of_corpus(config),
        )


def made_header(material: Material, teacher: LazyTeacher, tokenizer: TokenizerPin, threads: int) -> Header:
    """What decides the bytes of every shard."""
    config, folder, device, of_teacher = material.config, material.folder, teacher.devices[0], None
    if config.teacher != "none" and folder is not None and material.teacher_files is not None:
        own = material.own.pins if material.own else None
        of_teacher = pin_teacher(config.teacher, folder, material.teacher_files, own)
    header = build_header(
        config,
        corpus=material.corpus,
        tokenizer=tokenizer,
        teacher=of_teacher,
        labels=material.labels,
        features=features_width(config, folder),
        types=not material.task.generates and gives_types(material.tokenizer),
        tokenizing=tokenizing_libraries(material.tokenizer, chats=config.corpus.messages_field is not None),
        compute={
            "device": device.type,
            "compression": None if folder is None else method_on(device.type),
            **machine_pins(config, device, threads),
            **({} if config.teacher == "none" else placement_of(config.teacher).pins(config.teacher)),
            "batch_tokens": config.compute.batch_tokens_on(device.type),
            "block_positions": config.compute.block_positions_on(device.type),
        },
    )
    return header.model_copy(update={"compute": header.compute | teacher.ways})
