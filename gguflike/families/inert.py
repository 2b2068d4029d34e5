"""What any config.json or GGUF file may hold and does not change what a model computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguflike.families.parts import role_of

_FILE = """
    architectures auto_map dtype model_type name_or_path tokenizer_class torch_dtype transformers_version
    transformers.js_config transformers_weights unsloth_fixed unsloth_version
"""
# Tokens and texts, and what Transformers returns: the caller's business.
_USE = """
    bos_token_id decoder_start_token_id eos_token_id id2label label2id output_attentions output_hidden_states
    output_scores pad_token_id prefix problem_type return_dict return_dict_in_generate sep_token_id
    task_specific_params unk_token_id finetuning_task
"""
# Defaults of generate() that Transformers 4 kept here.
_GENERATION = """
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences remove_invalid_values repetition_penalty
    suppress_tokens temperature top_k top_p typical_p
"""
# Switches of encoder-decoder models and of the implementation, none of which a causal model's result depends on.
_OTHER = """
    add_cross_attention chunk_size_feed_forward cross_attention_hidden_size is_decoder is_encoder_decoder
    tf_legacy_loss tie_encoder_decoder torchscript use_bfloat16
"""

PRETRAINED_KEYS = frozenset(f"{_FILE} {_USE} {_GENERATION} {_OTHER}".split())

# Keys of a GGUF file, below its architecture, and the values with which they change no logits (None: any).
FILE_KEYS: Mapping[str, tuple[Any, ...] | None] = {
    # Sizes that tensors have or the tokenizer says, and what belongs to use or training.
    "block_count": None,
    "context_length": None,
    "vocab_size": None,
    "tensor_data_layout": None,
    "rope.scaling.finetuned": None,
    "rope.dimension_sections": None,  # of positions in pictures; those of a text are alike in all sections
    "n_deepstack_layers": None,  # where pictures enter
    "nextn_predict_layers": None,  # layers that predict further tokens: config.layers_left_out
    "pooling_type": None,  # for embeddings, not logits
    # Epsilons of norms that the model does not have.
    "attention.layer_norm_epsilon": None,
    "attention.layer_norm_rms_epsilon": None,
    "attention.group_norm_epsilon": None,
    # What is off.
    "attention.causal": (True,),
    "attention.scale": (0.0,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "router_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_weights_scale": (0.0, 1.0),
    "leading_dense_block_count": (0,),
    "rope.scale_linear": (1.0,),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.original_context_length": None,  # which only stretching needs
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),  # YaRN in whole, which the type asks for
    "rope.scaling.yarn_log_multiplier": (0.0,),
}

# Tensors of GGUF files that nothing reads: frequencies that old converters kept.
INERT_ROLES = frozenset({"attn_rot_embd"})

# Matrices beside which a file may hold a number, by which their products are multiplied: NVFP4 has one for a tensor, or
# for each of the stacked ones of experts. It is called ".scale" where the matrix is ".weight" (llama.cpp's models).
SCALED_ROLES = frozenset(
    {
        *(f"attn_{part}" for part in ("q", "k", "v", "qkv", "gate", "output")),
        *(f"ffn_{part}{kind}" for part in ("gate", "up", "down") for kind in ("", "_exps", "_shexp")),
        *(f"ssm_{part}" for part in ("in", "out", "alpha", "beta")),
        "output",
    }
)


def scale_beside(name: str) -> str | None:
    """The name of the tensor with the numbers by which products with a matrix are multiplied, in files that have it."""
    scaled = name.endswith(".weight") and role_of(name)[0] in SCALED_ROLES
    return name.removesuffix("weight") + "scale" if scaled else None
