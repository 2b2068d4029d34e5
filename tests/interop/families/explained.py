"""Proofs that cannot be given, and why: what the table of spec/families.md says in their place.

An explanation that is not needed any more is itself a failure, so none outlives its cause.
"""

from __future__ import annotations

from collections.abc import Mapping

_TOKENIZER = "its converter reads this model's vocabulary only from a tokenizer class that the original repository has"
_STABLELM = "its converter stacks the norms of the heads in a generator that returns them instead of yielding them"
_FALCON = "its converter takes transformers 5's num_kv_heads for the number of groups; with multi_query there is one"
_BITNET = "its tables do not know ffn_sub_norm and attn_sub_norm, the names of the published checkpoint"
_SILU = "llama.cpp activates the gate of this architecture by silu; the model's own code, and we, by relu squared"
_CONTEXT = "its converter writes a context of 2048 whatever the configuration says; we follow the configuration"
_TABLE_IDS = "its converter takes ids of special tokens from tables of its own instead of from the folder"
_TURNED = (
    "transformers 5 saves the matrices of experts as they are, which its converter transposes, as published ones need"
)
_UNNAMED = "its converter takes the text tower's class from text_config.architectures, which transformers 5 leaves out"
_BOS = "its converter asks the tokenizer for add_bos_token, which those of transformers 5 do not have"
_KIMI = "transformers 5 saves the dense first layer as block_sparse_moe, a name that published checkpoints do not have"
_TRUNCATE = (
    "llama.cpp rounds YaRN's correction range to whole pairs although the model's configuration says truncate: false; "
    "we follow the configuration"
)
_CHUNKS = "llama.cpp attends in chunks of 8192 whatever the configuration says; we follow the configuration"
_TEMPERATURE = (
    "its converter writes no attention.temperature_scale for this class, so llama.cpp leaves the temperature out of "
    "its files; it computes ours as the configuration says"
)
_SPARSEMIXER = (
    "llama.cpp weighs experts by a plain softmax and norms without subtracting the mean; the model's own router "
    "(SparseMixer) weighs each choice against the experts near it, and its norms are layer norms"
)

_SOLAR = "its converter names the end token again as the end of a turn"
_GEMMA = "its converter names the ids that the published vocabulary has for its markers"

_STEPS = (
    "transformers 5 limits the steps of Mamba 2 from below by time_step_min; the authors' code limits them by "
    "time_step_limit, which is 0 to infinity, and so do llama.cpp and we"
)
_NO_EXPERTS = "its converter says how many experts there are although no layer has any; we leave that out"
_PARTIAL = (
    "its converter permutes whole heads although only the first half of each turns, and llama.cpp computes something "
    "else with that; we permute what turns"
)
_FULL = (
    "transformers 5 saves the layers as full_attention, which its converter takes for recurrent ones where there are "
    "no others"
)
_GELU = (
    "llama.cpp looks GELU up in a table of float16, as it does for every model; its graph is the same, and the rest is "
    "this rounding, which the classifier magnifies"
)
_JINA = "its converter knows this model by the original's class, and writes the adapters of that to files of their own"
_MASK = (
    "its converter reads sentencepiece.bpe.model, which lacks <mask>, the last token of tokenizer.json, and numbers "
    "the padding behind it one too low"
)
_PADDING = (
    "transformers makes the row of the padding token zero when it loads this class; an export says which token pads, "
    "which the row of the table does not"
)
_POOLER = (
    "its converter drops the pooler, through which the classifier of this class reads; we keep it as cls, which "
    "llama.cpp computes where it is there"
)

_DENSE = (
    "from index_topk tokens on an indexer chooses which keys are seen; our runner ends there, by an error that says so"
)

_LONGROPE = (
    "its converter writes no factors of this class's longrope, nor what its attention is multiplied by, though "
    "llama.cpp reads both in this architecture; we write them"
)
_SHARED_BIAS = (
    "llama.cpp knows no bias of what experts give together, and its converter leaves it out; the model's own code, and "
    "we, add it"
)

