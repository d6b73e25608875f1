"""Loops over the classes of a row, in vector instructions of the machine at hand.

exp by a polynomial of degree 6 on [−ln 2 / 2, ln 2 / 2], within 1e-7. A chunk of 512 classes is summed in float32, in
an order that is the same for every chunk.

A loop is one that vectors can run if its length is not a constant below some hundred (those are unrolled first), so
the width of a segment is an argument.
"""

from functools import partial
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from kdcache.targets.constants import CHUNK

__all__ = [
    "bits",
    "compiled",
    "exp",
    "exponentials",
    "load",
    "mask",
    "mask_below",
    "moments",
    "product_moments",
    "segment_sums",
    "survey",
    "unmask",
]

compiled = partial(njit, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
_FINITE = ("nnan", "ninf", "nsz")
_elementwise = compiled(fastmath={"contract", *_FINITE})
_sum = compiled(fastmath={"reassoc", "contract", "nsz"})

_F = np.float32
_MASKED = _F(-1.2345e30)  # no logit is so: −1e30 is what some teachers mask with
_ZERO, _ONE = _F(0.0), _F(1.0)
_SMALL = _F(2.0**-26)
_LOWEST = _F(-87.0)
_LOG2_E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
_P2, _P3, _P4, _P5, _P6 = _F(0.49999993), _F(0.16666515), _F(0.04166846), _F(0.00836942), _F(0.00138131)


@intrinsic
def bits(typingctx: Any, number: Any) -> Any:
    """The bits of a float32 as int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def _power_of_two(typingctx: Any, exponent: Any) -> Any:
    """2^n for an int32 n above -127, as float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        biased = builder.add(args[0], ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _larger(typingctx: Any, a: Any, b: Any) -> Any:
    """max in the one form that vectors reduce by."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args, flags=_FINITE), *args, flags=_FINITE)

    return types.float32(types.float32, types.float32), codegen


@_sum
def survey(z, segment, maxima):
    """Fills the largest of each segment; (largest, smallest, a number that is finite if all are)."""
    top, bottom, total = z[0], -z[0], _ZERO
    for s in range(maxima.size):
        part = z[s * segment : (s + 1) * segment]
        most = part[0]
        for i in range(part.size):
            most = _larger(most, part[i])
            bottom = _larger(bottom, -part[i])
            total += abs(part[i]) * _SMALL
        maxima[s] = most
        top = _larger(top, most)
    return top, -bottom, total


@_sum
def load(z, start, origin, x):
    """x = z − origin of a chunk; masked beyond the last class."""
    part = z[start : start + CHUNK]
    for i in range(part.size):
        x[i] = part[i] - origin
    for i in range(part.size, CHUNK):
        x[i] = _MASKED


@_sum
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


@_sum
def unmask(x):
    """0 in the masked places."""
    for i in range(CHUNK):
        if x[i] == _MASKED:
            x[i] = _ZERO


@_elementwise
def exp(y):
    """For y ≤ 0; 1.6e-38 below -87."""
    y = _larger(y, _LOWEST)
    n = np.rint(y * _LOG2_E)
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    p = (((_P6 * r + _P5) * r + _P4) * r + _P3) * r + _P2
    return ((p * r + _ONE) * r + _ONE) * _power_of_two(np.int32(n))


@_elementwise
def exponentials(x, beta, e):
    for i in range(CHUNK):
        e[i] = exp(x[i] * beta)


@_sum
def moments(x, e):
    """Σ e x², Σ e x, Σ e of a chunk."""
    squares, firsts, zeroths = _ZERO, _ZERO, _ZERO
    for i in range(CHUNK):
        ex = e[i] * x[i]
        squares += ex * x[i]
        firsts += ex
        zeroths += e[i]
    return squares, firsts, zeroths


@_sum
def product_moments(x, a, b, e):
    """The moments of e = a b, which it fills."""
    squares, firsts, zeroths = _ZERO, _ZERO, _ZERO
    for i in range(CHUNK):
        e[i] = a[i] * b[i]
        ex = e[i] * x[i]
        squares += ex * x[i]
        firsts += ex
        zeroths += e[i]
    return squares, firsts, zeroths


@_sum
def segment_sums(e, segment, sums):
    for s in range(sums.size):
        part, total = e[s * segment : (s + 1) * segment], _ZERO
        for i in range(part.size):
            total += part[i]
        sums[s] = total
