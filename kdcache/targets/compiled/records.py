"""Rows to records, one row after the other.

Two reads of a row, the second from the cache that the first left it in: the largest logit of each segment; then, of all
classes but the K largest, which alone may be certain entries, Σ e, Σ e x and Σ e x², e = exp(β x), at every β of the
curve. The K largest are added in float64, so that one pass of exponentials gives the normalisers, from them which
of the K are certain, and the tail's sums without subtracting anything.

Chunks are added in float64. A row's numbers depend on that row alone and on nothing a thread or a neighbour does.

R rows of a block, V classes, S segments, C chunks, K candidates for certain entries, J inverse temperatures of the
curve, I of the proposals, E entries.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from kdcache.targets.compiled.classes import (
    exponentials,
    load,
    mask,
    mask_below,
    segment_sums,
    survey,
    unmask,
)
from kdcache.targets.compiled.flags import compiled
from kdcache.targets.compiled.lanes import exp64, log64, moments, product_moments
from kdcache.targets.compiled.order import id_of, largest
from kdcache.targets.compiled.systematic import draw
from kdcache.targets.constants import CHUNK

__all__ = ["Output", "Settings", "records"]


class Settings(NamedTuple):
    """betas_J: of the curve, ascending. pairs_J2: moments.product_pairs, −1 for none. columns_I: of the proposals in
    the curve. floor: relative to the maximum, below which a class is masked. nearly_one: a π taken as certain.
    """

    betas_J: np.ndarray
    pairs_J2: np.ndarray
    columns_I: np.ndarray
    exact_top_k: int
    samples: int
    segment: int
    floor: float
    nearly_one: float


class Output(NamedTuple):
    """The arrays of sparse_codec.Block, entries of each row at the start of a wide enough one."""

    maximum_R: np.ndarray
    num_certain_R: np.ndarray
    counts_R: np.ndarray
    ids_RE: np.ndarray
    relative_RE: np.ndarray
    tail_top_R: np.ndarray
    tail_count_R: np.ndarray
    sums_RJ3: np.ndarray


class Candidates(NamedTuple):
    """The K largest logits of a row. first_C, next_K: lists of those of each chunk, ended by −1."""

    ids_K: np.ndarray
    relative_K: np.ndarray
    first_C: np.ndarray
    next_K: np.ndarray


@njit(nogil=True, error_model="numpy")
def records(flat_logits, stride, num_classes, start, stop, uniform_R, settings, output):
    """Fills the output of rows start … stop; row r begins at r · stride of flat_logits, float32.

    A row that is not finite has the maximum NaN and nothing else.
    """
    V, segment, samples = num_classes, settings.segment, settings.samples
    J, I = settings.betas_J.size, settings.columns_I.size
    K, S, C = min(max(settings.exact_top_k, samples), V), -(-V // segment), -(-V // CHUNK)
    maxima_S, keys, drawn = np.empty(S, np.float32), np.empty(min(K + 1, V), np.int64), np.empty(samples + 2, np.int64)
    some = Candidates(np.empty(K, np.int64), np.empty(K), np.empty(C, np.int64), np.empty(K, np.int64))
    e_JC, x_C = np.empty((J, CHUNK), np.float32), np.empty(CHUNK, np.float32)
    _fill(e_JC.reshape(e_JC.size), 1.0)
    sums_J3, masses_IS = np.empty((J, 3)), np.empty((I, C * (CHUNK // segment)), np.float32)
    log_partition_I, coefficient_I, beta_I = np.empty(I), np.empty(I), np.empty(I)
    for i in range(I):
        beta_I[i] = settings.betas_J[settings.columns_I[i]]
    inclusion_S, running_S, weights = np.empty(S), np.empty(S, np.int64), np.empty(segment)

    for r in range(start, stop):
        z = flat_logits[r * stride : r * stride + V]
        largest_logit, smallest, finite = survey(z, segment, maxima_S)
        if not finite:
            output.maximum_R[r] = np.nan
            continue
        maximum = np.float64(largest_logit)
        floor = largest_logit + np.float32(settings.floor)
        largest(z, segment, maxima_S, keys)
        _take(z, maximum, keys, some)
        origin = z[id_of(keys[K])] if K < V else floor
        rest = 0
        if K < V and origin >= floor:
            rest = _rest_sums(z, origin, floor, smallest < floor, some, settings, x_C, e_JC, sums_J3, masses_IS)
        else:
            _fill(sums_J3.reshape(sums_J3.size), 0.0)
        for i in range(I):
            mass = sums_J3[settings.columns_I[i], 2] * exp64(beta_I[i] * (origin - maximum))
            for k in range(K):
                mass += exp64(beta_I[i] * some.relative_K[k])
            log_partition_I[i] = log64(mass)
        n = _num_certain(some.relative_K, beta_I, log_partition_I, settings)

        top_id = id_of(keys[min(n, keys.size - 1)])
        top = max(z[top_id], floor)
        relative_top, down = top - maximum, np.float64(top) - origin
        output.maximum_R[r], output.num_certain_R[r], output.tail_top_R[r] = largest_logit, n, relative_top
        output.tail_count_R[r] = rest + _tail_sums(
            some.relative_K[n:], relative_top, settings, sums_J3, rest, down, output.sums_RJ3[r]
        )
        for k in range(n):
            output.ids_RE[r, k], output.relative_RE[r, k] = some.ids_K[k], z[some.ids_K[k]] - maximum
        count = 0
        if I:
            _fill(inclusion_S, 0.0)
            for i in range(I):
                log_weight = beta_I[i] * relative_top - log_partition_I[i]
                coefficient_I[i] = exp64(log_weight) * samples / I
                if rest:
                    scale = coefficient_I[i] * exp64(-beta_I[i] * down)
                    for s in range(S):
                        inclusion_S[s] += scale * masses_IS[i, s]
                for k in range(n, K):
                    if some.relative_K[k] >= settings.floor:
                        x = some.relative_K[k] - relative_top
                        inclusion_S[some.ids_K[k] // segment] += coefficient_I[i] * exp64(beta_I[i] * x)
            count = draw(
                z, segment, inclusion_S, uniform_R[r], beta_I, coefficient_I, top, top_id, weights, running_S, drawn
            )
        for d in range(count):
            class_id = id_of(drawn[d])
            output.ids_RE[r, n + d], output.relative_RE[r, n + d] = class_id, z[class_id] - maximum
        output.counts_R[r] = n + count


@compiled()
def _fill(numbers, value):
    for i in range(numbers.size):
        numbers[i] = value


@compiled()
def _take(z, maximum, keys, some):
    """Fills the candidates from their keys."""
    _fill(some.first_C, -1)
    for k in range(some.ids_K.size):
        class_id = id_of(keys[k])
        c = class_id // CHUNK
        some.ids_K[k], some.relative_K[k] = class_id, np.float64(z[class_id]) - maximum
        some.next_K[k], some.first_C[c] = some.first_C[c], k


@compiled()
def _rest_sums(z, origin, floor, some_masked, some, settings, x_C, e_JC, sums_J3, masses_IS):
    """Fills Σ e x², Σ e x, Σ e, x = z − origin, and Σ e of each segment at the proposals; over how many classes.

    Candidates and classes below the floor are left out: e is next to 0 there and then x is set to 0.
    """
    betas_J, pairs_J2, segment = settings.betas_J, settings.pairs_J2, settings.segment
    count = z.size - some.ids_K.size
    _fill(sums_J3.reshape(sums_J3.size), 0.0)
    for c in range(some.first_C.size):
        start, k = c * CHUNK, some.first_C[c]
        load(z, start, origin, x_C)
        masked = some_masked or k >= 0 or start + CHUNK > z.size
        while k >= 0:
            mask(x_C, some.ids_K[k] - start)
            k = some.next_K[k]
        if some_masked:
            count -= mask_below(z, start, floor, x_C)
        for j in range(betas_J.size):
            if pairs_J2[j, 0] < 0 and betas_J[j] > 0:
                exponentials(x_C, np.float32(betas_J[j]), e_JC[j])
        if masked:
            unmask(x_C)
        for j in range(betas_J.size):
            if pairs_J2[j, 0] < 0:
                sums = moments(x_C, e_JC[j])
            else:
                sums = product_moments(x_C, e_JC[pairs_J2[j, 0]], e_JC[pairs_J2[j, 1]], e_JC[j])
            for i in range(3):
                sums_J3[j, i] += sums[i]
        first = start // segment
        for i in range(settings.columns_I.size):
            segment_sums(e_JC[settings.columns_I[i]], segment, masses_IS[i, first : first + CHUNK // segment])
    if betas_J[0] == 0:
        sums_J3[0, 2] = count
    return count


@compiled()
def _num_certain(relative_K, beta_I, log_partition_I, settings):
    """How many are certain: the exact_top_k first, and those with samples × proposal near 1 or above."""
    n = min(settings.exact_top_k, relative_K.size)
    while n < relative_K.size:
        weight = 0.0
        for i in range(beta_I.size):
            weight += exp64(beta_I[i] * relative_K[n] - log_partition_I[i]) / beta_I.size
        if settings.samples * weight < settings.nearly_one:
            break
        n += 1
    return n


@compiled()
def _tail_sums(relative_T, relative_top, settings, sums_J3, rest, down, tail_J3):
    """Fills the tail's sums with x = z − top: those of the rest, whose origin lies `down` below top, and the
    candidates that are not certain. How many of these there are above the floor.
    """
    for j in range(settings.betas_J.size):
        beta = settings.betas_J[j]
        squares, firsts, zeroths = 0.0, 0.0, 0.0
        if rest:
            scale = exp64(-beta * down)
            squares = scale * (sums_J3[j, 0] + down * (down * sums_J3[j, 2] - 2.0 * sums_J3[j, 1]))
            firsts = scale * (sums_J3[j, 1] - down * sums_J3[j, 2])
            zeroths = scale * sums_J3[j, 2]
        count = 0
        for t in range(relative_T.size):
            if relative_T[t] >= settings.floor:
                x = relative_T[t] - relative_top
                weight = exp64(beta * x)
                squares, firsts, zeroths = squares + weight * x * x, firsts + weight * x, zeroths + weight
                count += 1
        tail_J3[j, 0], tail_J3[j, 1], tail_J3[j, 2] = squares, firsts, zeroths
    return count
