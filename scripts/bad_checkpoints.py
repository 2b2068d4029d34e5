"""Hugging Face folders with one thing wrong in them, and a small good one to begin with.

``good()`` is a folder as its files by name; ``CASES`` has changes to it by name. Made byte by byte, for the tests,
check_hostile.py, and for who mutates checkpoints.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

WIDTH, INNER, VOCABULARY = 32, 64, 260
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PLACE = "model.layers.0.self_attn.q_proj.weight"

Files = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """What replaces files of the good folder (None removes one), the file at fault, and a word of what the error says
    of it, or nothing. ``tolerated``: there is no error, but a notice or nothing."""

    changes: Mapping[str, bytes | None]
    file: str
    about: str = ""
    tolerated: bool = False


def config(**changes: Any) -> dict[str, Any]:
    """config.json of a Llama of one layer."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
        "bos_token_id": 256,
        "eos_token_id": 257,
    } | changes


def shapes() -> dict[str, list[int]]:
    """The tensors that the configuration asks for."""
    layer = "model.layers.0."
    found = {"model.embed_tokens.weight": [VOCABULARY, WIDTH], "model.norm.weight": [WIDTH]}
    found |= {"lm_head.weight": [VOCABULARY, WIDTH]}
    found |= {f"{layer}{name}_layernorm.weight": [WIDTH] for name in ("input", "post_attention")}
    for name, rows, columns in (("q", 32, WIDTH), ("k", 16, WIDTH), ("v", 16, WIDTH), ("o", WIDTH, 32)):
        found[f"{layer}self_attn.{name}_proj.weight"] = [rows, columns]
    for name, rows, columns in (("gate", INNER, WIDTH), ("up", INNER, WIDTH), ("down", WIDTH, INNER)):
        found[f"{layer}mlp.{name}_proj.weight"] = [rows, columns]
    return found


def header(tensors: Mapping[str, list[int]] | None = None) -> dict[str, Any]:
    """The header of a file of BF16 tensors, one behind the other."""
    found: dict[str, Any] = {}
    end = 0
    for name, shape in (shapes() if tensors is None else tensors).items():
        start, size = end, 2
        for each in shape:
            size *= each
        end = start + size
        found[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    return found


def packed(table: Any, data: int | bytes | None = None, length: int | None = None) -> bytes:
    """A file with this header (an object, or its text), zeros for data (so many bytes, or as the header says)."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    if data is None:
        data = max((entry["data_offsets"][1] for entry in header().values()), default=0)
    body = data if isinstance(data, bytes) else bytes(data)
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tokenizer(**changes: Any) -> dict[str, Any]:
    """tokenizer.json: bytes, two control tokens, and one merge."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    vocabulary = {letters[byte]: byte for byte in range(256)} | {"<s>": 256, "</s>": 257, "ab": 258}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": t, "special": True, **flags} for t, i in (("<s>", 256), ("</s>", 257))],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            **{"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None},
            **{"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
            **{"vocab": vocabulary, "merges": ["a b"]},
        },
    } | changes


def good() -> Files:
    """All files of the folder."""
    return {
        CONFIG: json.dumps(config()).encode(),
        WEIGHTS: packed(header()),
        TOKENIZER: json.dumps(tokenizer()).encode(),
        "tokenizer_config.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>"}).encode(),
    }


