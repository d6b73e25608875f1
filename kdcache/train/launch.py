"""run_train: what `kdcache train` does as one process, as a rank of a launcher, and as the one that starts it.

Cheap checks come first, so that a mistake costs a second, not a launch of 10 to 20 s.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kdcache.errors import ConfigError, KdcacheError, RunStoppedError, TrainError, one_line
from kdcache.launcher import World, find_device, find_world, lost_a_peer
from kdcache.train.leaving import Leaving, how_to_go_on
from kdcache.train.local_ranks import start_ranks
from kdcache.train.settings import TrainConfig
from kdcache.train.watch import Watch

if TYPE_CHECKING:
    from kdcache.train.plan import Run

__all__ = ["run_train"]


def run_train(
    config: TrainConfig, *, nproc: int | None, config_path: str, overrides: list[str], force: bool = False
) -> int:
    """Train, and return the exit status. force: take the output over, whoever has it.

    Without a launcher: one process, or nproc local ranks. Ranks that fail after another return its status without a
    word. Raises KdcacheError for the failure that is to be reported.
    """
    world = find_world()
    if world is not None and nproc is not None:
        raise ConfigError(
            f"got --nproc {nproc} under a launcher that started {world.size} ranks, expected one or the other"
        )
    if world is not None:
        with Watch() as watch:
            from kdcache.train.plan import plan

            return _train_as(world, config.device, lambda: plan(config, force=force), watch)
    from kdcache.train.plan import plan

    run = plan(config, force=force)
    if finished_early(run, nproc or 1):
        return 0
    if nproc is not None:
        return start_ranks(nproc, run, config_path, overrides)
    with Watch() as watch:
        return _train_as(World(), run.device, lambda: run, watch)


def finished_early(run: "Run", world_size: int) -> bool:
    """Check what can be known without a launch, and whether the run is done already. Raises KdcacheError."""
    from kdcache.students.making import student_folder
    from kdcache.train.done import DONE, is_finished
    from kdcache.train.output import check_run_output
    from kdcache.train.run import open_caches

    check_run_output(run)
    mixture, held_out = open_caches(run)
    if run.student.path is not None:
        student_folder(run.student)
    run.batches.loader(mixture, World(0, world_size)).close()
    if not (run.output / DONE).is_file():
        return False
    return is_finished(run, mixture, held_out, run.pinned_with(mixture), aloud=False)


def _train_as(world: World, wanted: str, planned: "Callable[[], Run]", watch: Watch) -> int:
    """wanted: the device of the settings. planned: gives the run; what is wrong with it is told by one rank alone."""
    from kdcache.train.distributed import connect, disconnect, first_to_fail, status_of_first_failure

    device, again = find_device(wanted), partial(how_to_go_on, None)
    connect(world, device)
    try:
        run = planned()
        again = partial(how_to_go_on, run.output)
        _train_watched(run, world, device, watch)
        disconnect()
        return 0
    except RunStoppedError as error:
        disconnect()
        if world.first:
            raise
        return error.exit_status
    except KdcacheError as error:
        if first_to_fail(error.exit_status):
            raise
    except Exception as error:
        if first_to_fail(1):
            raise in_words(error, world, again()) from None
    return status_of_first_failure()


def _train_watched(run: "Run", world: World, device: str, watch: Watch) -> None:
    """Train, while the ranks watch each other."""
    from kdcache.train.beats import Beats
    from kdcache.train.distributed import default_store
    from kdcache.train.phases import Phases
    from kdcache.train.run import train

    leaving = Leaving(run.checkpoint, world, lambda: watch.asked)
    if world.size == 1:
        return train(run, world, device, leaving)
    again = partial(how_to_go_on, run.output)
    phases = Phases()
    beats = Beats(default_store(), world, 60 * run.hang_minutes, phases, again)
    watch.checks.append(beats.fault)
    try:
        train(run, world, device, leaving, phases)
    finally:
        beats.stop()


def in_words(error: Exception, world: World, again: str) -> Exception:
    """What a user can do about it, where that is known. again: what the same command will do."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return TrainError(
            f"rank {world.rank} ran out of GPU memory; lower micro_batch or loss_chunk, set "
            "student.gradient_checkpointing: true, or take a higher ZeRO stage"
        )
    if _is_of_storage(error):
        return TrainError(
            f"rank {world.rank} cannot read or write a file: {one_line(error)}; free some space or "
            f"mend the path; {again}"
        )
    if lost_a_peer(error):
        return TrainError(f"rank {world.rank} lost another rank, which was killed or ran out of memory; {again}")
    return error


def _is_of_storage(error: Exception) -> bool:
    from safetensors import SafetensorError

    if isinstance(error, OSError):
        return not isinstance(error, ConnectionError)
    return isinstance(error, SafetensorError) and "os error" in str(error)
