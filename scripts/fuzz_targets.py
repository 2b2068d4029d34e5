"""What scripts/fuzz.py reads: for each kind of input its seeds, how they are changed, and all that reads it.

``read`` may raise what the package says that it raises of a file (`gguflike.errors.GGUFLikeError`), and nothing else.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_mutations as mutations
from bad_checkpoints import packed
from fuzz_mutations import Gguf

import gguflike
from gguflike import container
from gguflike.chat import template
from gguflike.checkpoint import card, safetensors, strictjson, tokenizer, weights
from gguflike.checkpoint.vocabulary import Vocabulary
from gguflike.container.reader import HeaderFile
from gguflike.container.shards import open_with
from gguflike.container.validate import REPORTED
from gguflike.convert import imatrix
from gguflike.families import registry
from gguflike.families.family import check_layers
from gguflike.inspect.description import LONGEST_ARRAY, describe
from gguflike.inspect.statistics import decoded

DATA = Path(gguflike.__file__).parent / "data" / "austen-kjv-6m"


@dataclass
class Target:
    """A kind of input. ``read(data, folder)`` reads one, by way of files in the folder where it must. ``share`` of all
    inputs are of this kind. All of a process are read within what ``around`` gives."""

    name: str
    seeds: Sequence[Any]
    mutated: Callable[[Any, random.Random], bytes]
    encoded: Callable[[Any], bytes]
    read: Callable[[bytes, Path], None]
    share: float
    around: Callable[[], AbstractContextManager[object]] = nullcontext


def in_memory(data: bytes, path: str = "memory.gguf") -> HeaderFile:
    return HeaderFile(path, len(data), lambda start, count: data[start : start + count])


def read_gguf(data: bytes, folder: Path) -> None:
    """Everything that is told of a file without its data."""
    del folder
    file = in_memory(data)
    for check in REPORTED:  # opening has tried the others
        list(check(file))
    describe(file)
    for key in file.metadata:
        if file.metadata.count_of(key) > LONGEST_ARRAY:  # of which `describe` reads the first
            file.metadata.typed(key)


def read_file(data: bytes, folder: Path) -> None:
    """Everything in a file that lies on a disk; weights by the reference decoders, for which nothing is compiled."""
    path = folder / "x.gguf"
    path.write_bytes(data)
    gguflike.verify(path)
    with container.open(path) as file:
        for name in file.infos:
            tensor = file.load(name)
            decoded(tensor.blocks, tensor.format)


def read_model(data: bytes, folder: Path) -> None:
    """A file as a model: its configuration, graph and vocabulary."""
    del folder
    file = in_memory(data)
    if file.architecture is not None:
        family = registry.for_gguf(file.architecture).of_file(file.metadata, file.infos)
        config = family.from_file(file.metadata, file.infos)
        check_layers(config, file.path, len(file.infos))
        list(family.graph(config).tensors())
    vocabulary = Vocabulary.from_metadata(file.metadata)
    for index in range(min(len(vocabulary.tokens), 64)):
        vocabulary.written(index)
    _ = vocabulary.end_ids, vocabulary.markup


def read_shards(data: bytes, folder: Path) -> None:
    """Two files of a model, one behind the other with the first one's length before them."""
    del folder
    (length,) = struct.unpack("<I", data[:4].ljust(4, b"\0"))
    parts = {
        "x-00001-of-00002.gguf": data[4 : 4 + length],
        "x-00002-of-00002.gguf": data[4 + length :],
    }

    def opened(path: Any) -> HeaderFile:
        if path not in parts:
            raise FileNotFoundError(path)
        return in_memory(parts[path], path)

    file = open_with(opened, "x-00001-of-00002.gguf")
    list(file.infos.values())
    describe(file)


