"""The transformers engine with a gate, and a token that kills: `module: dump.schedulers.gated`.

KDCACHE_GATE in the environment is a folder: where it is there, whoever computes leaves its number in it and waits until
it is gone. KDCACHE_KILLER is an id of a token that ends the process that reads it.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import kdcache
from kdcache.dump.engines import Engine, Rows, Wanted
from kdcache.dump.engines.transformers import Transformers
from kdcache.tasks import Example


class Gated(Transformers):
    """kind: of this engine."""

    kind: Literal["gated"] = "gated"  # type: ignore[assignment]

    def load(self, wanted: Wanted) -> Engine:
        engine = super().load(wanted)
        rows_of, gate = engine.rows_of, Path(os.environ.get("KDCACHE_GATE", "/nowhere"))
        killer = int(os.environ.get("KDCACHE_KILLER", "-1"))

        def gated(examples: Sequence[Example], **rest: Any) -> Iterator[Rows]:
            if any(killer in example.tokens for example in examples):
                os.kill(os.getpid(), signal.SIGKILL)
            while gate.is_dir():
                (gate / str(os.getpid())).touch()
                time.sleep(0.02)
            return rows_of(examples, **rest)

        engine.rows_of = gated  # type: ignore[method-assign]
        return engine


kdcache.register_engine("gated", Gated)
