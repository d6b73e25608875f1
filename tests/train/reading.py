"""Where a host reads numbers from its device while it takes a step: each read is a wait on a GPU. Counted on a CPU.

A read is a call that gives Python a number or the host a copy. It is its whose file is the innermost on the stack
outside torch: an optimiser's are DeepSpeed's, which calls it. The thread that makes inputs ahead is not looked into
(tests/targets/test_packing.py and test_no_waiting.py have what it does on a device).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["reads"]

CALLS = {"tolist", "cpu", "numpy"}
OPERATORS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::masked_select"}
BY_MASK = {"aten::index", "aten::index_put_", "aten::index_put"}
"""With a mask they must know how many places it has."""
TORCH = Path(torch.__file__).parent


class _Calls(TorchFunctionMode):
    """What only Python knows to be a read."""

    def __init__(self, found: list[tuple[str, str]]) -> None:
        self.found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in CALLS:
            self.found.append((function.__name__, _where()))
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[tuple[str, str]]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        masked = name in BY_MASK and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
        if name in OPERATORS or masked:
            self.found.append((name, _where()))
        return function(*args, **(kwargs or {}))


@contextmanager
def reads() -> Iterator[list[tuple[str, str]]]:
    """What was read inside and where, as (name, package/file.py:line), in order."""
    found: list[tuple[str, str]] = []
    with _Calls(found), _Operators(found):
        yield found


def _where() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        inside = (
            TORCH in path.parents or path == Path(__file__) or not path.is_absolute() or path.name == "contextlib.py"
        )
        if not inside:
            break
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-3:])}:{frame.f_lineno}"
