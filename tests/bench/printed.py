"""A part that shows what a script of tests/bench prints, for scripts that have no rows of their own yet."""

import subprocess
import sys
from pathlib import Path

from tests.bench.part import Part, Rows
from tests.bench.scene import teacher_folder

__all__ = ["printed"]


def printed(name: str, title: str, minutes: float, script: str, usual: tuple[str, ...], quick: tuple[str, ...]) -> Part:
    """It gets the teacher's folder and these arguments, and must end with status 0."""

    def run(is_quick: bool) -> Rows:
        path = Path(__file__).with_name(script)
        words = [sys.executable, str(path), str(teacher_folder()), *(quick if is_quick else usual)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        return {"text": done.stdout.rpartition("\r")[2].strip(), "about": " ".join([script, *words[3:]])}

    def render(rows: Rows) -> str:
        script = rows["about"].split()[0]
        return f"What `tests/bench/{script}` prints; its docstring explains it.\n\n```\n{rows['text']}\n```"

    return Part(name=name, title=title, minutes=minutes, run=run, render=render)
