"""What of a machine decides the bits of a logit, and is pinned for that.

A matrix product on a CPU adds in an order that depends on the number of threads and on the processor's vector
instructions, one on a GPU on its generation and its number of multiprocessors. What makes records of logits on a CPU
does not (kdcache.targets.compiled.lanes). Beside a GPU threads decide nothing, unless a basis is made and used on the
host; in a cache of labels nothing of all this does.
"""

import os
from typing import Any

import torch

from kdcache.dump.settings import DumpConfig
from kdcache.progress import counted, say
from kdcache.store.cache import begun_header
from kdcache.store.files import Root
from kdcache.store.places import has_shards
from kdcache.targets.records import calibrated_of

__all__ = ["machine_pins", "use_threads"]

HALF = ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")
"""Instructions for products of numbers of 16 bits."""


def use_threads(config: DumpConfig, root: Root) -> int:
    """Let so many threads compute; how many they are.

    Where the config leaves it open, every core, or as many as a cache was begun with whose bits depend on it.
    """
    cores = len(os.sched_getaffinity(0))
    begun = begun_header(root) if config.compute.threads == 0 and has_shards(root) else None
    threads = config.compute.threads or int((begun and begun.compute.get("threads")) or cores)
    if threads > cores:
        why = f"compute.threads {threads} is" if config.compute.threads else f"the cache was begun with {threads}:"
        say(f"{why} more than the {counted(cores, 'core')} here: slower than on as many")
    torch.set_num_threads(threads)
    return threads


def machine_pins(config: DumpConfig, device: torch.device, threads: int) -> dict[str, Any]:
    """What the header's compute says of the machine: threads, hardware."""
    if config.teacher == "none":
        return {}
    pins: dict[str, Any] = {"hardware": _processor(config) if device.type == "cpu" else _gpu(device)}
    if device.type == "cpu" or calibrated_of(config.record) is not None:
        pins["threads"] = threads
    return pins


def _processor(config: DumpConfig) -> str:
    """Its maker, by which products are dispatched, and the instructions for them, such as AMD AVX512 avx512_bf16."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    words = [
        str(known.get("cpu_name", "")).replace("(", " ").partition(" ")[0],
        torch.backends.cpu.get_cpu_capability(),
    ]
    if not isinstance(config.teacher, str) and config.teacher.dtype != "float32":
        words += [name for name in HALF if known.get(name)]
    return " ".join(filter(None, words))


def _gpu(device: torch.device) -> str:
    """Such as sm_90 with 132 multiprocessors."""
    found = torch.cuda.get_device_properties(device)
    return f"sm_{found.major}{found.minor} with {found.multi_processor_count} multiprocessors"
