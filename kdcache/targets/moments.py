"""Sums over the classes of a row: the passes of compress that read all of it.

`survey` reads a block once for its extremes and its normalisers; `tail_sums` once more for Σ e, Σ e x and Σ e x² with
e = exp(β x), over the classes that are not certain entries. Both go through the block in tiles that stay in a
core's L2 cache, so that the exponentials and the matrix product that sums them find their operands there.
Of the default nodes 0.225, 0.45, 0.675 and 1.35 come from one exponential by multiplication, 1 and 2 from another.

A chunk of 512 classes is summed in float32 and chunks in float64, in an order that depends on the number of classes
alone: a row's sums do not depend on the rows beside it.

R rows of a block, V classes, C chunks, J inverse temperatures, K candidates for certain entries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.targets.constants import CHUNK, SEGMENT

__all__ = ["RowPasses", "Survey", "product_pairs"]

_MASKED = -1e30


@dataclass(frozen=True)
class Survey:
    """segment_max_RS: the largest logit of each 64 classes. log_partition_RJ: of logits relative to maximum_R."""

    maximum_R: Tensor
    minimum_R: Tensor
    segment_max_RS: Tensor
    log_partition_RJ: Tensor

    @property
    def finite_R(self) -> Tensor:
        return self.maximum_R.isfinite() & self.minimum_R.isfinite()


class RowPasses:
    """The two passes for rows of one width, with the buffers they share.

    proposals: inverse temperatures of the normalisers. betas: inverse temperatures of the tail's sums, ascending.
    """

    def __init__(self, num_classes: int, proposals: Sequence[float], betas: Sequence[float], device: torch.device):
        self.num_classes = num_classes
        self.num_chunks = -(-num_classes // CHUNK)
        self.proposals = proposals
        self.betas = betas
        tile = (1 << 16) * torch.get_num_threads() if device.type == "cpu" else 1 << 24
        slices = -(-self.num_chunks * CHUNK // tile)
        self._width = -(-self.num_chunks // slices) * CHUNK
        self._rows = max(1, tile // self._width)
        # Rows x², x, 1, e_1 …; the columns after the last tile's take the writes that mask nothing.
        self._outside = self._rows * self._width
        lines = 3 + sum(beta > 0 for beta in betas)
        self._buffer = torch.ones(lines, self._outside + 16, device=device)
        self._tiles: dict[tuple[int, int], _Tile] = {}

    def survey(self, logits_RV: Tensor) -> Survey:
        """Extremes and normalisers of each row."""
        R, J = len(logits_RV), len(self.proposals)
        segment_max_RS = _segment_max(logits_RV)
        maximum_R = segment_max_RS.amax(-1)
        sums_JN = torch.empty(J, R * self.num_chunks, device=logits_RV.device)
        for tile, logits, (origin,), chunks in self._walk(logits_RV, maximum_R[:, None]) if J else ():
            tile.load(logits, origin)
            for sums_N, beta in zip(sums_JN, self.proposals, strict=True):
                tile.exponential_sums(beta, sums_N[chunks])
        log_partition_JR = sums_JN.view(J, R, self.num_chunks).double().sum(-1).log()
        return Survey(maximum_R, logits_RV.amin(-1).float(), segment_max_RS, log_partition_JR.T)

    def tail_sums(self, logits_RV: Tensor, top_R: Tensor, ids_RK: Tensor, certain_RK: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of e = exp(β x), x = logits − top_R, without the certain ids.

        float64 [R, J, 3]: Σ e x², Σ e x and Σ e of the whole row at each of betas; at β = 0 the last counts masked
        classes too. float32 [proposals, R, S]: Σ e of each segment at the proposals. top_R: the tail's largest logit,
        so that Σ e is at least 1 at every β.
        """
        R, device = len(logits_RV), logits_RV.device
        sums_NJ3 = torch.empty(R * self.num_chunks, len(self.betas), 3, device=device)
        mass_JNS = torch.empty(len(self.proposals), R * self.num_chunks, CHUNK // SEGMENT, device=device)
        row_starts = torch.arange(R, device=device) % self._rows * self._width
        for columns in self._slices():
            local_RK = ids_RK - columns.start
            inside_RK = certain_RK & (local_RK >= 0) & (local_RK < self._width)
            masked_RK = torch.where(inside_RK, local_RK + row_starts[:, None], self._outside)
            for tile, logits, (origin, masked), chunks in self._walk(
                logits_RV, top_R[:, None], masked_RK, only=columns
            ):
                tile.load(logits, origin)
                tile.moment_sums(masked.flatten(), sums_NJ3[chunks])
                for mass_NS, beta in zip(mass_JNS, self.proposals, strict=True):
                    tile.segment_sums(beta, mass_NS[chunks])
        sums_RJ3 = sums_NJ3.view(R, self.num_chunks, -1, 3).double().sum(1)
        return sums_RJ3, mass_JNS.view(len(self.proposals), R, self.num_chunks * (CHUNK // SEGMENT))

    def _walk(
        self, logits_RV: Tensor, *companions: Tensor, only: slice | None = None
    ) -> Iterator[tuple["_Tile", Tensor, tuple[Tensor, ...], slice]]:
        """(tile, its logits, its rows of each companion, its place among the R × C chunks) through a block."""
        for columns in self._slices() if only is None else (only,):
            width = columns.stop - columns.start
            first = columns.start // CHUNK
            parts = [part.split(self._rows) for part in (logits_RV[:, columns], *companions)]
            for logits, *rest in zip(*parts, strict=True):
                rows = len(logits)
                tile = self._tiles.get((rows, width))
                if tile is None:
                    tile = self._tiles[rows, width] = _Tile(self._buffer, rows, width, self.betas)
                yield tile, logits, tuple(rest), slice(first, first + tile.num_chunks)
                first += rows * self.num_chunks

    def _slices(self) -> list[slice]:
        return [slice(c, min(self.num_classes, c + self._width)) for c in range(0, self.num_classes, self._width)]


class _Tile:
    """Views of the buffer for so many rows of so many classes, made once: a view costs as much as a small operation."""

    def __init__(self, buffer: Tensor, rows: int, width: int, betas: Sequence[float]):
        chunks = -(-width // CHUNK)
        self.num_chunks = rows * chunks
        area = buffer[:, : self.num_chunks * CHUNK]
        self._line, self._x2, self._x = buffer[1], area[0], area[1]
        table = self._x.view(rows, chunks * CHUNK)
        self._inside = table[:, :width]
        self._padding = table[:, width:] if width < chunks * CHUNK else None
        self._x2_by_chunk = self._x2.view(-1, CHUNK)
        powers = area[2 if betas[0] == 0 else 3 :]
        pairs = product_pairs(betas)
        self._plan = [
            (beta, power, None if pair is None else (powers[pair[0]], powers[pair[1]]))
            for beta, power, pair in zip(betas, powers, pairs, strict=True)
            if beta > 0
        ]
        self._by_segment = {beta: power.view(-1, CHUNK // SEGMENT, SEGMENT) for beta, power, _ in self._plan}
        self._left = powers.unflatten(1, (-1, CHUNK)).transpose(0, 1)
        self._right = area[:3].unflatten(1, (-1, CHUNK)).permute(1, 2, 0)

    def load(self, logits: Tensor, origin: Tensor) -> None:
        """x = logits − origin, masked beyond the last class."""
        torch.sub(logits, origin, out=self._inside)
        if self._padding is not None:
            self._padding.fill_(_MASKED)

    def exponential_sums(self, beta: float, out: Tensor) -> None:
        """Σ exp(β x) of each chunk."""
        _exponential(self._x, beta, self._x2)
        torch.sum(self._x2_by_chunk, -1, out=out)

    def moment_sums(self, masked: Tensor, out: Tensor) -> None:
        """[chunks, J, 3] without the masked places."""
        self._line.index_fill_(0, masked, _MASKED)
        for beta, power, factors in self._plan:
            if factors is None:
                _exponential(self._x, beta, power)
            else:
                torch.mul(*factors, out=power)
        self._line.index_fill_(0, masked, 0.0)
        if self._padding is not None:
            self._padding.zero_()
        torch.mul(self._x, self._x, out=self._x2)
        torch.bmm(self._left, self._right, out=out)

    def segment_sums(self, beta: float, out: Tensor) -> None:
        """Σ exp(β x) of each segment, after moment_sums."""
        torch.sum(self._by_segment[beta], -1, out=out)


def product_pairs(betas: Sequence[float]) -> list[tuple[int, int] | None]:
    """For each β, two earlier ones above 0 that add up to it, whose exponentials multiply to its own; None if none."""
    pairs: list[tuple[int, int] | None] = []
    for k, beta in enumerate(betas):
        earlier = [a for a in range(k) if betas[a] > 0]
        sums = ((a, b) for a in earlier for b in earlier if a <= b and abs(betas[a] + betas[b] - beta) < 1e-9)
        pairs.append(next(sums, None))
    return pairs


def _exponential(x: Tensor, beta: float, out: Tensor) -> None:
    torch.exp(x if beta == 1 else torch.mul(x, beta, out=out), out=out)


def _segment_max(logits_RV: Tensor) -> Tensor:
    V = logits_RV.shape[1]
    whole = V // SEGMENT * SEGMENT
    parts = [logits_RV[:, :whole].unflatten(1, (-1, SEGMENT)).amax(-1)] if whole else []
    if whole < V:
        parts.append(logits_RV[:, whole:].amax(-1, keepdim=True))
    return torch.cat(parts, 1).float()
