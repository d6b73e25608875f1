"""Numbers that the two makers of sparse records share: plain torch (rows.py) and compiled loops (compiled/).

They must be equal for both to make the same records. No torch and no numba here. The folder of the compiled code is
named by this file's digest too (compiled/rows.py).
"""

__all__ = ["CHUNK", "FLOOR", "ID_BITS", "ID_MASK", "NEARLY_ONE", "SEGMENT", "UNIT"]

CHUNK = 512
"""Classes whose sums are taken in float32; the chunks are then added in float64."""
SEGMENT = 64
"""Classes that the draw looks at as one before it looks into them."""
UNIT = 1 << 44
"""What an inclusion probability of 1 is in the running sum of the draw, a fixed-point number in int64."""
NEARLY_ONE = 1.0 - 2.0**-13
"""A class whose inclusion probability is at least this is taken as certain: rounding must not draw it twice."""
ID_BITS = 24
"""Low bits of an order key that hold the class id."""
ID_MASK = (1 << ID_BITS) - 1
FLOOR = -240.0
"""Logits further below their row's maximum are those of masked classes."""
