"""Workers as Ray actors: Ray places them, and starts them again when they die; units are handed out here.

A worker is asked for events in one long call after the other, and given a unit when it has room for one, so slow ones
get fewer. A call that fails says that its worker died: its units go to others, and Ray's next incarnation begins like
any process of a dump. Workers that cannot be placed yet join when they can. What all of them do is the one path of a
dump, and a shard is committed there; here is nothing that could be lost.
"""

import os
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any, assert_never

from kdcache.dump.begin import inputs_of
from kdcache.dump.schedulers.cluster import connect, nodes_of, placed
from kdcache.dump.schedulers.events import Begun, Committed, Computed, Ended, Event, Said, Started, Wants
from kdcache.dump.schedulers.units import DEATHS, Units
from kdcache.dump.schedulers.worker import Worker
from kdcache.dump.settings import DumpConfig
from kdcache.errors import TeacherError, one_line
from kdcache.progress import Progress, counted, say, show, spoken_duration
from kdcache.store.output import CacheOutput

__all__ = ["run_on_ray"]

FRUITLESS = 3
"""How often in a row a worker may die before its teacher is loaded."""
SLOW_S = 10.0
GRACE_S = 5.0
HANDED_ON = ("KDCACHE_", "HF_", "TOKENIZERS_", "TRANSFORMERS_", "VLLM_")
"""Variables that a worker gets from the command."""


