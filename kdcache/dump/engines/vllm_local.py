"""LocalPrompts: vLLM in this process, or in processes that it starts itself.

A rank's vLLM sees its own GPUs alone, and nothing of the launcher that started the rank. Hidden states come through
files in a folder of its own, in memory where the system has such a place (/dev/shm); each is deleted when it is read.

L tokens, D hidden width.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdcache.dump.engines.engine import Wanted
from kdcache.dump.engines.vllm_states import extraction, read_states
from kdcache.errors import ConfigError, TeacherError, one_line

if TYPE_CHECKING:
    from kdcache.dump.engines.vllm import Vllm

__all__ = ["LocalPrompts"]

IN_MEMORY = "/dev/shm"
OF_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LocalPrompts:
    """vLLM's LLM object, made to hand out hidden states.

    Args:
        settings: Of the engine.
        wanted: What it is loaded for.

    Raises:
        ConfigError: vLLM is not installed.
        TeacherError: It does not load this teacher.
    """

    def __init__(self, settings: "Vllm", wanted: Wanted) -> None:
        from kdcache.dump.teacher import teacher_folder

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its start takes a hundred lines otherwise
        try:
            with _alone(wanted.devices):
                from vllm import LLM, SamplingParams
        except ImportError as error:
            raise ConfigError(
                f"got teacher.engine vllm, and no vllm here ({one_line(error)}), expected it installed: "
                'pip install "kdcache[vllm]", in an environment of its own if its requirements differ from yours'
            ) from None
        teacher, folder = wanted.teacher, teacher_folder(wanted.teacher)
        self._folder = tempfile.mkdtemp(prefix="kdcache-states-", dir=IN_MEMORY if os.path.isdir(IN_MEMORY) else None)
        self._close = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._sampling, longest = SamplingParams, settings.max_model_len or wanted.task.longest + 1
        given: dict[str, Any] = {
            "model": folder,
            "skip_tokenizer_init": True,
            "dtype": teacher.dtype,
            "trust_remote_code": teacher.trust_remote_code,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "pipeline_parallel_size": settings.pipeline_parallel_size,
            "quantization": settings.quantization,
            "max_model_len": longest,
            "max_num_batched_tokens": max(longest, wanted.compute.batch_tokens_on(wanted.devices[0].type)),
            "seed": 0,
            **extraction(folder, self._folder),
            **({} if wanted.devices[0].type == "cpu" else {"gpu_memory_utilization": settings.gpu_memory_utilization}),
            **settings.arguments,
        }
        try:
            with _alone(wanted.devices):
                self._model = LLM(**given)
        except Exception as error:  # vLLM raises whatever its parts do
            raise TeacherError(f"the teacher {teacher.path} does not load by vLLM: {one_line(error)}") from None

    def states(self, prompts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """As Prompts says."""
        for answer, prompt in zip(self._answers(prompts), prompts, strict=True):
            told = answer.kv_transfer_params or {}
            yield read_states(Path(told["states"]), len(prompt))

    def top(self, prompts: Sequence[Sequence[int]]) -> Iterator[dict[int, float]]:
        """As Prompts says."""
        for answer in self._answers(prompts, logprobs=20):
            read_states(Path(answer.kv_transfer_params["states"]))
            yield {token: entry.logprob for token, entry in answer.outputs[0].logprobs[0].items()}

    def _answers(self, prompts: Sequence[Sequence[int]], logprobs: int | None = None) -> Sequence[Any]:
        sampling = self._sampling(max_tokens=1, temperature=0.0, detokenize=False, logprobs=logprobs)
        found: Sequence[Any] = self._model.generate(
            [{"prompt_token_ids": [*prompt]} for prompt in prompts], sampling, use_tqdm=False
        )
        return found


@contextmanager
def _alone(devices: Sequence[torch.device]) -> Iterator[None]:
    """Show what is started inside these GPUs alone, and no launcher."""
    changes: dict[str, str | None] = dict.fromkeys(OF_LAUNCHERS)
    if devices[0].type == "cuda":
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = seen.split(",") if seen else [str(i) for i in range(torch.cuda.device_count())]
        changes["CUDA_VISIBLE_DEVICES"] = ",".join(names[device.index or 0] for device in devices)
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
