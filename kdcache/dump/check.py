"""`dump-logits --check`: every row read, tokenised and looked at before a teacher is loaded.

It takes the time of tokenising the corpus on one core, needs the teacher's tokenizer and config but not its weights,
and writes nothing. What it counts is what a dump with the same config would make.
"""

import math
from collections import Counter
from pathlib import Path

from kdcache.corpus import Corpus
from kdcache.dump.material import gather
from kdcache.dump.settings import DumpConfig
from kdcache.dump.units import most_bad_rows, no_position
from kdcache.errors import CorpusError, RowError, printable
from kdcache.progress import Progress, counted, show

__all__ = ["check_corpus"]

SHOWN = 20


def check_corpus(config: DumpConfig) -> None:
    """Print the bad rows, the first 20 in full, and how many rows, examples, tokens and positions there are.

    Raises CorpusError where a dump would end with one: for bad rows, more of them than bad_rows_at_most where they are
    skipped, or no position; ConfigError and TeacherError as a dump does before it loads the teacher.
    """
    material = gather(config, weights=False, skip_bad_rows=True)
    corpus = material.corpus

    counts: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    bad: list[RowError] = []
    with Progress(corpus.num_units, "units", "check") as progress:
        for unit in range(corpus.num_units):
            made = material.unit(unit, skip=True)
            for error in made.bad.values():
                if len(bad) < SHOWN:
                    progress.say(str(error))
                bad.append(error)
            notes.update({name: count for name, count in made.notes.items() if name != "skipped"})
            counts["examples"] += len(made.examples)
            counts["tokens"] += sum(len(example.tokens) for example in made.examples)
            counts["positions"] += sum(len(example.positions) for example in made.examples)
            progress.advance()
    _report(config, corpus, counts, notes, bad)
    if bad and (config.on_bad_row == "error" or len(bad) > most_bad_rows(config, corpus)):
        expected = "none" if config.on_bad_row == "error" else f"at most {most_bad_rows(config, corpus):,}"
        raise CorpusError(
            f"got {counted(len(bad), 'bad row')} of {corpus.num_rows:,}, expected {expected}: mend them or change the "
            f"config as said above; the first: {bad[0]}"
        )
    if counts["positions"] == 0:
        raise no_position(corpus, material.task)


def _report(config: DumpConfig, corpus: Corpus, counts: Counter[str], notes: Counter[str], bad: list[RowError]) -> None:
    lines = [
        ("rows", f"{corpus.num_rows:,} in {counted(corpus.num_units, 'unit')} of {corpus.unit_rows:,}"),
        *((name, f"{counts[name]:,}") for name in ("examples", "tokens", "positions")),
    ]
    if notes:
        lines.append(("notes", ", ".join(f"{count:,} {name}" for name, count in notes.items())))
    share = len(bad) / corpus.num_rows
    lines.append(("bad rows", f"{len(bad):,} ({share:.2%})" if bad else "none"))
    helping = Counter(setting for error in bad for setting in error.settings)
    lines += [("would help", f"{setting}, for {count:,} of them") for setting, count in helping.most_common()]
    if bad and (config.on_bad_row == "error" or len(bad) > most_bad_rows(config, corpus)):
        needs = f" with bad_rows_at_most: {math.ceil(share * 1000) / 1000:g}"
        enough = len(bad) <= most_bad_rows(config, corpus)
        lines.append(("would help", f"on_bad_row: skip{'' if enough else needs}, for all of them"))
    if len(bad) > SHOWN:
        show(f"the first {SHOWN} of {len(bad):,} bad rows are above")
    show(f"{Path(config.output)}: nothing was written")
    show("\n".join(f"{name:<10} {printable(value)}" for name, value in lines))