def run_on_ray(
    config: DumpConfig,
    *,
    num_workers: int | None = None,
    gpus_per_worker: float | None = None,
    ray_address: str | None = None,
    force: bool = False,
    profile: str | None = None,
) -> None:
    """Dump with the workers of a Ray cluster.

    Args:
        config: The settings.
        num_workers: How many; by default as many as there is room for now.
        gpus_per_worker: By default as many as one copy of the teacher takes.
        ray_address: Of the cluster; by default the one that Ray finds, or one of this machine alone.
        force: Write into a folder that is not ours, or in which another command writes.
        profile: A file for the stages' times; each worker writes its own, with its number before the ending.

    Raises:
        ConfigError: No such cluster, or it has not what the config asks for.
        KdcacheError: What a worker met, or workers that die again and again. Committed shards stay.
    """
    CacheOutput(config.output, "dump-logits", inputs_of(config), force=force).check()
    ray = connect(ray_address)
    try:
        place = placed(config, nodes_of(ray), num_workers, gpus_per_worker)
        each = counted(int(place.cpus), "CPU") + (f" and {place.gpus:g} GPUs" if place.gpus else "")
        say(f"Ray at {ray.get_runtime_context().gcs_address}: {counted(place.workers, 'worker')}, {each} each")
        made = ray.remote(Worker).options(
            num_cpus=place.cpus, num_gpus=place.gpus, max_restarts=-1, max_task_retries=0, max_concurrency=4
        )
        given = {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
        settings, here = config.model_dump_json(), os.getcwd()
        actors = [made.remote(n, place.workers, settings, here, given, profile) for n in range(place.workers)]
        dispatcher = _Dispatcher(ray, actors, force)
        try:
            dispatcher.run()
        finally:
            dispatcher.dismiss()
    finally:
        ray.shutdown()


class _Dispatcher:
    """Hears the workers and hands out units until one of them has finished the cache."""

    def __init__(self, ray: Any, actors: list[Any], force: bool) -> None:
        self.ray, self.actors, self.force = ray, actors, force
        self.units = Units()
        self.places: dict[int, str] = {}
        self.begun: set[int] = set()
        self.wanting: list[int] = []
        self.fruitless: Counter[int] = Counter()
        self.calls: dict[Any, int] = {}
        self.lead: int | None = None
        """Whose lines are passed on, and who finishes."""
        self.finishing = False
        self.ended = False
        self.tokens = 0
        self.started = time.monotonic()

    def run(self) -> None:
        with ExitStack() as stack:
            self.stack = stack
            for worker in range(len(self.actors)):
                self._start(worker)
            patience: float | None = SLOW_S
            while not self.ended:
                heard, _ = self.ray.wait([*self.calls], timeout=patience)
                if not heard and not self.places:
                    say("no worker has a place yet: other work has the cluster's CPUs or GPUs; waiting for them")
                patience = None
                for call in heard:
                    self._hear(call)
        if self.units.known:
            self._sum_up()

    def _start(self, worker: int) -> None:
        self.calls[self.actors[worker].start.remote(self.force and not self.units.known)] = worker

    def _hear(self, call: Any) -> None:
        worker = self.calls.pop(call)
        try:
            events = self.ray.get(call)
        except self.ray.exceptions.RayActorError as error:
            self._lost(worker, error)
            return
        for event in events:
            self._take(worker, event)
        self.calls[self.actors[worker].events.remote()] = worker
        self._serve()

    def _take(self, worker: int, event: Event) -> None:
        match event:
            case Started(place):
                self.places[worker] = place
                say(f"worker {worker} is {place}")
            case Said(text, result):
                self._pass_on(worker, text, result)
            case Begun(todo, in_all):
                self._begin(worker, todo, in_all)
            case Wants():
                self.wanting.append(worker)
            case Computed(tokens):
                self.tokens += tokens
                self.progress.set(**{"tok/s": f"{self.tokens / (time.monotonic() - self.started):,.0f}"})
            case Committed(unit):
                self.units.committed(worker, unit)
                self._advance()
            case Ended(error, trace):
                if trace is not None:
                    raise RuntimeError(f"worker {worker}, {self.places[worker]}, failed:\n{trace}")
                if error is not None:
                    raise error
                self.ended = True
            case _:
                assert_never(event)

    def _pass_on(self, worker: int, text: str, result: bool) -> None:
        if self.lead is None:
            self.lead = worker
        if worker != self.lead:
            return
        if result:
            show(text)
        else:
            say(text)

    def _begin(self, worker: int, todo: list[int], in_all: int) -> None:
        self.begun.add(worker)
        self.fruitless[worker] = 0
        first = not self.units.known
        self.units.found(todo)
        if first:
            self.started = time.monotonic()
            self.todo = len(todo)
            self.progress = self.stack.enter_context(Progress(in_all, "shards", "dump", done=in_all - len(todo)))
        self._advance()

    def _advance(self) -> None:
        self.progress.advance(self.progress.total - self.units.missing - self.progress.count)

    def _serve(self) -> None:
        """Give the workers that have room what there is, and have one finish the cache when nothing is left."""
        for worker in [*self.wanting]:
            unit = self.units.next_for(worker)
            if unit is not None:
                self.wanting.remove(worker)
                self.actors[worker].give.remote(unit)
        if self.units.done and not self.finishing and self.begun:
            self.lead = self.lead if self.lead in self.begun else min(self.begun)
            self.finishing = True
            self.actors[self.lead].finish.remote()

    def _lost(self, worker: int, error: Exception) -> None:
        """Its units go to others, and Ray starts it again."""
        if worker in self.places:
            say(f"worker {worker}, {self.places.pop(worker)}, died; its units go to others, and Ray starts it again")
            self.fruitless[worker] += 1
        elif isinstance(error, self.ray.exceptions.ActorUnavailableError):
            time.sleep(0.2)  # it is about to be started
        else:
            self.fruitless[worker] = FRUITLESS  # it cannot be
        if self.lead == worker:
            self.lead, self.finishing = None, False
        self.begun.discard(worker)
        self.wanting = [other for other in self.wanting if other != worker]
        if blamed := self.units.lost(worker):
            raise TeacherError(
                f"unit {blamed[0]} killed its worker {DEATHS} times ({one_line(error, 300)}), expected a worker to "
                "live through it: look for what ends it, such as too little memory; every other shard that "
                "was made stays, and the same command goes on"
            )
        if self.fruitless[worker] < FRUITLESS:
            self._start(worker)
        elif not self.calls:
            raise TeacherError(
                f"every worker died before its teacher was loaded, {FRUITLESS} times, the last one with: "
                f"{one_line(error, 400)}"
            )
        self._serve()

    def _sum_up(self) -> None:
        elapsed = time.monotonic() - self.started
        shares = ", ".join(f"{count:,} by worker {worker}" for worker, count in sorted(self.units.made.items()))
        say(
            f"{counted(self.todo, 'shard')}, {self.tokens:,} tokens in {spoken_duration(elapsed)} "
            f"({self.tokens / elapsed:,.0f} tok/s): {shares or 'made by others meanwhile'}"
        )

    def dismiss(self) -> None:
        """End the workers. Those that have nothing to do give their leases back; of others the shards stand."""
        with suppress(Exception):
            if self.ended:
                last = [self.actors[worker].leave.remote() for worker in self.begun]
                self.ray.wait(last, num_returns=len(last), timeout=GRACE_S)
        for actor in self.actors:
            with suppress(Exception):
                self.ray.kill(actor)