_NO_FLASH = (
    "llama.cpp computes the sparse attention of this architecture by flash attention only, without which these proofs "
    "are; our reference computes what transformers does"
)

_BLOCKS = "transformers 5 saves the layers of this class as blocks, a name that published checkpoints do not have"

#: Row -> proof -> why.
EXPLAINED: Mapping[str, Mapping[str, str]] = {
    "YoutuForCausalLM": {"back": _PADDING},
    "LlamaForCausalLM/longrope": {"converter": _LONGROPE},
    "Glm4MoeLiteForCausalLM": {"converter": _TABLE_IDS},
    "Mistral3ForConditionalGeneration/experts": {"converter": _TEMPERATURE},
    "FalconForCausalLM/40B": {"converter": _CONTEXT},
    "NemotronForCausalLM": {"converter": _TABLE_IDS},
    "Glm4vForConditionalGeneration": {"converter": _TABLE_IDS},
    "Glm4vMoeForConditionalGeneration": {"converter": _TABLE_IDS},
    "InternVLForConditionalGeneration": {"converter": _UNNAMED},
    "Lfm2VlForConditionalGeneration": {"converter": _UNNAMED},
    "SmolVLMForConditionalGeneration": {"converter": _UNNAMED},
    "Qwen3VLMoeForConditionalGeneration": {"converter": _TURNED},
    "GlmOcrForConditionalGeneration": {"converter": _TABLE_IDS},
    "StableLmForCausalLM/parallel": {"converter": _STABLELM},
    "FalconForCausalLM": {"converter": _FALCON},
    "SolarOpenForCausalLM": {"converter": _SOLAR},
    "GemmaForCausalLM": {"converter": _GEMMA},
    "BitNetForCausalLM": {"converter": _BITNET, "llama.cpp": _SILU},
    "BertForSequenceClassification": {"converter": _POOLER},
    "XLMRobertaModel": {"converter": _MASK},
    "JinaEmbeddingsV3Model": {"converter": _JINA},
    "XLMRobertaForSequenceClassification": {"converter": _MASK, "llama.cpp": _GELU},
    "HunYuanMoEV1ForCausalLM": {"converter": _TOKENIZER},
    "DeepseekV32ForCausalLM": {"converter": _BOS},
    "DeepseekV32ForCausalLM/sparse": {"converter": _BOS, "runner": _DENSE, "quantized": _DENSE},
    "GlmMoeDsaForCausalLM": {"converter": _TABLE_IDS},
    "GlmMoeDsaForCausalLM/sparse": {"converter": _TABLE_IDS, "runner": _DENSE, "quantized": _DENSE},
    "KimiLinearForCausalLM": {"converter": _KIMI},
    "GptOssForCausalLM": {"llama.cpp": _TRUNCATE},
    "BambaForCausalLM": {"converter": _PARTIAL},
    "GraniteMoeHybridForCausalLM/attention": {"converter": _FULL},
    "NemotronHForCausalLM": {
        "converter": _NO_EXPERTS,
        "reference": _STEPS,
        "llama.cpp": _STEPS,
        "runner": _STEPS,
    },
    "NemotronHForCausalLM/experts": {"reference": _STEPS, "llama.cpp": _STEPS, "runner": _STEPS},
    "MiniMaxM3SparseForConditionalGeneration/sparse": {"llama.cpp": _NO_FLASH, "runner": _DENSE, "quantized": _DENSE},
    "Kimi_K25ForConditionalGeneration": {"converter": _BLOCKS},
    "NomicBertModel/experts": {"llama.cpp": _SHARED_BIAS},
    "Llama4ForCausalLM/chunks": {"llama.cpp": _CHUNKS},
    "PhimoeForCausalLM": {"llama.cpp": _SPARSEMIXER, "quantized": _SPARSEMIXER},
}


def why(row: str, proof: str) -> str | None:
    """The explanation of a proof that cannot be given, if any. What is quantized is compared with llama.cpp."""
    reasons = EXPLAINED.get(row, {})
    return reasons.get(proof) or (reasons.get("llama.cpp") if proof == "quantized" else None)
