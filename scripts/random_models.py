#!/usr/bin/env python3
"""Models of random weights, of about a billion weights each and shaped as those people run, made as GGUF files at once.

    python scripts/random_models.py NAME TYPE OUT.gguf

Layers have the sizes of the model that a name stands for; there are fewer of them, and a vocabulary of 8,192 tokens. A
tensor is a few rows of random values, encoded and repeated: no model of floats is held or encoded, and what a file says
is noise. llama.cpp loads the files, too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gguflike
from gguflike.container import Writer
from gguflike.convert import metadata as general
from gguflike.convert import planning
from gguflike.convert import recipe as recipes
from gguflike.convert.facts import facts
from gguflike.convert.from_checkpoint import fixed_type
from gguflike.convert.mixes import Recipe
from gguflike.convert.selection import select
from gguflike.families import config as configs
from gguflike.families import registry

VOCABULARY = 8192
CONTEXT = 16384
DISTINCT = 64  # rows of a tensor, of which the others are copies
_COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
}


#: Name -> config.json.
MODELS: Mapping[str, dict[str, Any]] = {
    # Llama of TinyLlama's sizes, to compare the others with.
    "llama": {
        **_COMMON,
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 20,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    # Qwen3.5 2B: three layers of the gated delta rule for one of attention.
    "qwen3.5": {
        **_COMMON,
        "architectures": ["Qwen3_5ForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 16,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "layer_types": [*["linear_attention"] * 3, "full_attention"] * 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10],
        },
    },
    # Qwen3 30B-A3B: 128 experts, 8 used.
    "qwen3-moe": {
        **_COMMON,
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    },
    # gpt-oss 20B: 32 experts, 4 used; a window in every second layer.
    "gpt-oss": {
        **_COMMON,
        "architectures": ["GptOssForCausalLM"],
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 2,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
    },
    # DeepSeek V3 in the sizes of V2 Lite, with the latent queries of GLM 4.7 Flash: 64 experts, 6 used, 2 for all.
    "deepseek": {
        **_COMMON,
        "architectures": ["DeepseekV3ForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 3,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": 768,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    },
    # Granite 4.0 H Tiny: Mamba 2 and attention, 64 experts, 6 used, one for all.
    "granite-4": {
        **_COMMON,
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "hidden_size": 1536,
        "intermediate_size": 512,
        "shared_intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "num_local_experts": 64,
        "num_experts_per_tok": 6,
        "layer_types": [*["mamba"] * 3, "attention", *["mamba"] * 2],
        "mamba_n_heads": 48,
        "mamba_d_head": 64,
        "mamba_n_groups": 1,
        "mamba_d_state": 128,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_chunk_size": 256,
        "embedding_multiplier": 12.0,
        "logits_scaling": 6.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.0078125,
        "position_embedding_type": "nope",
    },
}
#: Models whose experts are MXFP4 whatever the others are, as they are published.
MXFP4 = {"gpt-oss"}


class Noise(NamedTuple):
    """A tensor to be, for the plan: nothing is read."""

    name: str
    shape: tuple[int, ...]
    stored: str = "F32"
    origin: str = ""
    group: int = 1

    def read(self, start: int, stop: int, limit: float) -> Any:
        raise NotImplementedError(self.name)


def tokenizer() -> dict[str, Any]:
    """A SentencePiece vocabulary: <unk> <s> </s>, the bytes, then words that nobody writes."""
    words = [f"w{i}" for i in range(VOCABULARY - 259)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words],
        "tokenizer.ggml.scores": [0.0] * 259 + [float(-i) for i in range(len(words))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(words)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def plan(name: str, recipe: Recipe, out: Path) -> planning.ConversionPlan:
    """The plan of a model's file."""
    values = MODELS[name]
    family = registry.for_config(values)
    config, _ = family.from_config(values)
    if hasattr(config, "choice_bias"):
        config = configs.changed(config, choice_bias=name == "deepseek")
    sources = [Noise(place.name, place.tensor.shape) for place in family.graph(config).tensors() if place.tensor.used]
    metadata = {
        **general.general(family.name, name, {each.name: each.shape for each in sources}, recipe, {}, {}),
        **configs.to_metadata(config, family.name),
        **tokenizer(),
    }
    known = facts(metadata, {each.name: each.shape for each in sources}, False)
    selection = select({"tensor_types": ["ffn_(gate|up|down)_exps.weight=MXFP4"]} if name in MXFP4 else {})
    return planning.make(
        source=name,
        target=out,
        recipe=recipe,
        facts=known,
        sources=sources,
        metadata=metadata,
        fixed=partial(fixed_type, known, recipe, selection),
        inputs=(),
        selection=selection,
    )


def values(name: str, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Float32 (rows, columns) of a scale that keeps activations near 1."""
    random = np.random.default_rng(len(name) + rows)
    noise = random.standard_normal((rows, columns)).astype(np.float32)
    role = name.rpartition("blk.")[2].partition(".")[2] or name
    if "norm" in role or role.startswith("ssm_d"):
        return 1 + noise / 10
    if role.startswith("ssm_a"):
        return -np.exp(noise)
    return noise / np.float32(np.sqrt(columns))


def write(name: str, kind: str, out: Path) -> None:
    """Write the model ``name`` with the recipe ``kind``."""
    planned = plan(name, recipes.by_name(kind), out)
    with Writer(out, planned.file) as writer:
        for tensor in planned.tensors:
            columns = tensor.shape[-1]
            rows = prod(tensor.shape[:-1])
            distinct = min(rows, DISTINCT) if tensor.format.is_quantized else rows
            made = gguflike.quantize(values(tensor.name, distinct, columns), tensor.format.name, method="absmax").data
            size, done = tensor.nbytes, 0
            many = np.tile(np.asarray(made).reshape(-1).view(np.uint8), max(1, (1 << 22) // made.nbytes))
            while done < size:
                part = many[: min(many.nbytes, size - done)]
                writer.write_part(tensor.name, done, part)
                done += part.nbytes


def main() -> None:
    if len(sys.argv) != 4 or sys.argv[1] not in MODELS:
        sys.exit(f"{__doc__}\nnames: {', '.join(MODELS)}")
    name, kind, out = sys.argv[1:]
    write(name, kind, Path(out))
    file = gguflike.open(out)
    print(
        f"{out}: {sum(prod(info.shape) for info in file.infos.values()):,} weights, {Path(out).stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
