"""A Ray cluster: found or refused in a line, and how many workers it can place."""

import logging
import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdcache.dump.placements.placement import placement_of
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError, one_line
from kdcache.progress import counted

__all__ = ["Node", "Place", "connect", "nodes_of", "placed"]

PATIENCE_S = 5.0
"""How long the head of a cluster may take to answer."""


@dataclass(frozen=True)
class Node:
    """What a machine has."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Place:
    """What each worker takes of a machine, and how many workers there are."""

    cpus: float
    gpus: float
    workers: int


def connect(address: str | None) -> Any:
    """The package ray, connected: to that cluster, or to the one that Ray finds, or to one of this machine alone.

    Raises ConfigError where there is no Ray, or no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(
            'got --ray, and the package ray is not installed; expected it: pip install "kdcache[ray]"'
        ) from None
    if address is not None:
        _check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = "a Ray cluster" if address is None else f"--ray-address {address}"
        raise ConfigError(
            f"cannot use {where}: {one_line(error, 400)}; expected one of this version of Ray, and its token where "
            "it has one: RAY_AUTH_MODE=token"
        ) from None
    return ray


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address in ("local", "auto"):
        return
    if "://" in address or not host or not port.isdecimal():
        raise ConfigError(
            f"got --ray-address {address}, expected the head of a cluster, such as 10.0.0.1:6379, given on a machine "
            "of that cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"got --ray-address {address}, where nobody answers ({one_line(error)}), expected the head of a Ray "
            "cluster: ray start --head says its address"
        ) from None


def nodes_of(ray: Any) -> list[Node]:
    """The machines of a cluster that are there now."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in found]


def placed(config: DumpConfig, nodes: Sequence[Node], workers: int | None, gpus: float | None) -> Place:
    """What each worker takes, and how many they are: as many as there is room for, unless the user says.

    Args:
        config: Of the dump.
        nodes: Of the cluster.
        workers: --num-workers.
        gpus: --gpus-per-worker.

    Raises:
        ConfigError: No machine has so many GPUs, a teacher needs more, or several ranks hold it together.
    """
    _check_whole(config)
    most = max((node.gpus for node in nodes), default=0.0)
    gpus = _gpus(config, most) if gpus is None else _asked(config, gpus)
    if gpus > most:
        raise ConfigError(
            f"got {gpus:g} GPU{'s' * (gpus != 1)} for each worker and a Ray cluster whose machines have "
            f"{f'at most {most:g}' if most else 'none'}, expected a machine with so many: start Ray on one, or set "
            + ("--gpus-per-worker and teacher.gpus_per_replica" if most else "compute.device: cpu")
        )
    largest = max((node.cpus for node in nodes if node.gpus >= gpus), default=0.0)
    if largest < 1:
        raise ConfigError("got a Ray cluster without a CPU for a worker, expected at least one: ray start --num-cpus 1")
    # On a CPU without a number of threads a teacher computes with every core of its machine.
    cpus = min(float(config.compute.threads or (1 if gpus else largest)), largest)
    room = sum(int(min(node.cpus / cpus, node.gpus / gpus if gpus else math.inf)) for node in nodes)
    return Place(cpus, gpus, workers or max(room, 1))


def _check_whole(config: DumpConfig) -> None:
    """Raises ConfigError for a teacher that no worker has for itself."""
    teacher = config.teacher
    if teacher != "none" and (ranks := placement_of(teacher).ranks(teacher)) > 1:
        raise ConfigError(
            f"got --ray and teacher.placement {teacher.placement}, where {ranks} ranks hold one copy of the teacher, "
            "expected placement: replicate or device_map, of which each worker has one: start its ranks with torchrun"
        )


def _gpus(config: DumpConfig, most: float) -> float:
    """What the config asks for."""
    if config.teacher == "none" or config.compute.device == "cpu" or (config.compute.device == "auto" and not most):
        return 0.0
    return float(config.teacher.engine.gpus(config.teacher))


def _asked(config: DumpConfig, gpus: float) -> float:
    """Raises ConfigError where the config needs other than what the user says."""
    if config.teacher == "none" or config.compute.device == "cpu":
        return gpus
    needed = config.teacher.engine.gpus(config.teacher)
    if (gpus < needed and (needed > 1 or gpus == 0)) and (gpus or config.compute.device == "cuda"):
        raise ConfigError(
            f"got --gpus-per-worker {gpus:g}, expected {counted(needed, 'GPU')}, which one copy of the teacher takes"
        )
    return gpus
