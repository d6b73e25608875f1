"""CompiledRows: blocks of rows to records on the CPU, a row on one thread.

R rows of a block, E entries, J inverse temperatures.
"""

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.targets import constants
from kdcache.targets.constants import FLOOR, NEARLY_ONE, SEGMENT
from kdcache.targets.moments import product_pairs
from kdcache.targets.plan import Plan
from kdcache.targets.sparse_codec import Block

__all__ = ["CompiledRows", "load_records"]


class CompiledRows:
    """Makes Blocks of rows on the CPU; the first of a process loads numba and the compiled code."""

    def __init__(self, plan: Plan):
        from kdcache.targets.compiled.records import Settings

        columns = [plan.curve.column(t) for t in plan.proposals]
        self._settings = Settings(
            betas_J=np.array(plan.curve.betas, np.float64),
            pairs_J2=np.array([(-1, -1) if pair is None else pair for pair in product_pairs(plan.curve.betas)]),
            columns_I=np.array(columns, np.int64),
            exact_top_k=plan.exact_top_k,
            samples=plan.samples,
            segment=SEGMENT,
            floor=FLOOR,
            nearly_one=NEARLY_ONE,
        )
        self._records = load_records()
        self.block_bytes = 1 << 26

    def block(self, logits_RV: Tensor, uniform_R: Tensor) -> Block:
        """logits_RV: classes side by side in memory."""
        from kdcache.targets.compiled.records import Output

        R, V = logits_RV.shape
        logits_RV = logits_RV.detach().float()
        stride = logits_RV.stride(0)
        flat = logits_RV.as_strided((stride * (R - 1) + V,), (1,)).numpy()
        settings = self._settings
        E = min(max(settings.exact_top_k, settings.samples), V) + settings.samples + 2
        output = Output(
            maximum_R=np.empty(R, np.float32),
            num_certain_R=np.zeros(R, np.int64),
            counts_R=np.zeros(R, np.int64),
            ids_RE=np.empty((R, E), np.int64),
            relative_RE=np.empty((R, E), np.float32),
            tail_top_R=np.zeros(R, np.float32),
            tail_count_R=np.zeros(R, np.int64),
            sums_RJ3=np.zeros((R, len(settings.betas_J), 3)),
        )

        def part(start: int, stop: int) -> None:
            self._records(flat, stride, V, start, stop, uniform_R.numpy(), settings, output)

        threads = min(R, torch.get_num_threads())
        if threads == 1:
            part(0, R)
        else:
            edges = [R * t // threads for t in range(threads + 1)]
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(part, edges[:-1], edges[1:]))
        kept_RE = np.arange(E) < output.counts_R[:, None]
        return Block(
            maximum_R=output.maximum_R,
            num_certain_R=output.num_certain_R,
            counts_R=output.counts_R,
            ids_E=output.ids_RE[kept_RE],
            relative_E=output.relative_RE[kept_RE],
            tail_top_R=output.tail_top_R,
            tail_count_R=output.tail_count_R,
            sums_RJ3=output.sums_RJ3,
        )


@cache
def load_records() -> Any:
    """The function `records`, whose compiled code is kept in the user's cache folder if that can be written.

    Of these very sources: numba looks at the one file of a function, but not at those it calls into.
    """
    import numba

    from kdcache.targets.compiled.records import records

    digest = hashlib.sha256()
    for source in (*sorted(Path(__file__).parent.glob("*.py")), Path(constants.__file__)):
        digest.update(source.read_bytes())
    config: Any = numba.config
    given = config.CACHE_DIR
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = Path(given or home / "kdcache" / "numba" / digest.hexdigest()[:16])
    with contextlib.suppress(OSError, RuntimeError):
        folder.mkdir(parents=True, exist_ok=True)
        config.CACHE_DIR = str(folder)
        records.enable_caching()
    config.CACHE_DIR = given
    return records
