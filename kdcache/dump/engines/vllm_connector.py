"""The part that runs inside vLLM: it hands out the last layer's hidden states of each prompt, as a file.

vLLM names this module as its KV connector (`kv_connector_module_path`). Under `extract_hidden_states` the states of a
prompt lie in a cache of their own after the step that read the prompt. They are copied out in that very step, before
vLLM gives its answer, so no block of the cache has to be held and no further step has to come. A thread writes them
under another name and renames them: a file that is there is whole. Where that fails, a file with the suffix .error says
why.

Prompts must be read whole in one step: no chunked prefill, no prefix caching.

L tokens, D hidden width.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from vllm.config import get_layers_from_vllm_config
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.model_executor.models.extract_hidden_states import CacheOnlyAttentionLayer
from vllm.v1.kv_cache_interface import HiddenStateCacheSpec

__all__ = ["StatesConnector"]

WRITERS, WAITING = 2, 8
"""Threads, and how many prompts' states may wait for them: more of them, and vLLM waits."""


@dataclass
class _Read(KVConnectorMetadata):
    """(file, tokens, blocks of the cache) of each prompt that the step reads."""

    prompts: list[tuple[str, int, list[int]]] = field(default_factory=list)


class StatesConnector(KVConnectorBase_V1, SupportsHMA):
    """One object of it schedules, and one in each of vLLM's workers copies.

    The extra config has `folder`, where the files go: absolute, and seen by whoever reads them.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        groups = kv_cache_config.kv_cache_groups
        of_states = [i for i, group in enumerate(groups) if isinstance(group.kv_cache_spec, HiddenStateCacheSpec)]
        if not of_states and len(groups) > 1:
            raise ValueError(f"got {len(groups)} groups of cache and none of hidden states, expected one")
        self._group = of_states[0] if of_states else 0
        self._folder = Path(self._kv_transfer_config.get_from_extra_config("folder", None))
        self._cache: Tensor | None = None
        self._writers = ThreadPoolExecutor(WRITERS, "hidden-states")
        self._room = threading.BoundedSemaphore(WAITING)

    # In the scheduler

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """None: it brings nothing in."""
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Nothing is brought in."""

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """What the step reads."""
        prompts = []
        for request in scheduler_output.scheduled_new_reqs:
            length, now = len(request.prompt_token_ids), scheduler_output.num_scheduled_tokens[request.req_id]
            if now != length:
                raise ValueError(
                    f"got {now} of the {length} tokens of a prompt in one step, expected all: no chunked prefill, no "
                    "prefix caching, and max_num_batched_tokens of at least the longest prompt"
                )
            prompts.append((str(self._file(request.req_id)), length, list(request.block_ids[self._group])))
        return _Read(prompts)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """The blocks are free, and the answer names the file."""
        return False, {"states": str(self._file(request.request_id))}

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Likewise, of a model with several kinds of cache."""
        return self.request_finished(request, [])

    def _file(self, request: str) -> Path:
        return self._folder / f"{request.replace('/', '_')}.safetensors"

    # In a worker

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        """Find the cache of hidden states, [blocks, layers, tokens of a block, D]; a pipeline's last stage has it."""
        layers = get_layers_from_vllm_config(self._vllm_config, CacheOnlyAttentionLayer, [*kv_caches])
        if layers and get_tensor_model_parallel_rank() == 0:
            (name,) = layers
            self._cache = kv_caches[name]

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing is brought in."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is brought in."""

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """The states are not there yet when a layer of the model is done."""

    def wait_for_save(self) -> None:
        """The step is over: copy the states of its prompts."""
        if self._cache is None or not self.has_connector_metadata():
            return
        read = self._get_connector_metadata()
        assert isinstance(read, _Read)
        for file, length, blocks in read.prompts:
            rows = self._cache[torch.as_tensor(blocks, device=self._cache.device)]
            states_LD = rows.transpose(1, 2).flatten(0, 1)[:length, -1].contiguous()
            self._room.acquire()
            self._writers.submit(self._write, Path(file), states_LD)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Nothing is held, so nothing is given back later."""
        return None, None

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: Any) -> str | None:
        """Tokens of a block one after the other, with all that belongs to one of them together."""
        return "LBNHC"

    def _write(self, file: Path, states_LD: Tensor) -> None:
        begun = file.with_suffix(".begun")
        try:
            save_file({"states": states_LD.cpu()}, begun)
            os.rename(begun, file)
        except Exception as error:
            file.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        finally:
            self._room.release()
