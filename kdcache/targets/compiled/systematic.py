"""The draw of one row: sample.draw in loops.

The running sum is int64 in units of 2⁻⁴⁴ over segments, then inside those where it passes an integer.
"""

import math

import numpy as np

from kdcache.targets.compiled.classes import exp
from kdcache.targets.compiled.flags import compiled
from kdcache.targets.compiled.order import order_key, sort
from kdcache.targets.constants import UNIT

__all__ = ["draw"]


@compiled()
def draw(z, segment, inclusion, uniform, betas, coefficients, top, top_id, weights, running, keys):
    """Fills keys with the order keys of the classes drawn, in order; how many they are.

    inclusion: Σ π of the tail classes of each segment, scaled up here if they add up to less than 1. π of a tail class
    is Σ_j coefficient_j · exp(β_j (z − top)). top, top_id: the first tail class in order. uniform: in [0, 1).
    weights, running: scratch for a segment's classes and for the segments.
    """
    total = 0.0
    for s in range(inclusion.size):
        total += inclusion[s]
    scale = 1.0 / min(max(total, 1e-300), 1.0)
    so_far = 0
    for s in range(inclusion.size):
        so_far += np.int64(inclusion[s] * scale * UNIT)
        running[s] = so_far
    unit = min(so_far, UNIT)
    start = np.int64(uniform * unit)
    count = (so_far + start) // max(unit, 1)
    s = 0
    for d in range(count):
        target = (d + 1) * unit - start
        while running[s] < target:
            s += 1
        before = running[s - 1] if s else 0
        share = (target - before) / (running[s] - before)
        first = s * segment
        i = _pick(z[first : first + segment], first, share, betas, coefficients, top, top_id, weights)
        keys[d] = order_key(z[first + i], first + i)
    sort(keys, count)
    return count


@compiled()
def _pick(part, first, share, betas, coefficients, top, top_id, weights):
    """The class of a segment at which this share of its Σ π is reached."""
    for i in range(part.size):
        weights[i] = 0.0
    for j in range(betas.size):
        beta = np.float32(betas[j])
        for i in range(part.size):
            weights[i] += coefficients[j] * exp((min(part[i], top) - top) * beta)
    most = 1e-300
    for i in range(part.size):
        if part[i] > top or (part[i] == top and first + i < top_id):
            weights[i] = 0.0
        most = max(most, weights[i])
    whole = 0
    for i in range(part.size):
        whole += np.int64(weights[i] / most * UNIT)
    wanted = max(np.int64(math.ceil(share * whole)), 1)
    i, inner = 0, np.int64(weights[0] / most * UNIT)
    while inner < wanted:
        i += 1
        inner += np.int64(weights[i] / most * UNIT)
    return i
