"""Text towers of models that also see or hear: the other tensors are left out, with a notice."""

from __future__ import annotations

from typing import Any

from tests.interop.families.experts import DEEP_YARN, MLA
from tests.interop.families.recurrent import DELTA, EXPERTS
from tests.interop.families.row import LLAMA3, PLACEHOLDER, YARN, Row, layers, rope, text

_MARKS = dict.fromkeys(
    ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"), PLACEHOLDER
)
_GLM_MARKS = dict.fromkeys(
    (
        "image_token_id",
        "video_token_id",
        "image_start_token_id",
        "image_end_token_id",
        "video_start_token_id",
        "video_end_token_id",
    ),
    PLACEHOLDER,
)
_GEMMA_MARKS = dict.fromkeys(
    (
        "boi_token_id",
        "eoi_token_id",
        "image_token_id",
        "video_token_id",
        "boa_token_id",
        "eoa_token_index",
        "audio_token_id",
    ),
    PLACEHOLDER,
)
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_EAR = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_mel_bins": 8,
    "max_source_positions": 16,
}
_QWEN_EYE = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [],
}
_GEMMA4 = {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 16,
    "num_hidden_layers": 6,
    "layer_types": layers("ssfssf"),
    "final_logit_softcapping": 3.0,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "full_attention": rope(1e6, "proportional", partial_rotary_factor=0.25),
        "sliding_attention": rope(1e4),
    },
    "vocab_size_per_layer_input": 384,
}
# Gemma 4 does not scale scores: what training makes small, the norm of queries, is small here, too.
_UNSCALED = {"q_norm": 0.25}
# E2B and E4B: embeddings per layer, shared keys and values
_SMALL = {
    **_GEMMA4,
    "layer_types": layers("sssfsf"),
    "hidden_size_per_layer_input": 32,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
}
# 26B-A4B: experts beside a dense network, values that are the keys on full layers
_EXPERTS4 = {
    **_GEMMA4,
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 3,
    "moe_intermediate_size": 32,
}
_DENSE4 = {**_GEMMA4, "hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 1}
_MROPE: dict[str, Any] = {"rope_parameters": rope(1e6, mrope_section=[4, 2, 2])}

_M3 = {
    "head_dim": 32,
    "dense_intermediate_size": 96,
    "intermediate_size": 32,
    "shared_intermediate_size": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "rotary_dim": 16,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "layer_types": layers("fsss", s="minimax_m3_sparse"),
    "index_n_heads": 2,
    "index_head_dim": 32,
    "rope_parameters": rope(5e6, partial_rotary_factor=0.5),
}
_M3_INDEXER = {
    "sparse_num_index_heads": 2,
    "sparse_index_dim": 32,
    "sparse_block_size": 128,
    "sparse_topk_blocks": 16,
    "sparse_local_block": 1,
}
_M3_PUBLISHED = {
    "scoring_func": "sigmoid",
    "n_shared_experts": 1,
    "moe_layer_freq": [0, 1, 1, 1],
    "sparse_attention_config": _M3_INDEXER,
}


def _m3(name: str, **blocks: int) -> Row:
    """MiniMax M3 with an indexer of ``blocks``, by their published names."""
    indexer = {**_M3_INDEXER, **blocks}
    names = {"sparse_block_size": "index_block_size", "sparse_topk_blocks": "index_topk_blocks"}
    return Row(
        name,
        "minimax-m3",
        {
            "text_config": text(**_M3, **{names[key]: size for key, size in blocks.items()}),
            "vision_config": {**_EYE_M3},
            "projector_hidden_size": 32,
            "image_token_index": PLACEHOLDER,
            "video_token_index": PLACEHOLDER,
        },
        published={**_M3_PUBLISHED, "sparse_attention_config": indexer},
    )


_EYE_M3 = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

ROWS = (
    Row("Gemma4ForCausalLM", "gemma4", text(**_SMALL), tokenizer="spm", gains=_UNSCALED),
    Row("Gemma4ForCausalLM/experts", "gemma4", text(**_EXPERTS4), tokenizer="spm", gains=_UNSCALED),
    Row(
        "Gemma4ForConditionalGeneration",
        "gemma4",
        {
            "text_config": text(**_DENSE4),
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "global_head_dim": 16,
                "patch_size": 4,
            },
            "audio_config": None,
            **_GEMMA_MARKS,
        },
        tokenizer="spm",
        gains=_UNSCALED,
    ),
    Row(
        "Gemma4UnifiedForConditionalGeneration",
        "gemma4",
        {"text_config": text(**_DENSE4), "vision_config": None, "audio_config": None, **_GEMMA_MARKS},
        tokenizer="spm",
        gains=_UNSCALED,
        published={"moe_intermediate_size": None},
    ),
    Row(
        "Gemma3ForConditionalGeneration",
        "gemma3",
        {
            "text_config": text(
                head_dim=32,
                query_pre_attn_scalar=32,
                num_hidden_layers=7,
                sliding_window=16,
                layer_types=layers("sssssfs"),
                rope_parameters={
                    "full_attention": rope(1e6, "linear", factor=8.0),
                    "sliding_attention": rope(1e4),
                },
                tie_word_embeddings=True,
            ),
            "vision_config": _SIGLIP,
            "mm_tokens_per_image": 4,
            "boi_token_index": PLACEHOLDER,
            "eoi_token_index": PLACEHOLDER,
            "image_token_index": PLACEHOLDER,
        },
        tokenizer="spm",
    ),
    Row(
        "Mistral3ForConditionalGeneration",
        "mistral3",
        {
            "text_config": {
                "model_type": "ministral3",
                **text(
                    head_dim=32,
                    rope_parameters={
                        **YARN,
                        "rope_theta": 1e6,
                        "factor": 16.0,
                        "beta_fast": 32.0,
                        "beta_slow": 1.0,
                        "mscale": 1.0,
                        "mscale_all_dim": 1.0,
                        "llama_4_scaling_beta": 0.1,
                    },
                ),
            },
            "vision_config": _PIXTRAL,
            "image_token_index": PLACEHOLDER,
            "tie_word_embeddings": False,
        },
    ),
    Row(
        "Mistral3ForConditionalGeneration/small",  # Mistral Small 3.1 and 3.2
        "llama",
        {
            "text_config": {"model_type": "mistral", **text(head_dim=32, sliding_window=None)},
            "vision_config": _PIXTRAL,
            "image_token_index": PLACEHOLDER,
            "tie_word_embeddings": False,
        },
    ),
    Row(
        "Mistral3ForConditionalGeneration/experts",  # Mistral Small 4
        "mistral4",
        {
            "text_config": {
                "model_type": "mistral4",
                **text(
                    **MLA,
                    n_routed_experts=8,
                    num_experts_per_tok=3,
                    n_group=1,
                    topk_group=1,
                    n_shared_experts=1,
                    moe_intermediate_size=32,
                    first_k_dense_replace=1,
                    norm_topk_prob=True,
                    rope_parameters={**DEEP_YARN, "llama_4_scaling_beta": 0.1},
                ),
            },
            "vision_config": _PIXTRAL,
            "image_token_index": PLACEHOLDER,
            "tie_word_embeddings": False,
        },
    ),
    Row(
        "Qwen3_5ForConditionalGeneration",
        "qwen35",
        {
            "text_config": text(
                **DELTA, rope_parameters=rope(1e7, partial_rotary_factor=0.25, mrope_section=[2, 1, 1])
            ),
            "vision_config": _QWEN_EYE,
            "tie_word_embeddings": False,
            **_MARKS,
        },
    ),
    Row(
        "Qwen3_5MoeForConditionalGeneration",
        "qwen35moe",
        {
            "text_config": text(
                **DELTA,
                **EXPERTS,
                intermediate_size=...,
                rope_parameters=rope(1e7, partial_rotary_factor=0.25, mrope_section=[2, 1, 1]),
            ),
            "vision_config": _QWEN_EYE,
            "tie_word_embeddings": False,
            **_MARKS,
        },
    ),
    Row(
        "Llama4ForConditionalGeneration",
        "llama4",
        {
            "text_config": text(
                head_dim=32,
                intermediate_size=32,
                intermediate_size_mlp=96,
                num_local_experts=4,
                num_experts_per_tok=1,
                interleave_moe_layer_step=1,
                layer_types=layers("cccf"),
                no_rope_layers=[1, 1, 1, 0],
                rope_parameters={**LLAMA3, "factor": 16.0},
            ),
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "vision_output_dim": 32,
                "projector_input_dim": 32,
                "projector_output_dim": 32,
            },
            "boi_token_index": PLACEHOLDER,
            "eoi_token_index": PLACEHOLDER,
            "image_token_index": PLACEHOLDER,
        },
    ),
    Row(
        "Qwen2VLForConditionalGeneration",
        "qwen2vl",
        {
            "text_config": text(**_MROPE),
            "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 4},
            **_MARKS,
        },
    ),
    Row(
        "Qwen2_5_VLForConditionalGeneration",
        "qwen2vl",
        {
            "text_config": text(**_MROPE),
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 64,
                "num_heads": 2,
                "patch_size": 4,
            },
            **_MARKS,
        },
    ),
    Row(
        "Qwen3VLForConditionalGeneration",
        "qwen3vl",
        {
            "text_config": text(head_dim=32, rope_parameters=rope(5e6, mrope_section=[6, 5, 5])),
            "vision_config": _QWEN_EYE,
            **_MARKS,
        },
    ),
    Row(
        "Qwen3VLMoeForConditionalGeneration",
        "qwen3vlmoe",
        {
            "text_config": text(
                head_dim=32,
                num_experts=8,
                num_experts_per_tok=3,
                moe_intermediate_size=96,
                rope_parameters=rope(5e6, mrope_section=[6, 5, 5]),
            ),
            "vision_config": _QWEN_EYE,
            **_MARKS,
        },
    ),
    Row(
        "LlavaForConditionalGeneration",
        "llama",
        {
            "text_config": {"model_type": "mistral", **text(head_dim=16, sliding_window=None)},
            "vision_config": _PIXTRAL,
            "image_token_index": PLACEHOLDER,
        },
    ),
    Row(
        "VoxtralForConditionalGeneration",
        "llama",
        {
            "text_config": {"model_type": "llama", **text(head_dim=32)},
            "audio_config": _EAR,
            "audio_token_id": PLACEHOLDER,
        },
    ),
    Row(
        "SmolVLMForConditionalGeneration",
        "llama",
        {
            "text_config": {"model_type": "llama", **text()},
            "vision_config": {**_SIGLIP, "model_type": "smolvlm_vision"},
            "image_token_id": PLACEHOLDER,
            "tie_word_embeddings": False,
        },
    ),
    Row(
        "Lfm2VlForConditionalGeneration",
        "lfm2",
        {
            "text_config": {
                "model_type": "lfm2",
                **text(layer_types=["conv", "full_attention", "conv", "full_attention"], tie_word_embeddings=True),
            },
            "vision_config": {**_SIGLIP, "model_type": "siglip2_vision_model", "num_patches": 4},
            "image_token_id": PLACEHOLDER,
            "tie_word_embeddings": True,
        },
    ),
    Row(
        "InternVLForConditionalGeneration",
        "qwen3",
        {
            "text_config": {"model_type": "qwen3", **text(head_dim=32)},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": [28, 28],
                "patch_size": [14, 14],
            },
            "image_token_id": PLACEHOLDER,
            "tie_word_embeddings": False,
        },
    ),
    Row(
        "PaddleOCRVLForConditionalGeneration",
        "paddleocr",
        {
            "text_config": text(head_dim=32, rope_parameters=rope(5e5, mrope_section=[6, 5, 5])),
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
            },
            **_MARKS,
        },
        tokenizer="spm",
    ),
    Row(
        "Glm4vForConditionalGeneration",
        "glm4",
        {
            "text_config": text(rope_parameters=rope(partial_rotary_factor=0.5, mrope_section=[2, 1, 1])),
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 64,
                "num_heads": 2,
                "image_size": 28,
            },
            **_GLM_MARKS,
        },
    ),
    Row(
        "Glm4vMoeForConditionalGeneration",
        "glm4moe",
        {
            "text_config": text(
                head_dim=32,
                attention_bias=True,
                n_routed_experts=8,
                num_experts_per_tok=3,
                n_shared_experts=1,
                moe_intermediate_size=32,
                first_k_dense_replace=1,
                rope_parameters=rope(partial_rotary_factor=0.5, mrope_section=[4, 2, 2]),
            ),
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 64,
                "num_heads": 2,
                "image_size": 28,
            },
            **_GLM_MARKS,
        },
    ),
    Row(
        "GlmOcrForConditionalGeneration",
        "glm4",
        {
            "text_config": text(head_dim=32, rope_parameters=rope(partial_rotary_factor=1.0, mrope_section=[6, 5, 5])),
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 64,
                "num_heads": 2,
                "image_size": 28,
            },
            **_GLM_MARKS,
        },
    ),
    Row(
        "Exaone4_5_ForConditionalGeneration",
        "exaone4",
        {
            "text_config": {
                "model_type": "exaone4",
                **text(sliding_window=None, layer_types=layers("ffff"), rope_parameters=LLAMA3),
            },
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 64,
                "num_heads": 2,
                "num_key_value_heads": 2,
            },
            "image_token_id": PLACEHOLDER,
            "video_token_id": PLACEHOLDER,
        },
    ),
    Row(
        "Kimi_K25ForConditionalGeneration",
        "deepseek2",
        {
            "text_config": {
                "model_type": "deepseek_v3",
                **text(
                    **MLA,
                    n_routed_experts=8,
                    num_experts_per_tok=3,
                    n_group=1,
                    topk_group=1,
                    n_shared_experts=1,
                    moe_intermediate_size=32,
                    first_k_dense_replace=1,
                    rope_parameters=DEEP_YARN,
                ),
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "pos_emb_height": 4,
                "pos_emb_width": 4,
            },
            "projection_hidden_size": 32,
            "tie_word_embeddings": False,
            **_MARKS,
        },
        published={"scoring_func": "sigmoid"},
        registered="KimiK25ForConditionalGeneration",
    ),
    _m3("MiniMaxM3SparseForConditionalGeneration"),
    _m3("MiniMaxM3SparseForConditionalGeneration/sparse", sparse_block_size=8, sparse_topk_blocks=3),
)
