"""OUTPUT/done.json: what a finished run came to, and whether that still stands.

A run is finished while its pinned settings and its steps are those asked for, the figures are of the held-out cache
asked for, and every file of the student has the digest that it was written with. Where only the student or the
figures are wanting, the run goes on from its last checkpoint, which takes no step, evaluates and writes the student
again; files of a student that somebody edited are put aside, not deleted (kdcache.owned).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcache.disk import Disk
from kdcache.errors import ConfigError, TrainError, next_command
from kdcache.owned.model import digests
from kdcache.progress import counted, say
from kdcache.store.cache import Cache
from kdcache.stream.mixture import Mixture
from kdcache.train.pinned import check_unchanged
from kdcache.train.plan import Run

__all__ = ["DONE", "Done", "check_steps", "is_finished", "read_done", "results_of", "write_done"]

DONE = "done.json"


@dataclass(frozen=True)
class Done:
    """steps: that were done. evaluation: the held-out figures. precision: of the run. settings: the pinned ones.

    results: what else decides the figures and the files. files: sha256 of each file of the student, by its name.
    """

    steps: int
    evaluation: dict[str, float] | None
    precision: dict[str, str]
    settings: dict[str, Any]
    results: dict[str, Any]
    files: dict[str, str]


def results_of(run: Run, held_out: Cache | None) -> dict[str, Any]:
    """What decides the figures and the files that a run ends with, and may change when it goes on."""
    evaluated = None
    if held_out is not None and run.eval is not None:
        evaluated = {"cache": held_out.digest, "max_examples": run.eval.max_examples}
    return {"eval": evaluated, "export_modules": run.export_modules}


def write_done(output: Path, done: Done) -> None:
    """Last of all, when the student stands."""
    Disk(output).write(DONE, json.dumps(asdict(done), indent=1).encode())


def read_done(output: Path) -> Done | None:
    """None where no run was finished. Raises TrainError for a file that no run wrote."""
    path = output / DONE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        done = Done(**found)
        whole = isinstance(done.steps, int) and all(
            isinstance(part, dict) for part in (done.precision, done.settings, done.results, done.files)
        )
        if not whole:
            raise TypeError("a part of it is no mapping")
        return done
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise TrainError(
            f"{path} is damaged ({type(error).__name__}), expected what a finished run writes; delete it and run the "
            "same command again, which goes on from the last checkpoint"
        ) from None


def is_finished(
    run: Run, mixture: Mixture, held_out: Cache | None, pinned: Mapping[str, Any], *, aloud: bool = True
) -> bool:
    """Whether OUTPUT holds this very run, done and whole; says so, or what is wanting.

    aloud: whether to say what is wanting. Raises ConfigError where OUTPUT holds another run, or more steps of this one.
    """
    done = read_done(run.output)
    if done is None:
        return False
    check_unchanged(done.settings, dict(pinned), run.output, run.allow_change)
    total = run.pace(mixture).total_steps
    check_steps(total, done.steps, run.output)
    if total > done.steps:
        return False
    wanting = _fault_of_student(run.output / "student", done.files)
    if wanting is None and done.results != results_of(run, held_out):
        wanting = "eval or export_modules is another than the student was finished with"
    if wanting is None:
        say(f"{run.output} is finished: {total} of {total} steps; the student is in {run.output / 'student'}")
    elif aloud:
        say(f"{wanting}: the student is evaluated and written again from the checkpoint of step {done.steps}")
    return wanting is None


def check_steps(total: int, reached: int, output: Path) -> None:
    """Raises ConfigError for a run that is to have fewer steps than it has."""
    if total < reached:
        raise ConfigError(
            f"got a run of {counted(total, 'step')} whose {output} has reached step {reached}, expected at least as "
            f"many; give more steps, start anew with another output, or write the student of an earlier step, where "
            f"its checkpoint is kept: {next_command('export', output, '--step', total, '--out', 'DIR')}"
        )


def _fault_of_student(folder: Path, files: Mapping[str, str]) -> str | None:
    """The first file that is not as it was written, and how."""
    there = digests(folder) if folder.is_dir() else {}
    for name in sorted(files.keys() | there.keys()):
        if there.get(name) != files.get(name):
            how = "is missing" if name not in there else "is new" if name not in files else "is damaged or edited"
            return f"{folder / name} {how}"
    return None
