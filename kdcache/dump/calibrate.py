"""The basis of a dump's calibrated records: the principal directions of logits on the first positions of the corpus.

Units are read in order from the first until there are enough positions, whatever the rank and the world size. Only the
teacher's body runs: the time of so many tokens of the dump, and 16 bytes per position and number of hidden width.

N calibration rows, D hidden width.
"""

from collections.abc import Iterator

import torch

from kdcache.corpus import Corpus
from kdcache.dump.batches import in_order
from kdcache.dump.engines.engine import Engine
from kdcache.dump.resume import calibration_pin
from kdcache.dump.settings import DumpConfig
from kdcache.dump.units import remedies, unit_examples
from kdcache.errors import CorpusError
from kdcache.progress import say
from kdcache.store.manifest import CalibrationPin
from kdcache.targets.basis import Basis
from kdcache.targets.kind import RecordKind
from kdcache.tasks import Example, Reader

__all__ = ["calibrate"]


def calibrate(
    config: DumpConfig,
    kind: RecordKind,
    corpus: Corpus,
    reader: Reader,
    teacher: Engine,
    own: Reader | None = None,
) -> tuple[Basis, CalibrationPin]:
    """The basis of a calibrated kind of record, and what it was made of.

    own: what makes the teacher's own examples, where they are others than the cache's.

    Raises TeacherError for a teacher without an output layer of its own, ConfigError for too high a rank."""
    layer = teacher.output_layer()
    wanted, parts, count = kind.positions_for(layer.hidden), [], 0
    say(f"calibrating the record on {wanted:,} positions")
    units, made_under = 0, dict[str, str]()
    batch_tokens = config.compute.batch_tokens_on(teacher.device.type)
    for unit, batch, settings in _batches(config, corpus, reader, batch_tokens, own):
        units, made_under = unit + 1, made_under | settings
        if not batch:
            continue
        hidden_PD = teacher.hidden_of(batch)
        parts.append(hidden_PD[: wanted - count].float().cpu())
        count += len(parts[-1])
        if count == wanted:
            break
    if count < 2:
        raise CorpusError(f"the corpus gives {count} supervised positions, expected at least 2 to calibrate a record")
    pin = calibration_pin(corpus, units, whole=count < wanted, made_under=made_under)
    return kind.make_basis(layer, torch.cat(parts), teacher.num_classes), pin


def _batches(
    config: DumpConfig, corpus: Corpus, reader: Reader, batch_tokens: int, own: Reader | None
) -> Iterator[tuple[int, list[Example], dict[str, str]]]:
    """(unit, examples with supervised positions, settings that mattered to the unit), in the order of the corpus.

    No batch is of two units; the last one of a unit is empty.
    """
    for unit in range(corpus.num_units):
        made = unit_examples(corpus, reader, unit, skip=config.on_bad_row == "skip", own=own)
        settings = remedies(config, made.notes)
        supervised = [example for example in made.read if len(example.positions)]
        for batch in in_order([len(example.tokens) for example in supervised], batch_tokens):
            yield unit, [supervised[i] for i in batch], settings
        yield unit, [], settings
