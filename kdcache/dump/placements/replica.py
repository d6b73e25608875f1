"""Replica: the ranks that hold one copy of a teacher between them, and what they say to each other.

The first rank tells the others what to do, word by word, through the replica's store: load your part, run this forward
pass, end. What it tells is tensors, numbers and strings, never code. A rank that fails leaves a word there; the first
one to fail says why in one line, and the rest end with its exit status.
"""

import contextlib
import io
import os
import time
import warnings
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed
from torch._C._distributed_c10d import PrefixStore

from kdcache.dump.placements.meeting import Meeting, open_store
from kdcache.dump.placements.sharded import how_to_start
from kdcache.dump.placements.watch import FAULT, Fault, Watch
from kdcache.errors import ConfigError, KdcacheError, TeacherError, one_line
from kdcache.launcher import World, find_device, lost_a_peer
from kdcache.progress import counted

if TYPE_CHECKING:
    from kdcache.dump.settings import ComputeConfig, TeacherConfig

__all__ = ["Replica", "join_replica"]

COLLECTIVE = timedelta(minutes=30)
"""How long a collective may take: a rank may load its part of the teacher much later than another."""
LONGEST_NAP_S = 0.05
"""Between two looks for a word. At first naps are a tenth of the time that was waited already."""
PATIENCE_S = 5.0
"""How long a rank that fails waits for what others have to say, and for them to hear it."""


def _lost_a_peer(error: BaseException) -> bool:
    """Also of a load, in whose words another error is."""
    return lost_a_peer(RuntimeError(str(error)) if isinstance(error, TeacherError) else error)


class _PeerEnded(Exception):
    """Another rank of the replica has failed, or is gone."""


def join_replica(teacher: "TeacherConfig", compute: "ComputeConfig", world: World) -> "Replica":
    """The replica that this rank belongs to, once its ranks have met.

    Args:
        teacher: Whose copies several ranks hold.
        compute: On which device.
        world: This rank.

    Raises:
        ConfigError: The ranks cannot be shared out, or have not been told where to meet.
        TeacherError: They do not meet.
    """
    ranks = teacher.ranks_per_replica
    if world.size % ranks:
        raise ConfigError(
            f"got {counted(world.size, 'rank')} for teacher.ranks_per_replica {ranks}, expected a multiple of {ranks}: "
            f"{how_to_start(ranks)}"
        )
    # DeepSpeed looks at it when it is imported first, which transformers does.
    os.environ.setdefault("DS_ACCELERATOR", find_device(compute.device, "compute.device:"))
    return Replica(world, ranks)


class Replica:
    """As a context: ends the others where this rank fails, and this rank where another one does.

    Args:
        own: This rank among all.
        size: How many ranks hold one copy.

    Raises:
        ConfigError: The ranks cannot be shared out, or have not been told where to meet.
        TeacherError: They do not meet.

    Attributes:
        rank: This rank's number in the replica.
        first: Whether it is the one that leads.
        world: The replicas as the ranks of a dump, and this one among them.
    """

    def __init__(self, own: World, size: int) -> None:
        self.own, self.size, self.rank = own, size, own.rank % size
        self.first = self.rank == 0
        self.world = World(own.rank // size, own.size // size, own.local_rank, replica=self)
        self._meeting = Meeting(own, size)
        self._store = self._meeting.store
        first = own.rank - self.rank
        others = [rank for rank in range(first, first + size) if rank != own.rank]
        self._watch = Watch(lambda: open_store(*self._meeting.address), own.rank, others, self._speaks)
        self._told, self._asked, self._kept = 0, 0, list[object]()
        self._watch.start()

    def connect(self, device: torch.device) -> None:
        """Start the process group of torch.distributed, which has the ranks of this replica and no others."""
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        os.environ.setdefault("LOCAL_RANK", str(self.own.local_rank))
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=COLLECTIVE,
            device_id=device if device.type == "cuda" else None,
        )

    def keep(self, thing: object) -> None:
        """Hold it in memory as long as the replica lasts."""
        self._kept.append(thing)

    def tell(self, word: str, value: Any = None) -> None:
        """The first rank: tell all others.

        Args:
            word: What to do.
            value: With what: tensors, numbers, strings, and tuples, lists and dicts of them.
        """
        self._check()
        packed = io.BytesIO()
        torch.save((word, value), packed)
        self._store.set(f"told/{self._told}", packed.getvalue())  # type: ignore[arg-type]  # bytes it is
        self._told += 1

    def hear(self) -> tuple[str, Any]:
        """The others: the next word, however long it takes."""
        key, begin = f"told/{self._told}", time.monotonic()
        while not self._store.check([key]):
            self._check()
            time.sleep(min((time.monotonic() - begin) / 10, LONGEST_NAP_S))
        word, value = torch.load(io.BytesIO(self._store.get(key)), map_location="cpu", weights_only=True)
        self._told += 1
        if self._store.add(f"{key}/heard", 1) == self.size - 1:
            self._store.delete_key(key)
            self._store.delete_key(f"{key}/heard")
        return word, value

    def answer(self) -> None:
        """The others: what was told last is done."""
        self._store.add("answers", 1)

    def wait_for_others(self) -> None:
        """The first rank: wait until all others have answered once more."""
        self._asked += self.size - 1
        while self._store.add("answers", 0) < self._asked:
            self._check()
            time.sleep(0.02)

    def _check(self) -> None:
        if self._watch.fault is not None:
            raise _PeerEnded

    def _speaks(self, fault: Fault) -> bool:
        """Whether this rank is the first to say why the replica ends."""
        try:
            return not fault.told and self._store.add("spoken", 1) == 1
        except RuntimeError:
            return not fault.told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is None:
                self._end()
                return
        except (RuntimeError, _PeerEnded) as late:
            error = late
        self._fail(error)

    def _end(self) -> None:
        """All is done: the first rank says so, and stays until the others have heard it."""
        if self.first:
            self.tell("end")
            self.wait_for_others()
            self._watch.stop()
        else:
            self._watch.stop()
            self.answer()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        self._meeting.leave()

    def _fail(self, error: BaseException) -> None:
        """Raises what this rank ends with, or returns where that is the error itself.

        Raises:
            TeacherError: Another rank is gone.
            SystemExit: Another rank has said why.
        """
        if isinstance(error, _PeerEnded) or _lost_a_peer(error):
            first = self.own.rank - self.rank
            fault = self._watch.wait(PATIENCE_S) or Fault(
                f"a rank of the replica of ranks {first} to {first + self.size - 1} is gone"
            )
            speaks = self._speaks(fault)
            self._watch.stop()
            if not speaks:
                raise SystemExit(fault.status) from None
            raise TeacherError(
                f"{fault.words} (killed, or out of memory?), so this rank, {self.own.rank}, ends too: run the same "
                "command again to go on; finished shards are kept"
            ) from None
        status = (
            error.exit_status if isinstance(error, KdcacheError) else 130 if not isinstance(error, Exception) else 1
        )
        fault = Fault(one_line(error, 300), status, told=True)
        speaks = self._speaks(Fault(""))
        with contextlib.suppress(RuntimeError):
            self._store.set(FAULT, fault.as_json())
        if not speaks and isinstance(error, Exception):
            raise SystemExit(status) from None
        if self.first:
            time.sleep(2.5)  # the store is in this process, and the others look once a second
