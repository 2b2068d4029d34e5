"""Adapters that PEFT makes and merges itself, and llama.cpp's converter of adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gguflike.convert import convert
from tests import tiny
from tests.files import floats_of
from tests.interop.families import converter

VOCABULARY = 300
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
}
LLAMA = {"num_key_value_heads": 2, "max_position_embeddings": 128}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {"target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"]}),
    "all linear": ("llama", {}, {"target_modules": "all-linear", "use_rslora": True}),
    "patterns": (
        "llama",
        {},
        {
            "target_modules": ["q_proj", "o_proj", "up_proj"],
            "rank_pattern": {"o_proj": 2, r"layers\.1\.mlp\.up_proj": 8},
            "alpha_pattern": {r"layers\.0.*q_proj": 3},
        },
    ),
    "embeddings": ("llama", {}, {"target_modules": ["embed_tokens", "lm_head", "gate_proj"]}),
    "embedding": ("llama", {}, {"target_modules": ["embed_tokens", "gate_proj"]}),
    "tied embeddings": ("llama", {"tie_word_embeddings": True}, {"target_modules": ["embed_tokens", "q_proj"]}),
    "saved whole": ("llama", {}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]}),
    "biases": (
        "llama",
        {"attention_bias": True},
        {"target_modules": ["q_proj", "k_proj"], "bias": "all", "lora_bias": True},
    ),
    "dora": ("llama", {}, {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    "transposed": ("gpt2", {}, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
}


def model_of(kind: str, settings: dict[str, Any]) -> Any:
    import torch
    import transformers

    torch.manual_seed(1)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=64, n_layer=2, n_head=4)
        return transformers.GPT2LMHeadModel(config)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, **LLAMA, **settings}))


def tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(VOCABULARY)))


def made(folder: Path, kind: str, settings: dict[str, Any], lora: dict[str, Any]) -> tuple[Path, Path, Path]:
    """A base, an adapter of it with random values, and what PEFT merges of the two."""
    peft = pytest.importorskip("peft")
    import torch

    base, adapter, merged = (folder / name for name in ("base", "adapter", "merged"))
    model_of(kind, settings).save_pretrained(base)
    model = peft.get_peft_model(model_of(kind, settings), peft.LoraConfig(r=4, lora_alpha=6, **lora))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape) * 0.1
                parameter.copy_(parameter + noise if "magnitude" in name or "lora_" not in name else noise)
    model.save_pretrained(adapter)
    model.merge_and_unload().save_pretrained(merged)
    for each in (base, merged):
        tokenizer(each)
    return base, adapter, merged


@pytest.mark.parametrize("case", CASES)
def test_merged_as_peft_does(case: str, tmp_path: Path) -> None:
    kind, settings, lora = CASES[case]
    base, adapter, merged = made(tmp_path, kind, settings, lora)
    convert(base, tmp_path / "ours.gguf", "F32", lora=[adapter])
    ours = floats_of(tmp_path / "ours.gguf")
    if case == "tied embeddings":  # PEFT ties them again; what it computed before has the output as it was
        convert(base, tmp_path / "base.gguf", "F32")
        output = ours.pop("output.weight")
        np.testing.assert_array_equal(output, floats_of(tmp_path / "base.gguf")["token_embd.weight"])
    convert(merged, tmp_path / "theirs.gguf", "F32")
    theirs = floats_of(tmp_path / "theirs.gguf")
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=2e-6, atol=2e-6, err_msg=name)
    before = tensors_of_base(base, tmp_path)
    assert any(not np.allclose(before[name], values, atol=1e-3) for name, values in ours.items())


def tensors_of_base(base: Path, folder: Path) -> dict[str, np.ndarray]:
    convert(base, folder / "b.gguf", "F32")
    return floats_of(folder / "b.gguf")


@pytest.mark.parametrize("case", ["plain", "embedding"])
def test_the_same_file_as_llama_cpp_s_converter(case: str, tmp_path: Path) -> None:
    """Not of GPT-2, where it turns factors round that stand right, so that llama.cpp refuses them."""
    kind, settings, lora = CASES[case]
    base, adapter, _ = made(tmp_path, kind, settings, lora)
    script = converter.source_tree() / "convert_lora_to_gguf.py"
    command = [sys.executable, script, adapter, "--base", base, "--outfile", tmp_path / "theirs.gguf"]
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    convert(adapter, tmp_path / "ours.gguf", base=base)
    ours, theirs = (gguf.GGUFReader(tmp_path / name) for name in ("ours.gguf", "theirs.gguf"))
    mine = {t.name: np.array(t.data) for t in ours.tensors}
    assert mine.keys() == {t.name for t in theirs.tensors}
    for tensor in theirs.tensors:
        np.testing.assert_array_equal(mine[tensor.name], np.array(tensor.data), err_msg=tensor.name)
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert ours.fields[key].contents() == theirs.fields[key].contents()


@pytest.mark.parametrize("case", ["plain", "all linear", "patterns", "transposed", "embedding"])
def test_llama_cpp_computes_with_an_adapter_as_with_the_merged_model(case: str, tmp_path: Path) -> None:
    import llama_cpp

    kind, settings, lora = CASES[case]
    base, adapter, _ = made(tmp_path, kind, settings, lora)
    convert(base, tmp_path / "base.gguf", "F32")
    convert(adapter, tmp_path / "adapter.gguf", base=base)
    convert(base, tmp_path / "merged.gguf", "F32", lora=[(adapter, 0.5)])
    options: dict[str, Any] = {"n_ctx": 32, "verbose": False, "logits_all": True}
    with_adapter = llama_cpp.Llama(
        str(tmp_path / "base.gguf"), lora_path=str(tmp_path / "adapter.gguf"), lora_scale=0.5, **options
    )
    merged, plain = (llama_cpp.Llama(str(tmp_path / name), **options) for name in ("merged.gguf", "base.gguf"))
    found = []
    for model in (with_adapter, merged, plain):
        model.eval([5, 17, 33, 80])
        found.append(np.array(model.scores[:4]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert np.abs(found[0] - found[2]).max() > 1e-2


def test_settings_of_this_peft_are_known(tmp_path: Path) -> None:
    """What a newer PEFT can say is looked at here before it can be misread."""
    peft = pytest.importorskip("peft")
    known = {
        *(
            "alora_invocation_tokens",
            "alpha_pattern",
            "arrow_config",
            "auto_mapping",
            "base_model_name_or_path",
            "bias",
        ),
        *("corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode"),
        *("init_lora_weights", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform"),
        *("loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config"),
        *(
            "megatron_core",
            "modules_to_save",
            "monteclora_config",
            "peft_type",
            "peft_version",
            "qalora_group_size",
            "r",
        ),
        *("rank_pattern", "revision", "target_modules", "target_parameters", "task_type", "trainable_token_indices"),
        *("use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config"),
    }
    peft.LoraConfig().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text()).keys() <= known