def _weights() -> dict[str, Case]:
    def of(data: bytes, about: str = "") -> Case:
        return Case({WEIGHTS: data}, WEIGHTS, about)

    def entry(about: str = PLACE, data: int | None = None, **changes: Any) -> Case:
        table = header()
        table[PLACE] |= changes
        return of(packed(table, data), about)

    start, end = header()[PLACE]["data_offsets"]
    size = max(each["data_offsets"][1] for each in header().values())
    text = json.dumps(header()).encode()
    without = {name: shape for name, shape in shapes().items() if name != "model.norm.weight"}
    twice = text[:-1] + b',"model.norm.weight":' + json.dumps(header()["model.norm.weight"]).encode() + b"}"
    return {
        "weights_empty": of(b""),
        "weights_seven_bytes": of(b"\1" * 7, "header length"),
        "weights_length_all_ones": of(b"\xff" * 8 + text, "header length"),
        "weights_length_100_mb": of(struct.pack("<Q", 10**8) + text, "header length"),
        "weights_length_one_more": of(packed(text, b"", len(text) + 1), "header length"),
        "weights_length_0": of(packed(b"")),
        "weights_page": of(b"<!DOCTYPE html><html>" + bytes(900)),
        "weights_space_first": of(packed(b" " + text), "header"),
        "weights_not_utf8": of(packed(b'{"\xff":1}'), "header"),
        "weights_surrogate": of(packed(text.replace(b"model.norm", b"model.\xed\xa0\x80")), "header"),
        "weights_nan": of(packed(text.replace(b"[32]", b"[NaN]", 1)), "header"),
        "weights_deep": of(packed(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "header"),
        "weights_digits": of(packed(b'{"x":' + b"9" * 100_000 + b"}"), "header"),
        "weights_twice": of(packed(twice), "header"),
        "weights_trailing_bytes": of(packed(text, size + 1)),
        "weights_one_byte_short": of(packed(text, size - 1)),
        "weights_no_tensors": of(packed({}, 0)),
        "weights_list": of(packed(b"[]"), "header"),
        "weights_metadata_deep": of(packed({"__metadata__": {"a": {"b": "c"}}, **header()}), "__metadata__"),
        "weights_dtype_unknown": entry(dtype="F128"),
        "weights_dtype_object": entry(dtype={}),
        "weights_of_integers": entry(dtype="I16"),
        "weights_size_minus_1": entry(shape=[-1, WIDTH]),
        "weights_size_true": entry(shape=[True, WIDTH]),
        "weights_size_float": entry(shape=[32.0, WIDTH]),
        "weights_size_65_bits": entry(shape=[2**64 + 32, WIDTH]),
        "weights_product_wraps": entry(shape=[2**62, 4, 32, WIDTH]),
        "weights_nine_axes": entry(shape=[1] * 7 + [32, WIDTH]),
        "weights_no_axes": entry(shape=[]),
        "weights_offsets_reversed": entry(data_offsets=[end, start]),
        "weights_offsets_minus_1": entry(data_offsets=[-1, end]),
        "weights_offsets_64_bits": entry(data_offsets=[2**64 - 2, 2**64 - 1]),
        "weights_offsets_text": entry(data_offsets=[str(start), str(end)]),
        "weights_offset_later": entry(data_offsets=[start + 2, end + 2], about="weight"),
        "weights_overlap": entry(data_offsets=[0, end - start], about="weight"),
        "weights_transposed": of(packed(header({**shapes(), PLACE: [WIDTH, 33]}), size + 64), PLACE),
        "weights_missing": Case({WEIGHTS: packed(header(without), size - 64)}, "", "model.norm.weight"),
    }


def _index() -> dict[str, Case]:
    def of(weight_map: Any, about: str = "weight_map", **more: bytes) -> Case:
        data = weight_map if isinstance(weight_map, bytes) else json.dumps({"weight_map": weight_map}).encode()
        return Case({WEIGHTS: None, "part.safetensors": good()[WEIGHTS], INDEX: data, **more}, INDEX, about)

    def named(name: Any) -> Case:
        return of(dict.fromkeys(shapes(), "part.safetensors") | {PLACE: name})

    places = {
        "up": "../part.safetensors",
        "absolute": "/etc/part.safetensors",
        "windows": "C:\\part.safetensors",
        "backslash": "..\\part.safetensors",
        "inside_up": "a/../../part.safetensors",
        "nul": "part\0.safetensors",
        "url": "https://example.org/part.safetensors",
        "no_weights": "/etc/passwd",
        "empty": "",
        "number": 7,
        "list": ["part.safetensors"],
    }
    return {f"index_{name}": named(place) for name, place in places.items()} | {
        "index_map_list": of([]),
        "index_map_empty": of({}),
        "index_no_map": of(b"{}"),
        "index_deep": of(b'{"weight_map":' + b"[" * 100_000 + b"}", ""),
        "index_absent_tensor": of(dict.fromkeys([*shapes(), "no.such"], "part.safetensors"), "no.such"),
    }


def _config() -> dict[str, Case]:
    def of(about: str = "", **changes: Any) -> Case:
        return Case({CONFIG: json.dumps(config(**changes)).encode()}, CONFIG, about or next(iter(changes)))

    def text(data: bytes, about: str = "") -> Case:
        return Case({CONFIG: data}, CONFIG, about)

    whole = json.dumps(config()).encode()
    values: dict[str, Any] = {
        **{"true": True, "float": 31.5, "text": "32", "list": [32], "object": {"a": 1}, "minus": -32, "zero": 0},
        "huge": 2**63,
    }
    rope = {"nan_text": "NaN", "minus": -1.0, "list": [1.0], "huge": 10**400}
    return {
        **{f"config_width_{name}": of(hidden_size=value) for name, value in values.items()},
        **{f"config_theta_{name}": of(rope_theta=value) for name, value in rope.items()},
        "config_layers_huge": of(num_hidden_layers=2**31 - 1),
        "config_layers_true": of(num_hidden_layers=True),
        "config_heads_zero": of(num_attention_heads=0),
        "config_epsilon_nan": text(whole.replace(b"1e-05", b"NaN")),
        "config_epsilon_infinite": text(whole.replace(b"1e-05", b"1e999"), "rms_norm_eps"),
        "config_list": text(b"[]"),
        "config_empty": text(b""),
        "config_cut": text(whole[:-3]),
        "config_twice": text(whole[:-1] + b',"hidden_size":64}'),
        "config_digits": text(b'{"hidden_size": ' + b"9" * 6000 + b"}"),
        "config_deep": text(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "config_not_utf8": text(whole.replace(b"silu", b"si\xff\xff")),
        "config_pointer": text(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"),
        "config_class_number": of(architectures=[7]),
        "config_class_unknown": of("architectures", architectures=["../../EvilForCausalLM"], model_type="evil"),
        "config_rope_text": of("rope", rope_scaling="linear"),
        "config_rope_unknown": of("rope", rope_scaling={"rope_type": "spiral", "factor": 2.0}),
        "config_rope_factor_text": of("rope", rope_scaling={"rope_type": "linear", "factor": "2"}),
        "config_code": of(auto_map={"AutoModel": "evil.py--Evil"}, hidden_act="__import__('os')", about="hidden_act"),
        "config_quantized_list": of(quantization_config=[1]),
    }


def _tokenizer() -> dict[str, Case]:
    def of(document: Any, about: str = "") -> Case:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return Case({TOKENIZER: data}, TOKENIZER, about)

    def model(about: str, **changes: Any) -> Case:
        return of(tokenizer(model=tokenizer()["model"] | changes), about)

    def added(**changes: Any) -> Case:
        return of(tokenizer(added_tokens=[tokenizer()["added_tokens"][0] | changes]), "added_tokens")

    def cut(pattern: Any) -> Case:
        return of(
            tokenizer(pre_tokenizer={"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
        )

    def tolerated(case: Case) -> Case:
        return replace(case, tolerated=True)

    vocabulary = tokenizer()["model"]["vocab"]
    return {
        "tokenizer_empty": of(b""),
        "tokenizer_list": of([]),
        "tokenizer_deep": of(b'{"model":' + b"[" * 100_000 + b"}"),
        "tokenizer_no_model": of({"version": "1.0"}),
        "tokenizer_kind_unknown": model("", type="Telepathy"),
        "tokenizer_vocabulary_list": model("vocab", vocab=["a", "b"]),
        "tokenizer_vocabulary_empty": tolerated(model("", vocab={})),
        "tokenizer_id_minus_1": model("", vocab={**vocabulary, "ab": -1}),
        "tokenizer_id_huge": model("", vocab={**vocabulary, "ab": 2**40}),
        "tokenizer_id_text": model("", vocab={**vocabulary, "ab": "258"}),
        "tokenizer_id_true": model("", vocab={**vocabulary, "ab": True}),
        "tokenizer_id_float": model("", vocab={**vocabulary, "ab": 258.0}),
        "tokenizer_id_shared": model("", vocab={**vocabulary, "ab": 97}),
        "tokenizer_merges_object": model("merges", merges={"a": "b"}),
        "tokenizer_merge_number": model("merges", merges=[1]),
        "tokenizer_merge_of_three": model("merges", merges=["a b c"]),
        "tokenizer_merge_of_nothing": tolerated(model("merges", merges=["q q"])),
        "tokenizer_merge_of_itself": tolerated(model("merges", merges=[["ab", "ab"]])),
        "tokenizer_added_id_huge": tolerated(added(id=2**62)),
        "tokenizer_added_id_minus": added(id=-3),
        "tokenizer_added_number": added(content=7),
        "tokenizer_added_list": of(tokenizer(added_tokens={})),
        "tokenizer_pattern_bomb": cut({"Regex": "(a+)+$" * 200}),
        "tokenizer_pattern_number": cut({"Regex": 7}),
        "tokenizer_pattern_broken": cut({"Regex": "(" * 5000}),
        "tokenizer_normalizers_deep": tolerated(of(tokenizer(normalizer=_nested(200)))),
        "tokenizer_surrogate": of(json.dumps(tokenizer()).encode().replace(b'"ab": 258', b'"\\ud800": 258')),
    }


def _nested(depth: int) -> Any:
    made: Any = {"type": "NFC"}
    for _ in range(depth):
        made = {"type": "Sequence", "normalizers": [made]}
    return made


def _beside() -> dict[str, Case]:
    """Adapters, importance, and cards, which only lose what they say."""

    def adapter(about: str, data: bytes | None = None, **settings: Any) -> Case:
        prefix = f"base_model.model.{PLACE.removesuffix('.weight')}"
        names = {f"{prefix}.lora_A.weight": [4, WIDTH], f"{prefix}.lora_B.weight": [32, 4]}
        said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | settings
        weights = packed(header(names), 512) if data is None else data
        return Case({ADAPTER: weights, ADAPTER_CONFIG: json.dumps(said).encode()}, "adapter_", about)

    def card(text: str) -> Case:
        return Case({"README.md": f"---\n{text}\n---\n".encode()}, "README.md", tolerated=True)

    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    )
    return {
        "adapter_rank_text": adapter("r", r="4"),
        "adapter_rank_other": adapter("", r=8),
        "adapter_alpha_nan": adapter("lora_alpha", lora_alpha=-1),
        "adapter_alpha_huge": adapter("lora_alpha", lora_alpha=10**400),
        "adapter_pattern_bomb": adapter("alpha_pattern", alpha_pattern={"(.*)*(.*)*!": 8}),
        "adapter_pattern_list": adapter("rank_pattern", rank_pattern=[8]),
        "adapter_kind_unknown": adapter("another kind", peft_type="../../x"),
        "adapter_empty": adapter("", data=b""),
        "card_laughs": card(f"license: mit\ntags: [x]\n{laughs}"),
        "card_laughs_in_tags": card("tags:\n" + "\n".join("  " + line for line in laughs.splitlines())),
        "card_object": card("license: !!python/object/apply:os.system ['touch OWNED']"),
        "card_deep": card("tags: " + "[" * 20_000),
        "card_long": card("tags: [" + "x, " * 100_000 + "x]"),
        "card_not_yaml": card("tags: [unclosed\nlicense: {"),
    }


CASES: dict[str, Case] = {**_weights(), **_index(), **_config(), **_tokenizer(), **_beside()}


def files(name: str) -> Files:
    """The folder of a case."""
    made: dict[str, bytes | None] = {**good(), **CASES[name].changes}
    return {path: data for path, data in made.items() if data is not None}


def write(name: str | None, folder: Path) -> tuple[Path, list[Path]]:
    """Write the folder of a case (None: the good one), and the adapter that it is to be merged with, if it has one."""
    source, adapter = folder / "model", folder / "adapter"
    changes = CASES[name].changes if name else {}
    beside = ADAPTER in changes
    made = good() if beside or not name else files(name)
    for place, contents in ((source, made), (adapter, changes if beside else {})):
        for path, data in contents.items():
            place.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(data or b"")
    return source, [adapter] if beside else []
