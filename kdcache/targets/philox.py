"""Philox4x32-10: random bits that are a function of a key and a counter, and of nothing else.

Counter-based RNG of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011). The draw of a position
depends on (seed, example, position) alone, so a cache does not depend on batches, ranks or restarts. One draw a
position: numpy on the host, about 1 µs each; not for bulk noise.
"""

import numpy as np

__all__ = ["philox4x32", "uniform"]

_ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Words [n, 4] of the counters [n, 4] under the keys [n, 2]; 32-bit words held in uint64."""
    c0, c1, c2, c3 = counter.astype(np.uint64).T
    k0, k1 = key.astype(np.uint64).T
    for _ in range(_ROUNDS):
        left, right = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (right >> _HALF) ^ c1 ^ k0, right & _LOW, (left >> _HALF) ^ c3 ^ k1, left & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack([c0, c1, c2, c3], 1)


def uniform(keys_P3: np.ndarray) -> np.ndarray:
    """Uniform in [0, 1) with 53 bits for int64 keys (seed, example, position)."""
    seed, example, position = keys_P3.view(np.uint64).T
    words = philox4x32(
        np.stack([position & _LOW, position >> _HALF, example & _LOW, example >> _HALF], 1),
        np.stack([seed & _LOW, seed >> _HALF], 1),
    )
    bits = (words[:, 0] << _HALF) | words[:, 1]
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
