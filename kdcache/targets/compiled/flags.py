"""How these loops are compiled: without a fast-math flag, so that numbers are added in the order that is written."""

from functools import partial

from numba import njit

__all__ = ["compiled"]

compiled = partial(njit, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
