"""Copies of many ranges of memory, one after the other, in one call that does not hold the interpreter.

numpy copies a range with a view, a slice and a list entry: 0.4 µs and some objects for the garbage collector to look
at, for each array of each example. Here it is 5 ns and what memory takes. The loop is compiled when it is first used,
by the compiler that numba brings: with llvmlite alone that takes .04 s of CPU and no cache on disk, through numba .4 s,
and 1 s where its cache cannot be written.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

__all__ = ["address", "copy_ranges"]


def address(array: np.ndarray) -> int:
    """Where an array's first byte lies, as long as the array does. Raises ValueError unless it lies in one piece."""
    if not array.flags.c_contiguous:
        raise ValueError(f"got an array with strides {array.strides}, expected one in one piece")
    return int(array.__array_interface__["data"][0])


def copy_ranges(into: np.ndarray, addresses: np.ndarray, sizes: np.ndarray) -> None:
    """Fill an array with ranges of memory, one after the other.

    Args:
        into: In one piece; it has exactly the bytes of all ranges.
        addresses: Where each range begins, int64 [N]. Nothing can tell whether they are right: who calls knows that the
            arrays are as long as their bounds say, and keeps them meanwhile.
        sizes: Bytes of each, int64 [N], none below 0.

    Raises:
        ValueError: The sizes do not fill `into`.
    """
    addresses, sizes = (np.ascontiguousarray(one, np.int64) for one in (addresses, sizes))
    if len(addresses) != len(sizes) or int(sizes.sum()) != into.nbytes or (len(sizes) and sizes.min() < 0):
        raise ValueError(f"got {len(addresses)} ranges of {sizes.sum()} bytes, expected them to fill {into.nbytes}")
    _loop()(address(into), address(addresses), address(sizes), len(sizes))


@cache
def _loop() -> Callable[[int, int, int, int], None]:
    """for i in range(number): memcpy(into, addresses[i], sizes[i]); into += sizes[i]"""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(_module())), machine)
    engine.finalize_object()
    typed = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
    function: Any = typed(engine.get_function_address("copy_ranges"))
    function.engine = engine  # which owns the code
    return function  # type: ignore[no-any-return]


def _module() -> Any:
    from llvmlite import ir

    byte, number = ir.IntType(8), ir.IntType(64)
    module = ir.Module()
    signature = ir.FunctionType(ir.VoidType(), [number] * 4)
    function = ir.Function(module, signature, "copy_ranges")
    first, addresses, sizes, count = function.args
    entry, check, body, done = (function.append_basic_block(name) for name in ("entry", "check", "body", "done"))
    build = ir.IRBuilder(entry)
    build.branch(check)

    build.position_at_end(check)
    at, into = build.phi(number), build.phi(number)
    at.add_incoming(number(0), entry)
    into.add_incoming(first, entry)
    build.cbranch(build.icmp_signed("<", at, count), body, done)

    build.position_at_end(body)
    offset = build.mul(at, number(8))
    source, size = (
        build.load(build.inttoptr(build.add(start, offset), number.as_pointer()), typ=number)
        for start in (addresses, sizes)
    )
    pointers = [build.inttoptr(place, byte.as_pointer()) for place in (into, source)]
    copy = module.declare_intrinsic("llvm.memcpy", [*(pointer.type for pointer in pointers), number])
    build.call(copy, [*pointers, size, ir.IntType(1)(0)])
    at.add_incoming(build.add(at, number(1)), body)
    into.add_incoming(build.add(into, size), body)
    build.branch(check)

    build.position_at_end(done)
    build.ret_void()
    return module
