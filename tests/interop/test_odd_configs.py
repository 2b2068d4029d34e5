"""Configurations that hardly any published model has: the reference computes what Transformers does, or we refuse; and
where llama.cpp does not load the file, a notice says so before.

Each case is a row of the table with some settings changed, drawn by a seed from what models of its class may have.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.errors import GGUFLikeError
from tests.interop.families import TABLE, vocabularies
from tests.interop.families.make import build
from tests.interop.families.processes import Refused
from tests.interop.families.proofs import IDS, TOLERANCE, Oracles, by_reference, by_transformers, typical_error
from tests.interop.families.row import LLAMA3, VOCABULARY, YARN, Row, rope

ROWS = (
    *("LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM", "Gemma2ForCausalLM"),
    *("Gemma3ForCausalLM", "SmolLM3ForCausalLM", "Olmo2ForCausalLM", "GraniteForCausalLM", "GPTNeoXForCausalLM"),
    *("DeepseekV3ForCausalLM", "MiniCPM3ForCausalLM", "GraniteMoeHybridForCausalLM", "FalconH1ForCausalLM"),
    *("Cohere2ForCausalLM", "Starcoder2ForCausalLM", "Ernie4_5_MoeForCausalLM", "EuroBertModel"),
)
SEEDS = range(4)
ROTATIONS = (
    rope(5e4),
    rope(kind="linear", factor=4.0),
    {**LLAMA3, "factor": 2.0},
    {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    {**YARN, "attention_factor": 0.8},
    {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9, "truncate": False},
)
VALUES: dict[str, tuple[Any, ...]] = {
    "num_hidden_layers": (1, 2),
    "num_key_value_heads": (1, 2, 4),
    "head_dim": (8, 32, 48),
    "intermediate_size": (32, 100),
    "rms_norm_eps": (1e-6, 1e-3, 0.1),
    "attn_logit_softcapping": (None, 2.0),
    "final_logit_softcapping": (None, 5.0),
    "query_pre_attn_scalar": (16, 50),
    "num_experts_per_tok": (1, 2),
    "n_shared_experts": (1, 2),
    "routed_scaling_factor": (1.0, 0.7),
    "mamba_d_conv": (2, 3),
    "mamba_d_state": (8, 32),
    "mamba_n_groups": (1, 2),
    "linear_conv_kernel_dim": (2, 3),
    "residual_multiplier": (1.0, 0.5),
    "embedding_multiplier": (1.0, 3.0),
    "logits_scaling": (1.0, 2.0),
    "logit_scale": (1.0, 0.5),
}
SWITCHES = (
    *("tie_word_embeddings", "attention_bias", "mlp_bias", "use_bias", "norm_topk_prob", "mamba_conv_bias"),
    *("mamba_rms_norm", "use_parallel_residual"),
)


def drawn(row: Row, seed: int) -> dict[str, Any]:
    """Three settings of a row that are others than its own."""
    import transformers

    rng = random.Random(f"{row.name} {seed}")
    has = getattr(transformers, row.model_class).config_class(**row.config).to_dict()
    options = {key: [each for each in values if each != has[key]] for key, values in VALUES.items() if key in has}
    options |= {key: [not has[key]] for key in SWITCHES if isinstance(has.get(key), bool)}
    given = row.config.get("rope_parameters") or {}
    nested = any(isinstance(each, dict) for each in given.values())
    share = {key: given[key] for key in ("partial_rotary_factor",) if key in given}
    options["rope_parameters"] = [
        {**given, "full_attention": each} if nested else {**each, **share} for each in ROTATIONS
    ]
    if row.config.get("layer_types"):
        options.pop("num_hidden_layers")
    if "kv_lora_rank" in has:  # whose heads have sizes of their own
        options.pop("head_dim", None)
        options.pop("num_key_value_heads")
    return {key: rng.choice(options[key]) for key in rng.sample(sorted(options), 3)}


@pytest.fixture(scope="module")
def oracles() -> Iterator[Oracles]:
    made = Oracles()
    yield made
    made.close()


def written(row: Row, folder: Path) -> Path:
    """The checkpoint of a row that is not in the table."""
    build(row).save_pretrained(folder)
    vocabularies.write(row.tokenizer, folder, VOCABULARY, row.tokenizer_config)
    return folder


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ROWS)
def test_odd_configurations_are_computed_or_refused(name: str, seed: int, tmp_path: Path, oracles: Oracles) -> None:
    changes = drawn(TABLE[name], seed)
    row = replace(TABLE[name], config={**TABLE[name].config, **changes})
    folder, path, out = tmp_path / "hf", tmp_path / "file.gguf", tmp_path / "out.npy"
    try:
        wanted = by_transformers(written(row, folder), row)
    except (RuntimeError, ValueError) as error:  # sizes that do not fit each other
        pytest.skip(f"transformers does not compute it: {error}"[:100])
    try:
        said = gguflike.convert(folder, path, "F32").notices
    except GGUFLikeError:
        return
    found = by_reference(path, row)
    assert typical_error(row, found, wanted) < TOLERANCE["reference"], changes
    pooling = {"logits": None, "hidden": "none", "scores": "rank"}[row.result]
    told = [each for each in said if "llama.cpp" in each]
    refused = [each for each in told if "refuses" in each]
    try:
        oracles.llama_cpp.ask(path=str(path), ids=IDS, out=str(out), pooling=pooling)
    except Refused:
        if not refused:
            raise
        return
    assert not refused, changes
    assert told or typical_error(row, np.load(out), wanted) < TOLERANCE["llama.cpp"], changes
