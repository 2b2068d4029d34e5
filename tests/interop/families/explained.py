"""Proofs that cannot be given, and why: what the table of spec/families.md says in their place.

An explanation that is not needed any more is itself a failure, so none outlives its cause.
"""

from __future__ import annotations

from collections.abc import Mapping

_GELU = (
    "llama.cpp looks GELU up in a table of float16, as it does for every model; its graph is the same, and the rest is "
    "this rounding, which adds up here"
)
_TOKENIZER = (
    "its converter reads only this model's own tokenizer class, which no file of a folder as transformers 5 saves"
)

#: (row, proof) -> why.
EXPLAINED: Mapping[tuple[str, str], str] = {
    (
        "StableLmForCausalLM/parallel",
        "converter",
    ): "its converter stacks the norms of the heads in a generator that returns them instead of yielding them",
    (
        "FalconForCausalLM",
        "converter",
    ): "its converter takes transformers 5's num_kv_heads for the number of groups; with multi_query there is one",
    (
        "BitNetForCausalLM",
        "converter",
    ): "its tables do not know ffn_sub_norm and attn_sub_norm, the names of the published checkpoint",
    ("HunYuanMoEV1ForCausalLM", "converter"): _TOKENIZER,
    (
        "DeepseekV32ForCausalLM",
        "converter",
    ): "its converter asks the tokenizer for add_bos_token, which transformers 5's tokenizers do not have",
    (
        "KimiLinearForCausalLM",
        "converter",
    ): "transformers 5 saves the dense first layer as block_sparse_moe, a name that published checkpoints do not have",
    (
        "GptOssForCausalLM",
        "llama.cpp",
    ): "llama.cpp rounds YaRN's correction range to whole pairs although the model's configuration says truncate: false; "
    "we follow the configuration",
    (
        "Llama4ForCausalLM/chunks",
        "llama.cpp",
    ): "llama.cpp attends in chunks of 8192 whatever the configuration says; we follow the configuration",
    (
        "Mistral3ForConditionalGeneration/experts",
        "llama.cpp",
    ): "llama.cpp's converter writes no attention.temperature_scale for this class, so its graph leaves the temperature out",
    (
        "PhimoeForCausalLM",
        "llama.cpp",
    ): "llama.cpp chooses experts by a plain top-k; the model's own router (SparseMixer) weighs each choice against the "
    "experts near it",
    ("Gemma4ForCausalLM", "llama.cpp"): _GELU,
    ("Gemma4ForCausalLM/experts", "llama.cpp"): _GELU,
    ("Gemma4ForConditionalGeneration", "llama.cpp"): _GELU,
    ("Gemma4UnifiedForConditionalGeneration", "llama.cpp"): _GELU,
}
