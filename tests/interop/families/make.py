"""Makes the checkpoint of a row, as transformers saves one."""

from __future__ import annotations

import json
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tests.interop.families import vocabularies
from tests.interop.families.row import VOCABULARY, Row
from tests.interop.families.table import TABLE


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint of the row ``name`` to ``folder``: weights, config.json and tokenizer. Return the folder.

    Weights are float32 and the same every time. Everything that a fresh model leaves at a value which does nothing
    (norms of one, biases of zero, correction biases of routers, sinks, scales) is moved off it, so that a converter or
    a graph that drops one is seen.
    """
    row = TABLE[name]
    model = build(row)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if row.registered is not None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "architectures": [row.registered]}, indent=2))
    vocabularies.write(row.tokenizer, folder, VOCABULARY, row.tokenizer_config)
    for file, content in row.files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(content, indent=2))
    return folder


def build(row: Row) -> Any:
    """The model, of transformers unless it is one of own.py, in evaluation mode, with seeded weights."""
    import torch
    import transformers

    from tests.interop.families.own import OWN

    torch.manual_seed(0)
    if row.name in OWN:
        model: Any = OWN[row.name](row.config).float().eval()
    else:
        model_class = getattr(transformers, row.model_class)
        config = model_class.config_class(**row.config)
        config._attn_implementation = "eager"
        model = model_class(config).float().eval()
    saved = model.state_dict()
    with torch.no_grad():
        for name, tensor in saved.items():
            if tensor.is_floating_point():
                gain = prod(gain for part, gain in row.gains.items() if part in name)
                tensor.copy_(torch.from_numpy(_values(name, tensor.numpy())) * gain)
    return model


def _values(name: str, fresh: np.ndarray) -> np.ndarray:
    """Seeded values for the tensor ``name``, of a size that keeps activations near one; ``fresh`` are its first."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    noise = np.asarray(rng.standard_normal(fresh.shape), np.float32)
    last = name.rsplit(".", 1)[-1]
    if last == "A_log":
        return np.log(rng.uniform(0.5, 4.0, fresh.shape)).astype(np.float32)
    if fresh.ndim < 2 or last in ("dt_bias", "D", "e_score_correction_bias"):
        # what norms, biases, sinks and scales are, and a bit beside it
        return np.asarray(fresh + np.float32(0.2) * noise, np.float32)
    if "embed" in name or "wte" in name or "wpe" in name:
        return np.float32(0.5) * noise
    # a router's choice should not hang on rounding
    gain = 3.0 if any(part in name for part in ("router", "mlp.gate.", "gate.wg", "feed_forward.gate.")) else 1.0
    fan_in = int(np.prod(fresh.shape[1:])) if "conv" in name else fresh.shape[-1]
    return (np.float32(gain / np.sqrt(fan_in)) * noise).astype(np.float32)
