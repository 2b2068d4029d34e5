#!/usr/bin/env python3
"""A Llama of random weights in the Hugging Face layout, for speed: large enough that weights come from memory.

    python scripts/make_synthetic.py FOLDER --tokenizer DIR [--layers 20] [--width 2048] [--ffn 5632] ...

The default has about 1.0 billion parameters (bfloat16, 2 GB). The tokenizer files are copied from DIR, so that any
runner loads what is converted from it; what the model says is noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def of_layer(width: int, kv: int, ffn: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer of a Llama by name, each of dimensions (out, in)."""
    return {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (kv, width),
        "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (ffn, width),
        "mlp.up_proj": (ffn, width),
        "mlp.down_proj": (width, ffn),
    }


def shapes(args: argparse.Namespace, vocab: int) -> dict[str, tuple[int, ...]]:
    """Every tensor by name, Hugging Face order of dimensions (out, in)."""
    width, ffn, kv = args.width, args.ffn, args.width // args.heads * args.kv_heads
    layer = of_layer(width, kv, ffn)
    names = {f"model.layers.{i}.{name}.weight": shape for i in range(args.layers) for name, shape in layer.items()}
    return {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,), **names}


def bfloat16(values: np.ndarray) -> bytes:
    """Upper halves of float32 (truncation is good enough for noise)."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    for name, default in (("layers", 20), ("width", 2048), ("ffn", 5632), ("heads", 32), ("kv-heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()

    tokenizer = json.loads((args.tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    vocab = max(ids) + 1
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": args.width,
        "intermediate_size": args.ffn,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "vocab_size": vocab,
    }
    args.folder.mkdir(parents=True)
    (args.folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in TOKENIZER_FILES:
        if (args.tokenizer / name).exists():
            shutil.copy(args.tokenizer / name, args.folder)

    header, offset = {}, 0
    for name, shape in shapes(args, vocab).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with (args.folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes(args, vocab).values():
            if len(shape) == 1:
                file.write(bfloat16(np.ones(shape)))
            for _ in range(shape[0] if len(shape) == 2 else 0):
                file.write(bfloat16(random.standard_normal(shape[1], np.float32) * np.float32(0.02)))
    print(f"{args.folder}: {offset // 2:,} weights")


if __name__ == "__main__":
    main()
