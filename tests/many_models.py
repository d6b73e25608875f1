"""Tiny models of many families with random weights, and what is known of their neighbours.

A causal model's verdict is for packed windows. A classifier's is for a padded batch.
"""

from typing import Any

import torch

V = 320
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
LLAMA: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "initializer_range": 0.2,
    **ENDS,
}
GPT2 = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2, **ENDS}
BERT = {
    **{key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "head_dim", *ENDS)},
    "pad_token_id": 1,
    "max_position_embeddings": 260,
}
MAMBA = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.2}
HYBRID = LLAMA | {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING = LLAMA | {"sliding_window": 8}
BART = {
    "vocab_size": V,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "init_std": 0.2,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 256,
}
T5 = {
    "vocab_size": V,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
XLNET = {"vocab_size": V, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "initializer_range": 0.2}
LONGROPE = LLAMA | {
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 32,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 32,
    },
}
DYNAMIC = LLAMA | {
    "max_position_embeddings": 32,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}

CAUSAL: dict[str, tuple[dict[str, Any], str]] = {
    **dict.fromkeys(
        (
            *("llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "olmo", "olmo2", "stablelm", "starcoder2"),
            *("cohere", "granite", "smollm3", "helium", "glm4", "ernie4_5", "persimmon", "diffllama"),
        ),
        (LLAMA, "right"),
    ),
    **dict.fromkeys(("gemma2", "gemma3_text", "cohere2", "exaone4"), (SLIDING, "right")),
    **dict.fromkeys(("mixtral", "qwen2_moe", "olmoe", "granitemoe"), (LLAMA | EXPERTS, "right")),
    "llama4_text": (
        LLAMA | EXPERTS | {"attention_chunk_size": 16, "layer_types": ["chunked_attention", "full_attention"]},
        "right",
    ),
    "gpt_neox": ({key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}, "right"),
    "gpt2": (GPT2, "right"),
    "gpt_neo": (
        {"vocab_size": V, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8, **ENDS}
        | {"attention_types": [[["global", "local"], 1]], "initializer_range": 0.2},
        "right",
    ),
    "gptj": (GPT2 | {"rotary_dim": 4}, "right"),
    "gpt_oss": (SLIDING | {"num_local_experts": 4, "num_experts_per_tok": 2}, "apart"),
    "lfm2": (LLAMA | {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}, "apart"),
    "opt": (
        {"vocab_size": V, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, **ENDS}
        | {"word_embed_proj_dim": 32, "max_position_embeddings": 256, "pad_token_id": 1, "init_std": 0.2},
        "apart",
    ),
    "bloom": (
        {"vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2, **ENDS},
        "apart",
    ),
    "mpt": ({"vocab_size": V, "d_model": 32, "n_layers": 2, "n_heads": 4, "initializer_range": 0.2}, "apart"),
    "falcon": (
        {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"initializer_range": 0.2, **ENDS},
        "apart",
    ),
    "roberta": (BERT | {"is_decoder": True}, "apart"),  # position ids that are given do not count from its padding
    "mamba": (MAMBA, "apart"),
    "falcon_mamba": (MAMBA, "apart"),
    "mamba2": (MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8, "state_size": 8}, "apart"),
    "rwkv": ({"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}, "apart"),
    "jamba": (
        LLAMA
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
        | {"num_experts": 4, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        "apart",
    ),
    "bamba": (HYBRID | {"attn_layer_indices": [1]}, "apart"),
    "zamba2": (
        LLAMA
        | {"mamba_d_state": 8, "n_mamba_heads": 8, "mamba_headdim": 8, "chunk_size": 8, "mamba_ngroups": 1}
        | {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1], "num_mem_blocks": 1, "adapter_rank": 4},
        "apart",
    ),
    "granitemoehybrid": (
        HYBRID | EXPERTS | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 48},
        "apart",
    ),
    "recurrent_gemma": (LLAMA | {"lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3}, "apart"),
    "phi3 longrope": (LONGROPE, "apart equal"),
    "llama dynamic": (DYNAMIC, "gives an example other logits after it has read others"),
    "xlnet": (XLNET, "lets a token see those after it"),
    "bert": (BERT, "lets a token see those after it"),
}

SEQUENCE: dict[str, tuple[dict[str, Any], str]] = {
    **dict.fromkeys(
        ("bert", "roberta", "electra", "mpnet", "roformer", "modernbert", "esm", "ibert", "luke"), (BERT, "right")
    ),
    "albert": (BERT | {"embedding_size": 16}, "right"),
    "deberta-v2": (
        BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
        "right",
    ),
    "longformer": (BERT | {"attention_window": 8}, "right"),
    "distilbert": (
        {"vocab_size": V, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "initializer_range": 0.2},
        "right",
    ),
    "bart": (BART, "right"),
    "t5": (T5, "right"),
    "kdcache_bilstm": ({"vocab_size": V, "embedding_size": 8, "hidden_size": 12}, "right"),
    "kdcache_embedding_bag": ({"vocab_size": V}, "right"),
    **{name: (LLAMA | {"pad_token_id": 1}, "right") for name in ("llama", "qwen2", "mistral")},
    "gpt2": (GPT2 | {"pad_token_id": 1}, "right"),
    "xlnet": (XLNET | {"pad_token_id": 1}, "equal"),
    "funnel": (
        {"vocab_size": V, "d_model": 32, "d_inner": 48, "n_head": 4, "d_head": 8, "block_sizes": [1, 1, 1]}
        | {"num_decoder_layers": 1, "initializer_range": 0.2, "pad_token_id": 1},
        "equal",
    ),
    "fnet": (BERT, "equal"),
    "convbert": (BERT | {"embedding_size": 32}, "equal"),
    "nystromformer": (BERT, "equal"),
    "canine": (BERT, "equal"),
    "big_bird": (
        BERT | {"block_size": 4, "num_random_blocks": 1},
        "gives an example other logits after it has read others",
    ),
}
TAGS = {
    name: SEQUENCE[name]
    for name in (
        *("bert", "roberta", "albert", "electra", "deberta-v2", "distilbert", "mpnet", "longformer", "modernbert"),
        *("gpt2", "llama", "kdcache_bilstm", "funnel", "fnet", "convbert", "nystromformer", "canine"),
    )
} | {"xlnet": (SEQUENCE["xlnet"][0], "right")}


def model_of(auto_class: Any, name: str, settings: dict[str, Any], *, seed: int = 0, **more: Any) -> Any:
    """name: of a model type, and what sets it apart. more: of its config."""
    from transformers import AutoConfig

    torch.manual_seed(seed)
    config = AutoConfig.for_model(name.split()[0], **settings, **more)
    return auto_class.from_config(config).eval()
