"""Meeting: how the ranks of a replica find each other.

Each replica has a store of its own, on its first rank, so that no replica depends on another. Where it is, the others
learn from a store that all ranks know, at MASTER_ADDR and MASTER_PORT: torchrun's own, or else one on rank 0, which
stays until all ranks have met.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, TCPStore

from kdcache.errors import ConfigError, TeacherError
from kdcache.launcher import World

__all__ = ["WAIT_S", "Meeting", "open_store"]

WAIT_S = 300.0
"""How long a rank waits for the others to start."""


def open_store(host: str, port: int, *, here: bool = False) -> TCPStore:
    """A store of torch.distributed, or, with `here`, a new one in this process."""
    return TCPStore(host, port, is_master=here, wait_for_workers=False, timeout=timedelta(seconds=WAIT_S))


class Meeting:
    """The store of a replica.

    Args:
        world: This rank among all.
        ranks: Of a replica.
        environment: What the launcher set.

    Raises:
        ConfigError: The launcher did not say where to meet.
        TeacherError: The first rank of the replica, or rank 0, is not there in time.

    Attributes:
        store: Of the replica.
        address: Where it is: host and port.
    """

    def __init__(self, world: World, ranks: int, environment: Mapping[str, str] = os.environ) -> None:
        host, port = _address(world, environment)
        first, self._size = world.rank - world.rank % ranks, world.size
        self._hosts = world.rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            self._common_store = open_store(host, port, here=self._hosts)
            attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
            self._common = PrefixStore(f"kdcache/{attempt}", self._common_store)
            if world.rank == first:
                here = _own_address(host, port)
                self.store = open_store(here, 0, here=True)
                self.address = here, self.store.port
                self._common.set(str(first), f"{here} {self.store.port}")
            else:
                there, number = self._common.get(str(first)).decode().split()
                self.address = there, int(number)
                self.store = open_store(*self.address)
            self._common.add("met", 1)
        except RuntimeError as error:
            words = " ".join(str(error).split())[:200]
            raise TeacherError(
                f"rank {world.rank} of {world.size} does not find rank {first}, the first of its replica, through "
                f"{host}:{port} ({words}), expected all ranks to be started together, within {WAIT_S:.0f} s"
            ) from None

    def leave(self) -> None:
        """Wait until every rank has met, where their store is in this process."""
        deadline = time.monotonic() + WAIT_S
        with contextlib.suppress(RuntimeError):
            while self._hosts and self._common.add("met", 0) < self._size and time.monotonic() < deadline:
                time.sleep(0.2)


def _address(world: World, environment: Mapping[str, str]) -> tuple[str, int]:
    if "MASTER_ADDR" not in environment:
        raise ConfigError(
            f"got {world.size} ranks without MASTER_ADDR for a teacher that several ranks hold, expected a launcher "
            "that sets it (torchrun, deepspeed), or MASTER_ADDR and MASTER_PORT to name rank 0's machine"
        )
    port = environment.get("MASTER_PORT", "29500")
    if not port.isdigit():
        raise ConfigError(f"got MASTER_PORT {port}, expected a number")
    return environment["MASTER_ADDR"], int(port)


def _own_address(host: str, port: int) -> str:
    """Of this machine, as others see it that reach the same host."""
    kind, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # sends nothing
        return str(probe.getsockname()[0])
