"""Checkpoints that Transformers loads though they are not as it saves them: we make the same file of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from tests.interop.families import TABLE, make

ROWS = (
    *("LlamaForCausalLM", "Qwen3MoeForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    *("GPT2LMHeadModel", "GPTNeoXForCausalLM", "MambaForCausalLM", "BertModel", "ModernBertModel"),
)
Tensors = dict[str, np.ndarray]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read(folder: Path) -> Tensors:
    from safetensors.numpy import load_file

    return dict(load_file(folder / SINGLE))


def write(path: Path, tensors: Tensors) -> None:
    from safetensors.numpy import save_file

    path.parent.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path, {"format": "pt"})


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**found, **changes}))
    return found


def of_the_base(folder: Path, tensors: Tensors) -> None:
    """Saved from the base of the model, or a base from a whole model: without the prefix that Transformers puts before
    its names, or with it."""
    import transformers

    prefix = getattr(transformers, config(folder)["architectures"][0]).base_model_prefix + "."
    whole = any(name.startswith(prefix) for name in tensors)
    names = {name: name.removeprefix(prefix) if whole else prefix + name for name in tensors}
    write(folder / SINGLE, {names[name]: x for name, x in tensors.items()})


def with_buffers(folder: Path, tensors: Tensors) -> None:
    more = ("model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq", "embeddings.position_ids")
    write(folder / SINGLE, tensors | {name: np.arange(4, dtype=np.float32) for name in more})


def with_heads_beside(folder: Path, tensors: Tensors) -> None:
    more = ("v_head.summary.weight", "reward.weight", "model_ema.decay")
    write(folder / SINGLE, tensors | {name: np.ones((2, 4), np.float32) for name in more})


def halves(tensors: Tensors) -> list[Tensors]:
    names = sorted(tensors)
    return [{name: tensors[name] for name in names[part::2]} for part in (0, 1)]


def in_a_subfolder(folder: Path, tensors: Tensors) -> None:
    weight_map = {}
    for number, part in enumerate(halves(tensors)):
        write(folder / "weights" / f"{number}.safetensors", part)
        weight_map |= dict.fromkeys(part, f"weights/{number}.safetensors")
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1.5e12}, "weight_map": weight_map}))


def in_files_that_the_index_confuses(folder: Path, tensors: Tensors) -> None:
    """Every tensor in the other file; one that is not listed; one that is in both."""
    first, second = halves(tensors)
    twice = next(iter(first))
    write(folder / "a.safetensors", first)
    write(folder / "b.safetensors", second | {twice: first[twice]})
    (folder / SINGLE).unlink()
    weight_map = {**dict.fromkeys(first, "b.safetensors"), **dict.fromkeys(second, "a.safetensors")}
    weight_map.pop(sorted(second)[-1])
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def under_a_name_of_config_json(folder: Path, tensors: Tensors) -> None:
    (folder / SINGLE).rename(folder / "other.safetensors")
    config(folder, transformers_weights="other.safetensors")


def beside_a_stale_index(folder: Path, tensors: Tensors) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, "gone.safetensors")}))


VARIANTS: list[Callable[[Path, Tensors], None]] = [
    *(of_the_base, with_buffers, with_heads_beside, in_a_subfolder, in_files_that_the_index_confuses),
    *(under_a_name_of_config_json, beside_a_stale_index),
]


def state(folder: Path, name: str) -> dict[str, np.ndarray]:
    """What Transformers loads, and that nothing is missing."""
    import transformers

    kind = getattr(transformers, TABLE[name].model_class)
    model, said = kind.from_pretrained(folder, output_loading_info=True)
    assert not said["missing_keys"]
    return {key: x.numpy() for key, x in model.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ROWS)
def test_the_same_file_comes_of_it(name: str, variant: Callable[[Path, Tensors], None], tmp_path: Path) -> None:
    row = next(row for row in TABLE if row == name or TABLE[row].model_class == name)
    folder = make(row, tmp_path / "hf")
    odd = tmp_path / "odd" / folder.name
    shutil.copytree(folder, odd)
    variant(odd, read(folder))
    want, found = state(folder, row), state(odd, row)
    assert want.keys() == found.keys()
    assert all(np.array_equal(want[key], found[key]) for key in want)
    gguflike.convert(folder, tmp_path / "a.gguf", "F32")
    gguflike.convert(odd, tmp_path / "b.gguf", "F32")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
