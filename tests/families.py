"""Small teachers of several families: plain heads, and heads with a soft-cap, a scale or a bias."""

from pathlib import Path
from typing import Any

import torch
from helpers import make_tokenizer

SMALL = {
    "vocab_size": 330,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen2": SMALL,
    "gemma2": {**SMALL, "final_logit_softcapping": 5.0, "head_dim": 8, "sliding_window": 8},
    "granite": {**SMALL, "logits_scaling": 3.0},
    "phi": SMALL,  # an output layer with a bias
    "gpt2": {
        "vocab_size": 330,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "cohere": {**SMALL, "logit_scale": 0.25},
}


def saved(family: str, folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lm_head.bias"):
                parameter.normal_()
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return folder
