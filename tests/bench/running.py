"""One part in a process of its own: python -m tests.bench.running PART FILE [--quick]

A process of its own because a part that is killed, hangs or takes too much memory must not take the others along, and
because what one part imports must not weigh on the next one. A result is kept as JSON; after a failure the rows of the
last success stay, beside what went wrong.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.machine import REPO, commit, hardware, versions
from tests.bench.part import Part, load
from tests.bench.peers import PINS, environment

__all__ = ["read", "run"]

LONGEST = 25 * 60
"""Seconds for any part; one that says that it takes long has four times what it says."""
SETTINGS = {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Of every part's process."""


def run(part: Part, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Run a part, keep its result in the folder, and return it. Nothing that a part does is raised here."""
    path = folder / f"{part.name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".new")
    made.unlink(missing_ok=True)
    python = str(environment().python) if part.peers else sys.executable
    command = [python, "-m", "tests.bench.running", part.name, str(made), *(["--quick"] if quick else [])]
    before = [str(REPO), str(REPO / "tests"), str(REPO / "tests/bench"), str(REPO / "launch")]
    settings = {**os.environ, **SETTINGS, "PYTHONPATH": os.pathsep.join(before), "PYTHONDONTWRITEBYTECODE": "1"}
    started = time.perf_counter()
    with (folder / f"{part.name}.log").open("w+") as log:
        process = subprocess.Popen(
            command, cwd=REPO, env=settings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        failure = _wait(process, max(LONGEST, 4 * 60 * part.minutes))
        log.seek(0)
        said = log.read().strip().splitlines()
    result = read(folder, part.name) or {"part": part.name}
    result.pop("failure", None)
    if made.exists() and failure is None:
        result = json.loads(made.read_text()) | {"seconds": round(time.perf_counter() - started)}
    else:
        why = failure if failure is not None and "status" not in failure else (said or [failure])[-1]
        result["failure"] = {"date": now(), "why": str(why)[:400]}
    made.unlink(missing_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def _wait(process: subprocess.Popen, longest: float) -> str | None:
    try:
        status = process.wait(longest)
        return None if status == 0 else f"ended with status {status}"
    except subprocess.TimeoutExpired:
        return f"not done after {longest / 60:.0f} minutes"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """The latest result of a part."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def main() -> None:
    name, file, *rest = sys.argv[1:]
    quick = "--quick" in rest
    part = load(name)
    result = {
        "part": name,
        "date": now(),
        "quick": quick,
        "commit": commit(),
        "machine": hardware(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "versions": versions(*PINS),
        "rows": part.run(quick),
    }
    Path(file).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
