#!/usr/bin/env python3
"""How far `gguflike estimate` is from the memory that processes take, by models of some hundred megabytes.

    python scripts/check_estimate.py [FOLDER] [--only NAME ...] [--context 1024] [--files FILE ...]

Each model is made in FOLDER (a temporary one by default), loaded in a process of its own, and given random tokens until
its context is full and a text that needs all of its tokenizer. Then its resident memory (VmRSS) and the most that it
was (VmHWM) are read, and divided by what the estimate says. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import random_models

from gguflike.estimate import estimate

_COMMON = random_models._COMMON
#: Name -> what config.json says, and the type of its weights. Widths are those of models that people run; depths are
#: as many layers as make some hundred megabytes.
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "llama": ({**random_models.MODELS["llama"], "num_hidden_layers": 8}, "Q4_K_M"),
    "llama-floats": ({**random_models.MODELS["llama"], "num_hidden_layers": 4}, "F16"),
    "llama-codebooks": ({**random_models.MODELS["llama"], "num_hidden_layers": 12}, "IQ3_XXS"),
    "qwen3.5": (
        {
            **random_models.MODELS["qwen3.5"],
            "num_hidden_layers": 8,
            "layer_types": [*["linear_attention"] * 3, "full_attention"] * 2,
        },
        "Q4_K_M",
    ),
    "qwen3-moe": ({**random_models.MODELS["qwen3-moe"], "num_hidden_layers": 1}, "Q4_0"),
    "gpt-oss": (random_models.MODELS["gpt-oss"], "Q8_0"),
    "deepseek": ({**random_models.MODELS["deepseek"], "num_hidden_layers": 2}, "Q5_K_M"),
    "granite-4": (random_models.MODELS["granite-4"], "Q4_0"),
    "gemma-3": (
        {
            **_COMMON,
            "architectures": ["Gemma3ForCausalLM"],
            "hidden_act": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 512,
            "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        "Q8_0",
    ),
    "mamba-2": (
        {
            "architectures": ["Mamba2ForCausalLM"],
            "vocab_size": random_models.VOCABULARY,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_size": 2048,
            "num_hidden_layers": 12,
            "num_heads": 64,
            "head_dim": 64,
            "n_groups": 1,
            "state_size": 128,
            "conv_kernel": 4,
            "expand": 2,
            "chunk_size": 256,
            "tie_word_embeddings": True,
        },
        "Q8_0",
    ),
    "lfm2": (
        {
            **_COMMON,
            "architectures": ["Lfm2ForCausalLM"],
            "hidden_act": None,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "block_ff_dim": 8192,
            "block_auto_adjust_ff_dim": False,
            "num_hidden_layers": 6,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "conv_L_cache": 3,
            "conv_bias": False,
            "layer_types": ["conv", "conv", "full_attention", "conv", "conv", "full_attention"],
        },
        "Q6_K",
    ),
}

CHILD = """
import json, sys
import numpy as np
import gguflike
path, context, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = gguflike.load(path, context=context, threads=threads)
ids = np.random.default_rng(0).integers(3, model.vocab_size, context).tolist()
model.tokenize("what is said of it, and how it is " * 2000)
pieces = [context - 132, *[16] * 8, *[1] * 4]  # a prompt, several turns, and tokens that are chosen
position = 0
for size in pieces:
    model.extend(ids[position : position + size], position)
    position += size
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
found = {key: 1024 * int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM")}
print(json.dumps(found | {"numba": "numba" in sys.modules}))
"""


def measured(path: Path, context: int, threads: int) -> dict[str, int]:
    """VmRSS and VmHWM in bytes of a process that has filled the context."""
    command = [sys.executable, "-c", CHILD, str(path), str(context), str(threads)]
    found: dict[str, int] = {}
    for _ in range(2):  # the first may compile kernels, which takes memory of its own
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout)
        if not found["numba"]:
            break
    return found


def report(name: str, path: Path, context: int, threads: int) -> float:
    """Print a line; the ratio of what is reckoned to what is measured."""
    needs = estimate(path, context, threads=threads).needs
    found = measured(path, context, threads)
    ratio, peak = needs.total / found["VmRSS"], needs.peak / found["VmHWM"]
    mb = [f"{size / 1e6:8.1f}" for size in (path.stat().st_size, needs.total, found["VmRSS"])]
    print(f"{name:20}", *mb, f"{ratio:7.3f}", f"{peak:7.3f}", flush=True)
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--files", type=Path, nargs="+", default=[], help="measure these, too")
    parser.add_argument("--within", type=float, default=0.05, help="exit 1 where one is farther from 1 (%(default)s)")
    args = parser.parse_args()
    print(f"{'model':20} {'file MB':>8} {'reckoned':>8} {'resident':>8}   ratio  of peak")
    ratios = []
    with tempfile.TemporaryDirectory() as made:
        for name in args.only:
            values, kind = MODELS[name]
            random_models.MODELS = {**random_models.MODELS, name: {k: v for k, v in values.items() if v is not None}}
            path = (args.folder or Path(made)) / f"{name}.gguf"
            random_models.write(name, kind, path)
            ratios.append(report(name, path, args.context, args.threads))
            path.unlink()
        ratios += [report(path.stem[:20], path, args.context, args.threads) for path in args.files]
    sys.exit(any(abs(ratio - 1) > args.within for ratio in ratios))


if __name__ == "__main__":
    main()
