"""Whether distributions stand where they say: moved by one token, a capture trains a student on the wrong words.

A teacher's likeliest class is the next token at a third to two thirds of the positions of plain text, and at a few
percent where its distributions are moved. So the move that agrees with the tokens most often is told from the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.errors import CorpusError
from kdcache.imports.capture import Captured

__all__ = ["Agreement", "agreement", "check_alignment"]

MOVES = (-2, -1, 0, 1, 2)
FEWEST = 30
"""Positions from which on the data are asked."""
IMPLAUSIBLE = 0.05


@dataclass(frozen=True)
class Agreement:
    """hits, compared: by move, at how many positions the likeliest class is the token there, and of how many."""

    hits: dict[int, int]
    compared: dict[int, int]

    def share(self, move: int) -> float:
        return self.hits[move] / max(self.compared[move], 1)


def agreement(texts: Sequence[Captured]) -> Agreement:
    """Of the likeliest classes with the tokens after their positions, moved by each of `MOVES`."""
    hits, compared = dict.fromkeys(MOVES, 0), dict.fromkeys(MOVES, 0)
    for text in texts:
        top_P = text.top_P
        for move in MOVES:
            labels_P = text.positions + 1 + move
            inside_P = (labels_P >= 0) & (labels_P < len(text.tokens)) & (top_P >= 0)
            compared[move] += int(inside_P.sum())
            hits[move] += int((text.tokens[labels_P[inside_P]] == top_P[inside_P]).sum())
    return Agreement(hits, compared)


def check_alignment(texts: Sequence[Captured], shift: int) -> str | None:
    """What is worth a warning of these texts, moved by `shift` already.

    Raises CorpusError where another move fits the tokens much better.
    """
    found = agreement(texts)
    if found.compared[0] < FEWEST:
        return None
    best = max(MOVES, key=lambda move: (found.share(move), -abs(move)))
    gap = found.share(best) - found.share(0)
    noise = 3 * np.sqrt(found.share(best) / max(found.compared[best], 1))
    if best and gap > max(noise, found.share(best) / 2):
        raise CorpusError(
            f"the likeliest class is the next token at {found.share(0):.0%} of {found.compared[0]:,} positions, and at "
            f"{found.share(best):.0%} where distributions stand {_words(best)}: give --shift {shift + best}, or "
            "--no-alignment-check where they are right as they are"
        )
    if found.share(0) < IMPLAUSIBLE:
        return (
            f"the likeliest class is the next token at {found.share(0):.1%} of {found.compared[0]:,} positions, where "
            "a teacher usually has a third or more: look at the tokens and the tokenizer"
        )
    return None


def _words(move: int) -> str:
    return f"{abs(move)} token{'s' if abs(move) > 1 else ''} {'later' if move > 0 else 'earlier'}"