def read_safetensors(data: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    for tensor in safetensors.read_header(path).values():
        if tensor.nbytes < 1 << 20:
            tensor.read()


def read_index(data: bytes, folder: Path) -> None:
    """An index of weights, beside the files that the seed names."""
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        if not (folder / name).exists():
            (folder / name).write_bytes(SAFETENSORS[0])
    (folder / safetensors.INDEX).write_bytes(data)
    (folder / safetensors.SINGLE).unlink(missing_ok=True)
    weights.of_folder(folder, {})


def read_tokenizer(data: bytes, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(data)
    tokenizer.metadata_from_folder(folder, {"vocab_size": 300})


def read_config(data: bytes, folder: Path) -> None:
    path = folder / "config.json"
    path.write_bytes(data)
    config = strictjson.load(path)
    family = registry.for_config(config).of_config(config)
    family.bind(family.from_config(config)[0])


def read_card(data: bytes, folder: Path) -> None:
    (folder / "README.md").write_bytes(data)
    card.read(folder, ["license", "language", "tags", "base_model"])


def read_imatrix(data: bytes, folder: Path) -> None:
    path = folder / "imatrix"
    path.write_bytes(data)
    imatrix.read(path)


def read_template(data: bytes, folder: Path) -> None:
    del folder
    source = data.decode("utf-8", "replace")
    template.render(source, {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": True})


def aligned(header: bytes) -> bytes:
    """A header of safetensors with the spaces behind which data begin where they should."""
    return header + b" " * (-len(header) % 8)


_HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
}
SAFETENSORS = [packed(aligned(json.dumps(_HEADER).encode()), bytes(32))]


def mutated_safetensors(seed: bytes, chance: random.Random) -> bytes:
    """Its header as JSON, its length, or its bytes."""
    if chance.random() < 0.3:
        return mutations.mutated_bytes(seed, chance)
    (length,) = struct.unpack("<Q", seed[:8])
    header = mutations.mutated_json(json.loads(seed[8 : 8 + length]), chance)
    header = aligned(header) if chance.random() < 0.9 else header + b" " * 3
    stated = len(header) if chance.random() < 0.9 else chance.choice(mutations.NUMBERS)
    return packed(header, seed[8 + length :], stated)


def small_tokenizers() -> list[Any]:
    """The bundled tokenizer with a few of its tokens, and one of WordPiece."""
    whole = json.loads((DATA / "tokenizer.json").read_text(encoding="utf-8"))
    model = whole["model"]
    kept = dict(sorted(model["vocab"].items(), key=lambda item: item[1])[:270])
    merges = [pair for pair in model["merges"] if all("".join(_pair(pair)[:n]) in kept for n in (1, 2))][:8]
    whole["model"] = {**model, "vocab": kept, "merges": merges}
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["id"] < 270]
    words = {
        word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "b"])
    }
    wordpiece: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": words},
    }
    return [whole, wordpiece]


def _pair(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)


CONFIGS = [
    json.loads((DATA / "config.json").read_text(encoding="utf-8")),
    {
        **{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64, "num_experts": 4},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 64},
        **{"moe_intermediate_size": 32, "num_experts_per_tok": 2, "num_hidden_layers": 2, "vocab_size": 64},
        **{"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 512},
        **{"tie_word_embeddings": False, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    },
    {
        **{"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 64, "vocab_size": 64},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 64},
        **{"num_hidden_layers": 2, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]},
        **{"rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 32},
        **{"hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 512},
    },
    {
        **{"architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 64, "vocab_size": 64},
        **{"state_size": 16, "conv_kernel": 4, "expand": 2, "num_hidden_layers": 2, "time_step_rank": 4},
        **{"use_conv_bias": True, "use_bias": False, "layer_norm_epsilon": 1e-5, "intermediate_size": 128},
    },
]
INDEX = {
    "metadata": {"total_size": 64},
    "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
}
CARD = b"---\nlicense: mit\nlanguage:\n- en\n- no\ntags: [a, b]\nbase_model: org/name\n---\n# Text\n"
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% endfor %}{{ bos_token or 'x' }}"
LEGACY = struct.pack("<ii", 1, 4) + b"name" + struct.pack("<ii", 2, 3) + struct.pack("<3f", 1, 2, 3)


def shards(pair: tuple[Gguf, Gguf], chance: random.Random) -> bytes:
    a, b = (mutations.mutated_gguf(file, chance) if chance.random() < 0.6 else file.encoded() for file in pair)
    return struct.pack("<I", len(a)) + a + b


def whole_shards(pair: tuple[Gguf, Gguf]) -> bytes:
    a, b = (file.encoded() for file in pair)
    return struct.pack("<I", len(a)) + a + b


def of_imatrix(seed: Any, chance: random.Random) -> bytes:
    return mutations.mutated_gguf(seed, chance) if isinstance(seed, Gguf) else mutations.mutated_bytes(seed, chance)


def as_bytes(seed: Any) -> bytes:
    if isinstance(seed, Gguf):
        return seed.encoded()
    return seed if isinstance(seed, bytes) else seed.encode() if isinstance(seed, str) else json.dumps(seed).encode()


def targets() -> list[Target]:
    gguf, documents = mutations.mutated_gguf, mutations.mutated_json
    files = [mutations.small(), mutations.small(">"), mutations.model()]
    pair = (mutations.shard(0), mutations.shard(1))
    return [
        Target("gguf", files, gguf, as_bytes, read_gguf, 0.55),
        Target("file", files[:2], gguf, as_bytes, read_file, 0.02),
        Target("model", [mutations.model(), mutations.model(">")], gguf, as_bytes, read_model, 0.1),
        Target("shards", [pair], shards, whole_shards, read_shards, 0.05),
        Target("imatrix", [mutations.imatrix(), LEGACY], of_imatrix, as_bytes, read_imatrix, 0.03),
        Target("safetensors", SAFETENSORS, mutated_safetensors, as_bytes, read_safetensors, 0.12),
        Target("index", [INDEX], documents, as_bytes, read_index, 0.02),
        Target("tokenizer", small_tokenizers(), documents, as_bytes, read_tokenizer, 0.02),
        Target("config", CONFIGS, documents, as_bytes, read_config, 0.07),
        Target("card", [CARD], mutations.mutated_bytes, as_bytes, read_card, 0.0195),
        Target(
            "template", [TEMPLATE], mutations.mutated_template, as_bytes, read_template, 0.0005, template.keep_ready
        ),
    ]
