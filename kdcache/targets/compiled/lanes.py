"""Arithmetic whose order is written down, for loops that numba compiles: the same bits on every machine.

A sum over a chunk or a segment is spelt out in vectors of 16 lanes, which the compiler maps to whatever registers there
are: lane l adds the numbers l, l + 16, l + 32 … in order, then the upper half of the lanes is added to the lower one,
until one number is left. Multiplications are fused with additions where `fma` says so and nowhere else. No fast-math
flag allows the compiler another order, and so the bits do not depend on the compiler's version, on how wide the
vectors of the processor are, on what is inlined where, or on whether code was compiled here or loaded from a cache.

Every processor with vectors since 2013 (x86-64-v3, ARMv8) has the fused operation; older ones get the same bits slowly.
exp and log in float64 are written out for the same reason: a C library's differ by version and processor. Both are
within 2 ulp.
"""

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kdcache.targets.compiled.flags import compiled
from kdcache.targets.constants import CHUNK, SEGMENT

__all__ = ["bits", "exp64", "float_of", "fma", "log64", "moments", "order_bits", "product_moments", "segment_sum"]

LANES = 16
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_SUMS = types.UniTuple(types.float32, 3)

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_SQRT_2 = 1.4142135623730951
_EXP_TERMS = tuple(1.0 / float(np.prod(np.arange(1.0, k + 1))) for k in range(13, 1, -1))
_LOG_TERMS = tuple(2.0 / (2 * k + 1) for k in range(12, 0, -1))


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once; float32 or float64, all three alike."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return a(a, a, a), codegen


@intrinsic
def bits(typingctx: Any, number: Any) -> Any:
    """The bits of a float32 as int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _INT)

    return types.int32(types.float32), codegen


@intrinsic
def order_bits(typingctx: Any, number: Any) -> Any:
    """An int32 that grows with the float32, −0 below 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _flipped(builder, builder.bitcast(args[0], _INT))

    return types.int32(types.float32), codegen


@intrinsic
def float_of(typingctx: Any, order: Any) -> Any:
    """The float32 of its `order_bits`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(_flipped(builder, args[0]), _FLOAT)

    return types.float32(types.int32), codegen


@intrinsic
def moments(typingctx: Any, x: Any, e: Any) -> Any:
    """(Σ e x², Σ e x, Σ e) of a chunk."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, e = _pointers(context, builder, signature, args)
        return _moments(context, builder, lambda at: (_load(builder, x, at), _load(builder, e, at)))

    return _SUMS(x, e), codegen


@intrinsic
def product_moments(typingctx: Any, x: Any, a: Any, b: Any, e: Any) -> Any:
    """The moments of e = a b, which it fills."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, a, b, e = _pointers(context, builder, signature, args)

        def read(at: Any) -> tuple[Any, Any]:
            product = builder.fmul(_load(builder, a, at), _load(builder, b, at))
            builder.store(product, _place(builder, e, at), align=4)
            return _load(builder, x, at), product

        return _moments(context, builder, read)

    return _SUMS(x, a, b, e), codegen


@intrinsic
def segment_sum(typingctx: Any, e: Any, start: Any) -> Any:
    """The sum of the segment of e that begins at `start`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (e,) = _pointers(context, builder, signature, args[:1])
        begin = builder.gep(e, [args[1]])
        parts = [_load(builder, begin, ir.Constant(ir.IntType(64), i)) for i in range(0, SEGMENT, LANES)]
        total = parts[0]
        for part in parts[1:]:
            total = builder.fadd(total, part)
        return _folded(builder, total)

    return types.float32(e, types.int64), codegen


@compiled()
def exp64(x):
    """For x ≤ 709; 0 below −708."""
    if x < -708.0:
        return 0.0
    n = np.rint(x * _LOG2_E)
    r = fma(-n, _LN2_LOW, fma(-n, _LN2_HIGH, x))
    p = _horner(r, _EXP_TERMS)
    return fma(r * r, p, r) * _two_to(np.int64(n)) + _two_to(np.int64(n))


@compiled()
def log64(x):
    """For finite x > 0 that is no subnormal number."""
    n = (_bits64(x) >> 52) - 1023
    m = x * _two_to(-n)
    if m > _SQRT_2:
        m, n = m * 0.5, n + 1
    s = (m - 1.0) / (m + 1.0)
    s2 = s * s
    p = _horner(s2, _LOG_TERMS) * s2
    number = np.float64(n)
    return fma(number, _LN2_HIGH, fma(s, p, 2.0 * s) + number * _LN2_LOW)


@compiled()
def _horner(x, terms):
    """terms[0] xⁿ + … + terms[n]"""
    total = terms[0]
    for k in range(1, len(terms)):
        total = fma(total, x, terms[k])
    return total


@intrinsic
def _two_to(typingctx: Any, exponent: Any) -> Any:
    """2^n for an int64 n from −1022 to 1023, as float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        long = ir.IntType(64)
        biased = builder.add(args[0], ir.Constant(long, 1023))
        return builder.bitcast(builder.shl(biased, ir.Constant(long, 52)), ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def _bits64(typingctx: Any, number: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


def _flipped(builder: Any, pattern: Any) -> Any:
    sign = builder.ashr(pattern, ir.Constant(_INT, 31))
    return builder.xor(pattern, builder.and_(sign, ir.Constant(_INT, 0x7FFFFFFF)))


def _pointers(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """To the float32 numbers of arrays that lie side by side."""
    kinds = zip(signature.args, args, strict=False)
    return [context.make_array(kind)(context, builder, value=array).data for kind, array in kinds]


def _place(builder: Any, pointer: Any, at: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [at]), _VECTOR.as_pointer())


def _load(builder: Any, pointer: Any, at: Any) -> Any:
    return builder.load(_place(builder, pointer, at), align=4)


def _moments(context: Any, builder: Any, read: Any) -> Any:
    """read: where -> (x, e), vectors of the chunk."""
    fused = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32"
    )
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    squares, firsts, zeroths = (cgutils.alloca_once_value(builder, zero) for _ in range(3))
    begin, end, step = (ir.Constant(ir.IntType(64), number) for number in (0, CHUNK, LANES))
    with cgutils.for_range_slice(builder, begin, end, step) as (at, _):
        x, e = read(at)
        ex = builder.fmul(e, x)
        builder.store(builder.call(fused, [ex, x, builder.load(squares)]), squares)
        builder.store(builder.fadd(builder.load(firsts), ex), firsts)
        builder.store(builder.fadd(builder.load(zeroths), e), zeroths)
    totals = [_folded(builder, builder.load(sums)) for sums in (squares, firsts, zeroths)]
    return context.make_tuple(builder, _SUMS, totals)


def _folded(builder: Any, vector: Any) -> Any:
    """The sum of the lanes: the upper half added to the lower one, until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        halves = [
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(_INT, width), [*range(first, first + width)])
            )
            for first in (0, width)
        ]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, ir.Constant(_INT, 0))
