"""Sizes of batches that go together, and which to set where they do not. Pure; searched only after an error."""

import math

from kdcache.errors import ConfigError

__all__ = ["LANES", "advice", "check_sizes", "groups_fault", "lanes_fault", "lanes_for_all", "usual_lanes"]

LANES = 256
LEAST_OF_A_LANE = 64


def check_sizes(num_examples: int, *, global_batch: int, micro_batch: int, lanes: int, world_size: int) -> None:
    """Raises ConfigError, with settings that pass every check, unless an epoch has a step, the world size divides
    global_batch and lanes, and micro_batch divides a rank's share of global_batch."""
    share = global_batch // world_size
    if num_examples // lanes * lanes < global_batch:
        fault = (
            f"got a cache of {num_examples} examples and global_batch {global_batch}, expected at least "
            f"{global_batch} examples"
        )
    elif lanes % world_size:
        fault = f"got world size {world_size} and {lanes} lanes, expected the world size to divide the lanes"
    elif global_batch % world_size:
        fault = f"got world size {world_size} and global_batch {global_batch}, expected the one to divide the other"
    elif share % micro_batch:
        fault = (
            f"got micro_batch {micro_batch} and {share} examples per step for each of {world_size} ranks "
            f"(global_batch {global_batch}), expected micro_batch to divide them"
        )
    else:
        return
    given = {"global_batch": global_batch, "stream.lanes": lanes, "micro_batch": micro_batch}
    raise ConfigError(f"{fault}; {advice(given, num_examples=num_examples, world_size=world_size)}")


def lanes_fault(global_batch: int, lanes: int) -> str | None:
    """What is wrong where neither of global_batch and lanes divides the other, with what to set; None otherwise."""
    if global_batch % lanes == 0 or lanes % global_batch == 0:
        return None
    nearest = _nearest(lanes, [*_divisors(global_batch), *_multiples(global_batch, lanes)])
    return (
        f"got global_batch {global_batch} and stream.lanes {lanes}, expected lanes to divide global_batch, or "
        f"global_batch to divide the lanes; set stream.lanes to {nearest}"
    )


def groups_fault(global_batch: int, groups: int) -> str | None:
    """What is wrong where groups of like length do not divide global_batch, with what to set; None where they do."""
    if groups == 0 or global_batch % groups == 0:
        return None
    return (
        f"got global_batch {global_batch} and stream.length_groups {groups}, expected length_groups to divide "
        f"global_batch; set stream.length_groups to {_nearest(groups, _divisors(global_batch))}, or to 0 for none"
    )


def advice(given: dict[str, int], *, num_examples: int | None = None, world_size: int = 1) -> str:
    """ "set stream.lanes to 32", the nearest settings that fit. given: global_batch, stream.lanes, micro_batch."""
    batch, lanes, micro = given["global_batch"], given["stream.lanes"], given["micro_batch"]
    most = 2 * max(batch, world_size) if num_examples is None else min(num_examples, 2 * max(batch, world_size))
    found = None
    for one_batch in range(world_size, most + 1, world_size):
        usable = [*_divisors(one_batch), *_multiples(one_batch, lanes)]
        fitting = [n for n in usable if n % world_size == 0 and _has_a_step(num_examples, one_batch, n)]
        if not fitting:
            continue
        one_lanes = _nearest(lanes, fitting)
        one_micro = max(n for n in _divisors(one_batch // world_size) if n <= micro)  # never more memory
        cost = 4 * _far(one_batch, batch) + _far(one_lanes, lanes) + _far(one_micro, micro)
        if found is None or cost < found[0]:
            found = cost, {"global_batch": one_batch, "stream.lanes": one_lanes, "micro_batch": one_micro}
    if found is None:
        return f"take {world_size} examples or more, or fewer ranks"
    changed = [f"{name} to {value}" for name, value in found[1].items() if value != given[name]]
    return f"set {' and '.join(changed)}"


def usual_lanes(global_batch: int, num_examples: int, blocks: int = 1) -> int:
    """The largest multiple or divisor of global_batch up to 256; a divisor above where there is none from 64 on.

    A multiple is at most a 64th of the examples of a cache, so that an epoch leaves few of them out. Where each lane
    uses so many blocks at one time, 256 / blocks in place of 256. It does not depend on the world size, and so neither
    does the order.
    """
    divisors, most = _divisors(max(global_batch, 1)), max(LANES // blocks, 1)
    if teams := min(most, num_examples // LEAST_OF_A_LANE) // max(global_batch, 1):
        return teams * global_batch
    usual = max(n for n in divisors if n <= most)
    return usual if usual >= min(most // 4, global_batch) else min(n for n in divisors if n > most)


def lanes_for_all(global_batch: int, smallest: int, blocks: int = 1) -> int:
    """Those of a mixture whose smallest cache has so many examples: at most one for each. blocks: see usual_lanes."""
    usual = usual_lanes(global_batch, smallest, blocks)
    return usual if usual <= smallest else max(n for n in _divisors(global_batch) if n <= max(smallest, 1))


def _has_a_step(num_examples: int | None, batch: int, lanes: int) -> bool:
    return num_examples is None or num_examples // lanes * lanes >= batch


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _multiples(number: int, near: int) -> list[int]:
    """The two multiples around another number, where that is above."""
    return [n * number for n in (near // number, near // number + 1) if n > 1]


def _nearest(number: int, numbers: list[int]) -> int:
    return min(numbers, key=lambda other: _far(number, other))


def _far(one: int, other: int) -> float:
    return abs(math.log(one / other))
