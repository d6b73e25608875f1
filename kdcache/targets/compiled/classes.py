"""Loops over the classes of a row, in vector instructions of the machine at hand.

exp by a polynomial of degree 6 on [−ln 2 / 2, ln 2 / 2], within 1e-7. What is summed here is summed in the order of
lanes.py; all else is done number by number, or has no order, as a maximum of integers has none.

A loop is one that vectors can run if its length is not a constant below some hundred (those are unrolled first), so
the width of a segment is an argument.
"""

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic

from kdcache.targets.compiled.flags import compiled
from kdcache.targets.compiled.lanes import float_of, fma, order_bits, segment_sum
from kdcache.targets.constants import CHUNK

__all__ = [
    "exp",
    "exponentials",
    "load",
    "mask",
    "mask_below",
    "segment_sums",
    "survey",
    "unmask",
]

_F = np.float32
_MASKED = _F(-1.2345e30)  # no logit is so: −1e30 is what some teachers mask with
_ZERO, _ONE = _F(0.0), _F(1.0)
_HIGHEST, _LOWEST_BITS = np.int32(0x7F7FFFFF), np.int32(-0x7F800000)
_LOWEST = _F(-87.0)
_LOG2_E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
_P2, _P3, _P4, _P5, _P6 = _F(0.49999993), _F(0.16666515), _F(0.04166846), _F(0.00836942), _F(0.00138131)


@intrinsic
def _power_of_two(typingctx: Any, exponent: Any) -> Any:
    """2^n for an int32 n above -127, as float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        biased = builder.add(args[0], ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.int32), codegen


@compiled()
def survey(z, segment, maxima):
    """Fills the largest of each segment; (largest, smallest, whether all are finite).

    In integers that are ordered as the logits are: the largest of these is the same in any order, NaN and −0 among
    them, so that vectors may look for it.
    """
    top = bottom = order_bits(z[0])
    for s in range(maxima.size):
        part = z[s * segment : (s + 1) * segment]
        most = order_bits(part[0])
        for i in range(part.size):
            order = order_bits(part[i])
            most = max(most, order)
            bottom = min(bottom, order)
        maxima[s] = float_of(most)
        top = max(top, most)
    return float_of(top), float_of(bottom), top <= _HIGHEST and bottom >= _LOWEST_BITS


@compiled()
def load(z, start, origin, x):
    """x = z − origin of a chunk; masked beyond the last class."""
    part = z[start : start + CHUNK]
    for i in range(part.size):
        x[i] = part[i] - origin
    for i in range(part.size, CHUNK):
        x[i] = _MASKED


@compiled()
def mask_below(z, start, floor, x):
    """Masks the classes of a chunk below the floor; how many were not masked before."""
    part, count = z[start : start + CHUNK], 0
    for i in range(part.size):
        if part[i] < floor and x[i] != _MASKED:
            x[i] = _MASKED
            count += 1
    return count


@compiled()
def mask(x, place):
    x[place] = _MASKED


@compiled()
def unmask(x):
    """0 in the masked places."""
    for i in range(CHUNK):
        if x[i] == _MASKED:
            x[i] = _ZERO


@compiled()
def exp(y):
    """For y ≤ 0; 1.6e-38 below -87."""
    y = y if y > _LOWEST else _LOWEST
    n = np.rint(y * _LOG2_E)
    r = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, y))
    p = fma(fma(fma(fma(_P6, r, _P5), r, _P4), r, _P3), r, _P2)
    return fma(fma(p, r, _ONE), r, _ONE) * _power_of_two(np.int32(n))


@compiled()
def exponentials(x, beta, e):
    for i in range(CHUNK):
        e[i] = exp(x[i] * beta)


@compiled()
def segment_sums(e, segment, sums):
    for s in range(sums.size):
        sums[s] = segment_sum(e, s * segment)
