"""What has to be said to vLLM so that it writes hidden states, and how they are read.

L tokens, D hidden width.
"""

import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kdcache.errors import TeacherError, one_line
from kdcache.models.strangers import model_config

__all__ = ["extraction", "read_states"]

PATIENCE_S = 60.0
"""How long states may take to be written once vLLM has answered."""


def extraction(model: str, folder: str) -> dict[str, Any]:
    """Arguments with which vLLM writes the hidden states of prompts.

    Args:
        model: The teacher's folder, whose last layer is meant.
        folder: Where the states go.
    """
    layers = model_config(model, weights=True).get_text_config().num_hidden_layers
    return {
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": [layers]}},
        },
        "kv_transfer_config": {
            "kv_connector": "StatesConnector",
            "kv_connector_module_path": "kdcache.dump.engines.vllm_connector",
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"folder": folder},
        },
    }


def read_states(file: Path, length: int | None = None) -> Tensor:
    """The states of a prompt, [L, D], and their file deleted.

    Args:
        file: That vLLM's answer names. It may take a moment to be there.
        length: Tokens of the prompt.

    Raises:
        TeacherError: They do not come, or are of another number of tokens.
    """
    deadline, failed = time.monotonic() + PATIENCE_S, file.with_suffix(".error")
    while not file.exists():
        if failed.exists():
            raise TeacherError(f"vLLM could not write hidden states to {file}: {failed.read_text()}")
        if time.monotonic() > deadline:
            raise TeacherError(
                f"vLLM answered and {file} is not there after {PATIENCE_S:.0f} s, expected the hidden states of a "
                "prompt: is its folder the same one here and there?"
            )
        time.sleep(0.001)
    try:
        states_LD = load_file(file)["states"]
    except (OSError, SafetensorError, KeyError) as error:
        raise TeacherError(f"{file}, the hidden states of a prompt, cannot be read: {one_line(error)}") from None
    finally:
        file.unlink(missing_ok=True)
    if length is not None and len(states_LD) != length:
        raise TeacherError(f"got hidden states of {len(states_LD)} tokens from vLLM, expected {length}")
    return states_LD
