"""How the teacher is fed, found out before the first shard and pinned in the header's compute.

A cache that has shards already says how they were made; another one is begun by trying the teacher out on the corpus'
first examples (kdcache.models.neighbours). Rows that would be wrong together are run apart, and a line says how much
longer it takes.
"""

from dataclasses import replace
from typing import Any

import torch

from kdcache.corpus import Corpus
from kdcache.dump.engines.engine import Wanted
from kdcache.dump.units import unit_examples
from kdcache.errors import CorpusError, KdcacheError, TeacherError
from kdcache.models.feeding import Feeding
from kdcache.models.neighbours import Findings, find_feeding, may_be_packed
from kdcache.progress import say
from kdcache.store.files import Root
from kdcache.store.manifest import Header, parse
from kdcache.store.places import has_shards
from kdcache.tasks import Example, Reader

__all__ = ["begun_compute", "first_examples", "try_model"]

FIRST = 64
"""Examples to choose from."""
LONG = 4096
"""Tokens of a check on a CPU that may take more than a moment."""
WAYS = {
    "equal": "examples of one length share a forward pass",
    "one": "each example has a forward pass of its own",
}


def first_examples(corpus: Corpus, reader: Reader) -> list[Example]:
    """The first with supervised positions, of sound rows: what is wrong with others the dump will say."""
    found: list[Example] = []
    for unit in range(corpus.num_units):
        try:
            examples = unit_examples(corpus, reader, unit, skip=True).examples
        except CorpusError:
            continue
        found += [example for example in examples if len(example.positions)]
        if found:
            break
    return found[:FIRST]


def begun_compute(root: Root) -> dict[str, Any] | None:
    """The compute of the header of a cache with shards; None for one that is not begun."""
    if not root.exists("header.json") or not has_shards(root):
        return None
    return parse(Header, root.read("header.json"), f"{root.url}/header.json").compute


def try_model(model: Any, feeding: Feeding, device: torch.device, wanted: Wanted, longest: int) -> Feeding:
    """How to feed this model, said where it is not as usual.

    Args:
        model: Placed.
        feeding: As it would be fed otherwise.
        device: Of its inputs.
        wanted: What it was loaded for.
        longest: Tokens of an example at most.

    Raises:
        TeacherError: Its logits depend on what it has read before, or on what it shall predict.
    """
    examples, batch_tokens = wanted.examples(), wanted.compute.batch_tokens_on(device.type)
    packed = may_be_packed(wanted.task.settings.model_dump(), examples)
    if device.type == "cpu" and longest * 10 > LONG and (packed or batch_tokens > 1):
        say(f"trying the teacher out on rows of {longest:,} tokens, packed, in batches and alone")
    try:
        found = find_feeding(
            model,
            feeding,
            examples,
            longest=longest,
            shared=min(longest, batch_tokens // 2),
            batch_examples=min(batch_tokens, max(2, batch_tokens // longest)),
            packed=packed,
        )
    except KdcacheError as error:
        raise TeacherError(f"the teacher cannot be used: {error}") from None
    for line in _said(type(model).__name__, found):
        say(line)
    return replace(found.feeding, pad=feeding.pad)


def _said(name: str, found: Findings) -> list[str]:
    lines = []
    if found.packing is not None:
        lines.append(
            f"{name} does not keep packed documents apart ({found.packing}): each is run as a row of its own, "
            "which records the same and pads more; task.packing: documents or task.attention: causal has no such price"
        )
    if found.batch is not None:
        lines.append(
            f"{name} gives an example other logits beside others in its batch ({found.batch}): "
            f"{WAYS[found.feeding.together]}, which takes up to {max(found.slower, 1):.1f} times as long here"
        )
    return lines
