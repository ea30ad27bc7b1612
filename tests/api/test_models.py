"""What cannot be trained is told from config.json, as it is published; what can be is let through."""

import pytest

from rz_api.models import refusal

QWEN3_MOE = {
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "intermediate_size": 6144,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_NEXT = {
    **QWEN3_MOE, "model_type": "qwen3_next", "num_experts": 512, "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
}  # fmt: skip
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
DEEPSEEK = {"model_type": "deepseek_v3", "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8}
DBRX = {"model_type": "dbrx", "d_model": 6144, "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4}}
GEMMA2 = {
    "model_type": "gemma2",
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "sliding_window": 4096,
}
GRANITE = {"model_type": "granite", "logits_scaling": 8.0, "embedding_multiplier": 12.0}
QWEN3_5 = {
    "model_type": "qwen3_5",
    "text_config": {"model_type": "qwen3_5_text", "layer_types": ["linear_attention"] * 3 + ["full_attention"]},
    "vision_config": {"model_type": "qwen3_5"},
}
GRANITE_4 = {
    "model_type": "granitemoehybrid", "num_local_experts": 0, "mamba_d_state": 128,
    "layer_types": ["mamba"] * 5 + ["attention"],
}  # fmt: skip

REFUSED = {
    "Qwen3-30B-A3B": (QWEN3_MOE, "'qwen3_moe' are mixtures of experts (128 of them)"),
    "Qwen3-Next-80B-A3B": (QWEN3_NEXT, "mixtures of experts (512 of them)"),
    "Mixtral-8x7B": (MIXTRAL, "mixtures of experts (8 of them)"),
    "DeepSeek-V3": (DEEPSEEK, "mixtures of experts (256 of them)"),
    "DBRX, whose experts are a level below": (DBRX, "mixtures of experts (16 of them)"),
    "Qwen3.5, whose decoder is a level below": (QWEN3_5, "'qwen3_5' have recurrent, convolution or state-space layers"),
    "Mamba": (
        {"model_type": "mamba", "state_size": 16, "conv_kernel": 4},
        "state-space layers, whose state would cross",
    ),
    "Mamba 2": ({"model_type": "mamba2", "state_size": 128}, "state-space layers"),
    "RWKV": ({"model_type": "rwkv", "attention_hidden_size": 768}, "recurrent"),
    "RecurrentGemma": (
        {"model_type": "recurrent_gemma", "block_types": ["recurrent", "recurrent", "attention"]},
        "recurrent",
    ),
    "LFM2": ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}, "convolution"),
    "Granite 4 with Mamba layers": (GRANITE_4, "state-space layers"),
    "Gemma 2": (GEMMA2, "transform their logits (final_logit_softcapping = 30)"),
    "Gemma 2, whose file leaves it to the class": (
        {"model_type": "gemma2"},
        "transform their logits (final_logit_softcapping = 30)",
    ),
    "Command R": ({"model_type": "cohere", "logit_scale": 0.0625}, "transform their logits (logit_scale = 0.0625)"),
    "Granite 3": (GRANITE, "transform their logits (logits_scaling = 8)"),
    "MiniCPM3": (
        {"model_type": "minicpm3", "hidden_size": 2560, "dim_model_base": 256},
        "transform their logits (dim_model_base)",
    ),
    "StableLM": ({"model_type": "stablelm", "partial_rotary_factor": 0.25}, "do not pass on to attention"),
    "Minitron": ({"model_type": "nemotron"}, "do not pass on to attention"),
    "BLOOM": ({"model_type": "bloom", "n_embed": 64}, "an attention of their own"),
    "ModernBERT as a decoder": ({"model_type": "modernbert-decoder"}, "more than a linear layer"),
    "MPT, whose scale is a word": ({"model_type": "mpt", "logit_scale": "inv_sqrt_d_model"}, "inv_sqrt_d_model)"),
    "quantized weights": (
        {"model_type": "qwen3", "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        "the model's weights are quantized (fp8), which cannot be trained",
    ),
    "quantized weights that do not say how": ({"compression_config": {}}, "are quantized (compression_config)"),
    "BERT": ({"model_type": "bert", "is_decoder": False}, "are encoders, which see later tokens too"),
    "T5": ({"model_type": "t5", "is_encoder_decoder": True}, "are encoder-decoders"),
}

QWEN2 = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "use_sliding_window": False,
    "max_window_layers": 28, "sliding_window": 131072, "is_encoder_decoder": False,
}  # fmt: skip
TAKEN = {
    "Qwen2.5-7B": QWEN2,
    "Llama-3.1-8B": {
        "model_type": "llama",
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
        "pretraining_tp": 1,
    },
    "Mistral-7B-v0.1, with a window": {"model_type": "mistral", "sliding_window": 4096},
    "Gemma 3, which has no caps": {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "sliding_window": 1024, "final_logit_softcapping": None},
    },
    "OLMo 3": {"model_type": "olmo3", "layer_types": ["sliding_attention", "full_attention"]},
    "Pythia": {"model_type": "gpt_neox", "is_decoder": False, "rotary_pct": 0.25},
    "Granite with a scale of 1": {"model_type": "granite", "logits_scaling": 1.0},
    "Granite 4 without Mamba layers": {**GRANITE_4, "layer_types": ["attention"] * 4},
    "a class with room for experts and none": {
        "model_type": "gemma4_text",
        "enable_moe_block": False,
        "num_experts": 128,
    },
    "weights that are not quantized": {"model_type": "llama", "quantization_config": None},
    "one expert": {"model_type": "hunyuan_v1_dense", "num_experts": 1},
    "a type that nobody has heard of": {"model_type": "somebodys"},
    "no type": {},
}


@pytest.mark.parametrize(("config", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(config, words):
    reason = refusal(config)
    assert reason is not None
    assert words in reason
    assert reason.endswith("is required: change model.name")


@pytest.mark.parametrize("config", TAKEN.values(), ids=TAKEN)
def test_not_refused(config):
    assert refusal(config) is None
