"""Tiny checkpoints of Qwen3 that give vectors, as sentence-transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests import tiny

NORMS = {
    f"model.layers.{layer}.self_attn.{name}_norm.weight": np.ones(8, np.float32)
    for layer in (0, 1)
    for name in ("q", "k")
}


def qwen3(folder: Path, words: tuple[str, ...] = ("yes", "no"), **changes: Any) -> Path:
    """A tiny Qwen3 checkpoint, whose last tokens are ``words``."""
    tiny.checkpoint(folder, change=NORMS, architectures=["Qwen3ForCausalLM"], attention_bias=None, **changes)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"] |= {word: 258 + index for index, word in enumerate(words)}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    config = json.loads((folder / "config.json").read_text())
    del config["mlp_bias"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def modules(folder: Path, **pooling: bool) -> None:
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    chain = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(chain))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
