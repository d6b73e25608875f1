"""Which families a model can be cut from: family -> right, or refused with which sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.errors import KdcacheError
from kdcache.models.cut import cut

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
WINDOW = {**SMALL, "head_dim": 8, "sliding_window": 8}
EXPERTS = {**SMALL, "moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
JAMBA = {
    **EXPERTS,
    **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    **{"use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 8},
}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
RIGHT: dict[str, tuple[dict[str, Any], list[int]]] = {
    "qwen2": ({**SMALL, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, [0, 3]),
    "gemma3_text": (WINDOW, [1, 2]),
    "cohere2": (WINDOW, [0, 3]),
    "olmo3": (WINDOW, [0, 3]),
    "exaone4": (WINDOW, [0, 3]),
    "smollm3": (SMALL, [0, 3]),
    "llama4_text": (
        {**SMALL, "head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 2, "attention_chunk_size": 8},
        [1, 2],
    ),
    "gpt_neo": (
        {
            **{"vocab_size": 320, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": 8},
            **{"attention_types": [[["global", "local"], 2]], "initializer_range": 0.3},
        },
        [0, 3],
    ),
    "qwen2_moe": ({**EXPERTS, "shared_expert_intermediate_size": 16, "mlp_only_layers": [1]}, [1, 2]),
    "deepseek_v3": (
        {
            **{**SMALL, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 1},
            **{"topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 2, "num_experts_per_tok": 2, **LATENT},
        },
        [1, 2],
    ),
    "lfm2": ({**SMALL, "layer_types": ["conv", "full_attention", "conv", "full_attention"]}, [0, 3]),
    "mamba": ({"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8}, [0, 3]),
    "jamba": (JAMBA, [0, 3]),
}
REFUSED: dict[str, tuple[dict[str, Any], list[int], str]] = {
    "diffllama": (SMALL, [0, 3], "got layer 3 of a DiffLlamaForCausalLM as layer 1, where it gives other numbers"),
    "jamba": (JAMBA, [1, 2], "JambaForCausalLM cannot be rebuilt from its config"),
}


def teacher(family: str, settings: dict[str, Any], folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", RIGHT)
def test_right(family: str, tmp_path: Path) -> None:
    """`cut` itself compares; a wrong one is not written."""
    settings, layers = RIGHT[family]
    folder = cut(teacher(family, settings, tmp_path / "teacher"), layers, tmp_path / "out")
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("family", REFUSED)
def test_refused(family: str, tmp_path: Path) -> None:
    settings, layers, message = REFUSED[family]
    with pytest.raises(KdcacheError, match=message):
        cut(teacher(family, settings, tmp_path / "teacher"), layers, tmp_path / "out")
    assert not (tmp_path / "out").exists()
