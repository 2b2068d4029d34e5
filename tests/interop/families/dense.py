"""Decoders whose layers are attention and one feed-forward network."""

from __future__ import annotations

from tests.interop.families.row import EOS, GLM_ENDS, LLAMA3, YARN, Row, layers, rope, text


def _factors(pairs: int) -> dict[str, list[float]]:
    return {name: [round(first + step * i, 1) for i in range(pairs)] for name, first, step in _STEPS}


_STEPS = (("short_factor", 1.0, 0.1), ("long_factor", 1.5, 0.5))

ROWS = (
    Row("LlamaForCausalLM", "llama", text(rope_parameters=LLAMA3, rms_norm_eps=1e-5)),
    Row("LlamaForCausalLM/biases", "llama", text(attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    Row("LlamaForCausalLM/yarn", "llama", text(rope_parameters=YARN, head_dim=32)),
    Row(
        "LlamaForCausalLM/linear",
        "llama",
        text(rope_parameters=rope(kind="linear", factor=2.0), num_key_value_heads=4),
    ),
    Row(
        "LlamaForCausalLM/longrope",
        "llama",
        text(rope_parameters=rope(kind="longrope", original_max_position_embeddings=32, **_factors(8))),
    ),
    Row("LlamaForCausalLM/spm", "llama", text(), tokenizer="spm"),
    Row("MistralForCausalLM", "llama", text(sliding_window=None, head_dim=32)),
    Row(
        "Ministral3ForCausalLM",
        "mistral3",
        text(
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
    ),
    Row("Qwen2ForCausalLM", "qwen2", text(rope_parameters=rope(1e6), tie_word_embeddings=True)),
    Row("Qwen3ForCausalLM", "qwen3", text(head_dim=32, rope_parameters=rope(1e6))),
    Row("Qwen3ForCausalLM/yarn", "qwen3", text(head_dim=32, rope_parameters=YARN, tie_word_embeddings=True)),
    Row(
        "SmolLM3ForCausalLM",
        "smollm3",
        text(num_hidden_layers=5, rope_parameters=rope(5e6), no_rope_layer_interval=4, tie_word_embeddings=True),
    ),
    Row("SeedOssForCausalLM", "seed_oss", text(head_dim=32, attention_bias=True, attention_out_bias=False)),
    Row(
        "Ernie4_5ForCausalLM",
        "ernie4_5",
        text(head_dim=32, rope_parameters=rope(5e5), tie_word_embeddings=True),
        tokenizer="spm",
    ),
    Row(
        "GraniteForCausalLM",
        "granite",
        text(
            embedding_multiplier=12.0,
            logits_scaling=8.0,
            residual_multiplier=0.22,
            attention_multiplier=0.0781,
            tie_word_embeddings=True,
        ),
    ),
    Row(
        "GraniteSWAForCausalLM",
        "granite_swa",
        text(
            sliding_window=16,
            layer_types=layers("fssf"),
            embedding_multiplier=12.0,
            logits_scaling=8.0,
            residual_multiplier=0.22,
            attention_multiplier=0.0781,
        ),
    ),
    Row("Phi3ForCausalLM", "phi3", text(sliding_window=None), tokenizer="spm"),
    Row(
        "Phi3ForCausalLM/longrope",
        "phi3",
        text(
            rope_parameters=rope(
                kind="longrope", partial_rotary_factor=0.75, original_max_position_embeddings=32, **_factors(6)
            ),
            original_max_position_embeddings=32,
            tie_word_embeddings=True,
        ),
        tokenizer_config={"tokenizer_class": "GPT2Tokenizer"},  # by which llama.cpp tells Phi-4
    ),
    Row(
        "MiniCPMForCausalLM",
        "minicpm",
        text(
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            scale_emb=12,
            scale_depth=1.4,
            dim_model_base=256,
        ),
        tokenizer="spm",
    ),
    Row(
        "MiniCPM3ForCausalLM",
        "minicpm3",
        text(
            num_key_value_heads=4,
            q_lora_rank=48,
            kv_lora_rank=32,
            qk_nope_head_dim=32,
            qk_rope_head_dim=32,
            v_head_dim=32,
            rope_parameters=rope(kind="longrope", original_max_position_embeddings=512, **_factors(16)),
            tie_word_embeddings=True,
        ),
        tokenizer="spm",
    ),
    Row(
        "PhiForCausalLM",
        "phi2",
        text(
            intermediate_size=256,
            num_key_value_heads=4,
            hidden_act="gelu_new",
            rope_parameters=rope(partial_rotary_factor=0.5),
        ),
    ),
    Row(
        "Glm4ForCausalLM",
        "glm4",
        text(head_dim=32, rope_parameters=rope(partial_rotary_factor=0.5), eos_token_id=GLM_ENDS[:2]),
        tokenizer_config={"eos_token": "<|endoftext|>"},
    ),
    Row(
        "GlmForCausalLM",
        "chatglm",
        text(head_dim=16, rope_parameters=rope(partial_rotary_factor=0.5), eos_token_id=GLM_ENDS[:2]),
        published={"seq_length": 512, "layernorm_epsilon": 1.5625e-07},
        tokenizer_config={"eos_token": "<|endoftext|>"},
    ),
    Row("OlmoForCausalLM", "olmo", text(clip_qkv=0.9, num_key_value_heads=4)),
    Row("Olmo2ForCausalLM", "olmo2", text(rope_parameters=rope(5e5))),
    Row(
        "Olmo3ForCausalLM",
        "olmo2",
        text(sliding_window=16, layer_types=layers("sssfsssf"), num_hidden_layers=8, rope_parameters=rope(5e5)),
    ),
    Row(
        "Exaone4ForCausalLM",
        "exaone4",
        text(sliding_window=None, layer_types=layers("ffff"), rope_parameters={**LLAMA3, "factor": 16.0}),
    ),
    Row(
        "Exaone4ForCausalLM/32B",  # llama.cpp tells it by its 64 layers
        "exaone4",
        text(
            num_hidden_layers=64,
            sliding_window=16,
            layer_types=layers("sssf" * 16),
            rope_parameters={**LLAMA3, "factor": 16.0},
        ),
    ),
    Row(
        "CohereForCausalLM",
        "command-r",
        text(logit_scale=0.25, tie_word_embeddings=True, use_qk_norm=False, num_key_value_heads=2),
    ),
    Row(
        "Cohere2ForCausalLM",
        "cohere2",
        text(
            logit_scale=0.25,
            tie_word_embeddings=True,
            sliding_window=16,
            layer_types=layers("sssfsssf"),
            num_hidden_layers=8,
        ),
        published={"rotary_pct": 1.0},
    ),
    Row(
        "GemmaForCausalLM",
        "gemma",
        text(head_dim=32, num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh"),
        tokenizer="spm",
    ),
    Row(
        "Gemma2ForCausalLM",
        "gemma2",
        text(
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=16,
            layer_types=layers("sfsf"),
            attn_logit_softcapping=5.0,
            final_logit_softcapping=3.0,
            tie_word_embeddings=True,
        ),
        tokenizer="spm",
    ),
    Row(
        "Gemma3ForCausalLM",
        "gemma3",
        text(
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
        tokenizer="spm",
    ),
    Row(
        "HunYuanDenseV1ForCausalLM",
        "hunyuan-dense",
        text(
            head_dim=32,
            eod_token_id=EOS,
            max_position_embeddings=262144,
            rope_parameters=rope(10000.0, "dynamic", alpha=1000.0, factor=1.0),
        ),
    ),
    Row(
        "NemotronForCausalLM",
        "nemotron",
        text(hidden_act="relu2", rope_parameters=rope(partial_rotary_factor=0.5)),
        tokenizer="spm",
    ),
    Row("Starcoder2ForCausalLM", "starcoder2", text(tie_word_embeddings=True, sliding_window=None)),
    Row(
        "StableLmForCausalLM",
        "stablelm",
        text(use_qkv_bias=True, rope_parameters=rope(partial_rotary_factor=0.25), head_dim=...),
    ),
    Row(
        "StableLmForCausalLM/parallel",
        "stablelm",
        text(use_parallel_residual=True, qk_layernorm=True, rope_parameters=rope(partial_rotary_factor=0.5)),
    ),
    Row(
        "GPTNeoXForCausalLM",
        "gptneox",
        text(num_key_value_heads=..., rope_parameters=rope(partial_rotary_factor=0.25)),
        published={"rotary_pct": 0.25},
    ),
    Row(
        "GPTNeoXForCausalLM/sequential",
        "gptneox",
        text(num_key_value_heads=..., use_parallel_residual=False, rope_parameters=rope(partial_rotary_factor=0.5)),
        published={"rotary_pct": 0.5},
    ),
    Row(
        "GPT2LMHeadModel",
        "gpt2",
        {
            "vocab_size": 384,
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        published={"n_ctx": 128},
    ),
    Row(
        "GPTBigCodeForCausalLM",
        "starcoder",
        {
            "vocab_size": 384,
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Row(
        "FalconForCausalLM",
        "falcon",
        text(
            intermediate_size=...,
            num_key_value_heads=...,
            multi_query=True,
            parallel_attn=True,
            new_decoder_architecture=False,
            bias=False,
            tie_word_embeddings=True,
        ),
    ),
    Row(
        "FalconForCausalLM/40B",
        "falcon",
        text(
            intermediate_size=...,
            num_key_value_heads=...,
            num_kv_heads=2,
            new_decoder_architecture=True,
            bias=False,
            tie_word_embeddings=True,
        ),
    ),
    Row("ApertusForCausalLM", "apertus", text(rope_parameters=LLAMA3)),
    Row("ArceeForCausalLM", "arcee", text(hidden_act="relu2", head_dim=32)),
    Row("BitNetForCausalLM", "bitnet", text(hidden_act="relu2", tie_word_embeddings=True), tokenizer="spm"),
    Row("Jais2ForCausalLM", "jais2", text(hidden_act="relu2", num_key_value_heads=4)),
)
