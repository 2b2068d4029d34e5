"""What any config.json or GGUF file may hold and does not change what a model computes."""

from __future__ import annotations

_FILE = """
    architectures auto_map dtype model_type name_or_path tokenizer_class torch_dtype transformers_version
    transformers.js_config unsloth_fixed unsloth_version
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

# Tensors of GGUF files that nothing reads: frequencies that old converters kept.
INERT_ROLES = frozenset({"attn_rot_embd"})
