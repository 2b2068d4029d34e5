"""Seeds of scripts/fuzz.py, and the ways in which it changes them: each knows a format, or bytes alone.

A GGUF file is kept as its records, so that a mutation can change one number and leave the rest of the file right:
what is wrong everywhere is refused at its first byte. JSON is kept as text with places found in it. A mutation is a
function of ``(value, chance)``; MUTATIONS has all of them by name.
"""

from __future__ import annotations

import copy
import json
import marshal
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    STRING,
    U8,
    U16,
    U32,
    U64,
    array,
    array_of_numbers,
    array_of_strings,
    build,
    kv,
    scalar,
    string,
    tensor,
)

#: Numbers at which readers stumble.
NUMBERS = (
    *(0, 1, 2, 3, 7, 13, 31, 32, 33, 63, 64, 127, 128, 255, 256, 4096, 65535, 2**16, 2**24, 2**31 - 1, 2**31),
    *(2**32 - 1, 2**32, 2**32 + 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 33, 2**64 - 32, 2**64 - 2, 2**64 - 1),
)
TYPES = (*range(45), 97, 98, 137, 140, 255, 2**31, 2**32 - 1)
TEXTS = (
    *("", "x", "\0", "a\0b", "\ufeff", "../../etc/passwd", "/etc/passwd", "C:\\x", "blk.0.attn_q.weight", "<0x-1>"),
    *("<0x00>", "é" * 40, "x" * 63, "x" * 64, "x" * 127, "x" * 128, "x" * 70000, "\u202e", "nan", "-1", "1e999"),
)
MOST_TEXT = 50_000  # characters of what is repeated
MOST_DOCUMENT = 500_000  # of a whole document
BYTES = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98")


# --- GGUF ---


@dataclass
class Gguf:
    """A file by its records: metadata as (key, type, payload), tensors as (name, dims, type, offset)."""

    kvs: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    tensors: list[tuple[bytes, list[int], int, int]] = field(default_factory=list)
    data: bytes = b""
    version: int = 3
    magic: bytes = b"GGUF"
    n_tensors: int | None = None
    n_kv: int | None = None
    order: str = "<"

    def copy(self) -> Gguf:
        return replace(self, kvs=list(self.kvs), tensors=[(n, list(d), k, o) for n, d, k, o in self.tensors])

    def encoded(self) -> bytes:
        order = self.order
        kvs = [kv(key, kind, payload, order) for key, kind, payload in self.kvs]
        tensors = [tensor(name, dims, kind, offset, order=order) for name, dims, kind, offset in self.tensors]
        return build(
            kvs,
            tensors,
            self.data,
            magic=self.magic,
            version=self.version,
            n_tensors=self.n_tensors,
            n_kv=self.n_kv,
            order=order,
        )


def model(order: str = "<") -> Gguf:
    """A model of architecture llama with one layer and a vocabulary of 32 tokens."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(13)), *"abcdefghijklmno", "ab"]
    sizes = {
        **{"block_count": 1, "context_length": 32, "embedding_length": 32, "feed_forward_length": 32},
        **{"attention.head_count": 1, "attention.head_count_kv": 1, "rope.dimension_count": 32, "vocab_size": 32},
    }
    kvs = [
        ("general.architecture", STRING, string("llama", order=order)),
        ("general.alignment", U32, scalar(U32, 32, order)),
        ("general.file_type", U32, scalar(U32, 7, order)),
        *((f"llama.{name}", U32, scalar(U32, value, order)) for name, value in sizes.items()),
        ("llama.attention.layer_norm_rms_epsilon", F32, scalar(F32, 1e-5, order)),
        ("llama.rope.freq_base", F32, scalar(F32, 10000.0, order)),
        ("tokenizer.ggml.model", STRING, string("llama", order=order)),
        ("tokenizer.ggml.tokens", ARRAY, array_of_strings(words, order)),
        ("tokenizer.ggml.scores", ARRAY, array_of_numbers(F32, [-float(i) for i in range(32)], order)),
        ("tokenizer.ggml.token_type", ARRAY, array_of_numbers(I32, [2, 3, 3, *[6] * 13, *[1] * 16], order)),
        ("tokenizer.ggml.bos_token_id", U32, scalar(U32, 1, order)),
        ("tokenizer.ggml.eos_token_id", U32, scalar(U32, 2, order)),
        ("tokenizer.ggml.add_bos_token", BOOL, scalar(BOOL, 1, order)),
        ("tokenizer.chat_template", STRING, string("{{ messages[0].content }}", order=order)),
    ]
    names: list[tuple[str, list[int], int, int]] = [("token_embd.weight", [32, 32], 8, 1088)]
    names += [(f"blk.0.{name}.weight", [32, 32], 8, 1088) for name in ("attn_q", "attn_k", "attn_v", "attn_output")]
    names += [(f"blk.0.{name}.weight", [32, 32], 8, 1088) for name in ("ffn_gate", "ffn_up", "ffn_down")]
    names += [("blk.0.attn_norm.weight", [32], 0, 128), ("blk.0.ffn_norm.weight", [32], 0, 128)]
    names += [("output_norm.weight", [32], 0, 128)]
    tensors, offset = [], 0
    for name, dims, kind, nbytes in names:
        tensors.append((name.encode(), dims, kind, offset))
        offset += nbytes
    return Gguf([(key.encode(), kind, payload) for key, kind, payload in kvs], tensors, bytes(offset), order=order)


def small(order: str = "<") -> Gguf:
    """One of everything: each kind of value, tensors of several types."""
    kinds = (U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64)
    kvs = [(f"k{kind}".encode(), kind, scalar(kind, 1, order)) for kind in kinds]
    kvs += [(f"a{kind}".encode(), ARRAY, array_of_numbers(kind, [0, 1, 1], order)) for kind in kinds]
    kvs += [
        (b"general.architecture", STRING, string("x", order=order)),
        (b"s", ARRAY, array_of_strings(["a", "", "é"], order)),
    ]
    tensors = [(b"q8", [32, 2], 8, 0), (b"f", [3], 0, 96), (b"h", [], 1, 128), (b"q4k", [256], 12, 160)]
    return Gguf(kvs, tensors, bytes(304), order=order)


def shard(number: int, count: int = 2, total: int = 2) -> Gguf:
    """One of several files of a model."""
    kvs = [(b"split.no", U16, scalar(U16, number)), (b"split.count", U16, scalar(U16, count))]
    kvs += [(b"split.tensors.count", I32, scalar(I32, total))]
    kvs += [(b"general.architecture", STRING, string("llama"))] if number == 0 else []
    return Gguf(kvs, [(f"t{number}".encode(), [8], 0, 0)], bytes(32))


def imatrix() -> Gguf:
    """Importance of one tensor, as llama-imatrix writes it."""
    kvs = [(b"general.type", STRING, string("imatrix")), (b"imatrix.datasets", ARRAY, array_of_strings(["x"]))]
    kvs += [(b"imatrix.chunk_count", U32, scalar(U32, 1)), (b"imatrix.chunk_size", U32, scalar(U32, 512))]
    tensors = [(b"blk.0.attn_q.weight.in_sum2", [8, 1], 0, 0), (b"blk.0.attn_q.weight.counts", [1, 1], 0, 32)]
    return Gguf(kvs, tensors, struct.pack("<9f", *range(1, 10)) + bytes(28))


Chance = random.Random
OfGguf = Callable[[Gguf, Chance], None]


def _key(file: Gguf, chance: Chance) -> int:
    return chance.randrange(len(file.kvs))


def _tensor(file: Gguf, chance: Chance) -> int:
    return chance.randrange(len(file.tensors))


def version(file: Gguf, chance: Chance) -> None:
    file.version = chance.choice((0, 1, 2, 4, 2**24, 3 << 24, 2**32 - 1))


def magic(file: Gguf, chance: Chance) -> None:
    file.magic = chance.choice((b"FUGG", b"ggml", b"GGUF"[::-1], b"\0\0\0\0", b"PK\3\4", b"GGU"))


def byte_order(file: Gguf, chance: Chance) -> None:
    file.order = chance.choice("<>")


def tensor_count(file: Gguf, chance: Chance) -> None:
    file.n_tensors = chance.choice((len(file.tensors) + chance.choice((-1, 1)) & (2**64 - 1), chance.choice(NUMBERS)))


def metadata_count(file: Gguf, chance: Chance) -> None:
    file.n_kv = chance.choice((len(file.kvs) + chance.choice((-1, 1)) & (2**64 - 1), chance.choice(NUMBERS)))


def value_type(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    key, _, payload = file.kvs[at]
    file.kvs[at] = key, chance.choice((*range(15), 255, 2**32 - 1)), payload


def value_number(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    key, kind, payload = file.kvs[at]
    file.kvs[at] = key, kind, _number(chance, len(payload)) if kind not in (STRING, ARRAY) else payload


def value_float(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    key, _, _ = file.kvs[at]
    value = chance.choice((float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e38, 1e-45))
    file.kvs[at] = key, F32, scalar(F32, value, file.order)


def value_of_another_key(file: Gguf, chance: Chance) -> None:
    at, other = _key(file, chance), _key(file, chance)
    file.kvs[at] = file.kvs[at][0], *file.kvs[other][1:]


def value_text(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    file.kvs[at] = file.kvs[at][0], STRING, string(chance.choice((*TEXTS, *BYTES)), order=file.order)


def string_length(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    key, kind, payload = file.kvs[at]
    file.kvs[at] = key, kind, struct.pack(file.order + "Q", chance.choice(NUMBERS)) + payload[8:]


def array_count(file: Gguf, chance: Chance) -> None:
    at = _array(file, chance)
    key, kind, payload = file.kvs[at]
    file.kvs[at] = key, kind, payload[:4] + struct.pack(file.order + "Q", chance.choice(NUMBERS)) + payload[12:]


def array_type(file: Gguf, chance: Chance) -> None:
    at = _array(file, chance)
    key, kind, payload = file.kvs[at]
    file.kvs[at] = key, kind, struct.pack(file.order + "I", chance.choice((*range(15), 2**32 - 1))) + payload[4:]


def array_item(file: Gguf, chance: Chance) -> None:
    at = _array(file, chance)
    key, kind, payload = file.kvs[at]
    size = chance.choice((1, 2, 4, 8))
    place = chance.randrange(12, max(len(payload) - size, 13))
    file.kvs[at] = key, kind, payload[:place] + _number(chance, size) + payload[place + size :]


def array_one_more_or_less(file: Gguf, chance: Chance) -> None:
    at = _array(file, chance)
    key, kind, payload = file.kvs[at]
    count = struct.unpack(file.order + "Q", payload[4:12])[0] + chance.choice((-1, 1)) & (2**64 - 1)
    file.kvs[at] = key, kind, payload[:4] + struct.pack(file.order + "Q", count) + payload[12:]


def array_nested(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    depth = chance.choice((1, 2, 100, 5000))
    inner = array_of_numbers(U8, [1], file.order)
    file.kvs[at] = file.kvs[at][0], ARRAY, array(ARRAY, 1, b"", file.order) * depth + inner


def array_empty(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    kind = chance.choice((U8, STRING, F32, ARRAY, 99))
    file.kvs[at] = file.kvs[at][0], ARRAY, array(kind, 0, b"", file.order)


def array_of_texts(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    items = [chance.choice(TEXTS) for _ in range(chance.randrange(40))]
    file.kvs[at] = file.kvs[at][0], ARRAY, array_of_strings(items, file.order)


def key_text(file: Gguf, chance: Chance) -> None:
    at = _key(file, chance)
    new = chance.choice((*(text.encode() for text in TEXTS), *BYTES))
    file.kvs[at] = new, *file.kvs[at][1:]


def key_twice(file: Gguf, chance: Chance) -> None:
    file.kvs.insert(_key(file, chance), file.kvs[_key(file, chance)])


def key_gone(file: Gguf, chance: Chance) -> None:
    del file.kvs[_key(file, chance)]


def keys_in_another_order(file: Gguf, chance: Chance) -> None:
    chance.shuffle(file.kvs)


def known_key(file: Gguf, chance: Chance) -> None:
    """A key that some reader looks for, with a value that it may not expect."""
    names = (
        *("general.alignment", "general.architecture", "general.type", "general.quantization_version", "split.no"),
        *("split.count", "split.tensors.count", "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.merges"),
        *("tokenizer.ggml.bos_token_id", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.precompiled_charsmap"),
        *("tokenizer.chat_template", "tokenizer.chat_templates", "gguflike.digest.header", "gguflike.digest.tensors"),
        *("gguflike.quality.text", "gguflike.activations.names", "gguflike.signature", "adapter.type"),
        *("llama.block_count", "llama.expert_count", "llama.rope.scaling.type", "llama.attention.key_length"),
    )
    kind, payload = chance.choice(file.kvs)[1:] if file.kvs else (U8, b"\0")
    file.kvs.append((chance.choice(names).encode(), kind, payload))


def dimension(file: Gguf, chance: Chance) -> None:
    at = _tensor(file, chance)
    dims = file.tensors[at][1]
    if dims:
        dims[chance.randrange(len(dims))] = chance.choice((*NUMBERS, 31, 33, 64))


def dimensions_count(file: Gguf, chance: Chance) -> None:
    at = _tensor(file, chance)
    name, dims, kind, offset = file.tensors[at]
    count = chance.choice((0, 1, 2, 3, 4, 5, 8, 100))
    file.tensors[at] = name, (dims + [1] * 100)[:count], kind, offset


def tensor_type(file: Gguf, chance: Chance) -> None:
    at = _tensor(file, chance)
    name, dims, _, offset = file.tensors[at]
    file.tensors[at] = name, dims, chance.choice(TYPES), offset


def tensor_offset(file: Gguf, chance: Chance) -> None:
    at = _tensor(file, chance)
    name, dims, kind, offset = file.tensors[at]
    new = chance.choice((*NUMBERS, offset + 1, offset + 32, max(offset - 32, 0), len(file.data), len(file.data) - 32))
    file.tensors[at] = name, dims, kind, new & (2**64 - 1)


def tensor_name(file: Gguf, chance: Chance) -> None:
    at = _tensor(file, chance)
    file.tensors[at] = chance.choice((*(text.encode() for text in TEXTS), *BYTES)), *file.tensors[at][1:]


def tensor_twice(file: Gguf, chance: Chance) -> None:
    file.tensors.insert(_tensor(file, chance), file.tensors[_tensor(file, chance)])


def tensor_gone(file: Gguf, chance: Chance) -> None:
    del file.tensors[_tensor(file, chance)]


def tensors_in_another_order(file: Gguf, chance: Chance) -> None:
    chance.shuffle(file.tensors)


def tensors_swapped(file: Gguf, chance: Chance) -> None:
    a, b = _tensor(file, chance), _tensor(file, chance)
    first, second = file.tensors[a], file.tensors[b]
    file.tensors[a], file.tensors[b] = (first[0], *second[1:]), (second[0], *first[1:])


def few_tensors(file: Gguf, chance: Chance) -> None:
    file.tensors = file.tensors[: chance.randrange(2)]


def data_cut(file: Gguf, chance: Chance) -> None:
    file.data = file.data[: chance.choice((0, 1, len(file.data) - 1, chance.randrange(len(file.data) + 1)))]


def data_longer(file: Gguf, chance: Chance) -> None:
    file.data += bytes(chance.choice((1, 31, 32, 4096)))


def data_values(file: Gguf, chance: Chance) -> None:
    data = bytearray(file.data)
    for _ in range(chance.randrange(1, 8)):
        if data:
            data[chance.randrange(len(data))] = chance.choice((0x7F, 0x80, 0xFF, 0x7C, 0xFC))
    file.data = bytes(data)


def alignment(file: Gguf, chance: Chance) -> None:
    value = chance.choice((0, 1, 2, 4, 8, 13, 31, 64, 4096, 2**20, 2**31, 2**32 - 1))
    file.kvs.append((b"general.alignment", U32, scalar(U32, value, file.order)))


def _array(file: Gguf, chance: Chance) -> int:
    """The place of an array; where there is none, one is made of any value."""
    arrays = [at for at, (_, kind, payload) in enumerate(file.kvs) if kind == ARRAY and len(payload) > 12]
    if arrays:
        return chance.choice(arrays)
    at = _key(file, chance)
    file.kvs[at] = file.kvs[at][0], ARRAY, array_of_numbers(U8, [1, 2, 3], file.order)
    return at


def _number(chance: Chance, size: int) -> bytes:
    value = chance.choice(NUMBERS) & ((1 << 8 * size) - 1) if size else 0
    return value.to_bytes(size, chance.choice(("little", "big")))


GGUF: tuple[OfGguf, ...] = (
    *(version, magic, byte_order, tensor_count, metadata_count, value_type, value_number, value_float),
    *(value_of_another_key, value_text, string_length, array_count, array_type, array_item, array_one_more_or_less),
    *(array_nested, array_empty, array_of_texts, key_text, key_twice, key_gone, keys_in_another_order, known_key),
    *(dimension, dimensions_count, tensor_type, tensor_offset, tensor_name, tensor_twice, tensor_gone),
    *(tensors_in_another_order, tensors_swapped, few_tensors, data_cut, data_longer, data_values, alignment),
)


def mutated_gguf(seed: Gguf, chance: Chance) -> bytes:
    """A file with one to four things changed, and now and then bytes of what that makes."""
    file = seed.copy()
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        mutation = chance.choice(GGUF)
        if (file.kvs or mutation in _OF_NO_RECORD) and (file.tensors or mutation in _OF_NO_RECORD):
            mutation(file, chance)
    data = file.encoded()
    return mutated_bytes(data, chance) if chance.random() < 0.1 else data


_OF_NO_RECORD = {version, magic, byte_order, tensor_count, metadata_count, data_longer, alignment, known_key}


# --- bytes ---

OfBytes = Callable[[bytearray, Chance], None]


def bit(data: bytearray, chance: Chance) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def byte(data: bytearray, chance: Chance) -> None:
    data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5C, 0x7B, 0x0A))


def number(data: bytearray, chance: Chance) -> None:
    size = chance.choice((1, 2, 4, 8))
    at = chance.randrange(len(data))
    data[at : at + size] = _number(chance, size)


def inserted(data: bytearray, chance: Chance) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.choice((b"\0", b"\xff" * 8, b"[" * 2000, b'{"a":' * 2000, b"\n", b'"', b"\\u0000", b"-"))


def removed(data: bytearray, chance: Chance) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 2, 4, 8, 64))]


def doubled(data: bytearray, chance: Chance) -> None:
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.choice((1, 4, 8, 64, 512))]


def moved(data: bytearray, chance: Chance) -> None:
    a, b = sorted(chance.randrange(len(data)) for _ in range(2))
    piece = data[a : a + 16]
    del data[a : a + 16]
    data[b:b] = piece


def cut(data: bytearray, chance: Chance) -> None:
    del data[chance.randrange(len(data)) :]


def blank(data: bytearray, chance: Chance) -> None:
    at = chance.randrange(len(data))
    piece = data[at : at + chance.choice((4, 8, 64))]
    data[at : at + len(piece)] = chance.choice((b"\0", b"\xff", b" ")) * len(piece)


OF_BYTES: tuple[OfBytes, ...] = (bit, byte, number, inserted, removed, doubled, moved, cut, blank)


def mutated_bytes(seed: bytes, chance: Chance) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if data:
            chance.choice(OF_BYTES)(data, chance)
    return bytes(data)


# --- JSON ---

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, 2**31, 2**63, 2**64, 10**40, "", "x", [], {}, [[]], [None]),
    *({"": ""}, [1, 2, 3], ["a", "b"], {"type": "x"}, {"type": None}, "\ud800", "\0", "../x", "a" * 5000),
)
_RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-", "01", "1.", "'x'", "tru", "\u00a0", "9" * 5000, "/**/", "0x10")
OfJson = Callable[[Any, Chance], Any]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of the values in a document, to a depth of 30."""
    found = [at]
    if len(at) == 30:
        return found
    within: Any = value.items() if isinstance(value, dict) else enumerate(value[:50]) if isinstance(value, list) else ()
    for key, item in within:
        if isinstance(item, dict | list):
            found += places(item, (*at, key))
        else:
            found.append((*at, key))
    return found


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def _any(document: Any, chance: Chance) -> tuple[Any, Any]:
    """A container, and the key of a value in it."""
    path = chance.choice(places(document)[1:] or [()])
    return (_at(document, path[:-1]), path[-1]) if path else ({}, None)


def _value(chance: Chance) -> Any:
    """One of VALUES, as an object of its own, which may be changed further."""
    return copy.deepcopy(chance.choice(VALUES))


def value_replaced(document: Any, chance: Chance) -> None:
    within, key = _any(document, chance)
    within[key] = _value(chance)


def value_wrapped(document: Any, chance: Chance) -> None:
    within, key = _any(document, chance)
    within[key] = chance.choice(([within.get(key) if isinstance(within, dict) else within[key]], {"x": 1}))


def value_scaled(document: Any, chance: Chance) -> None:
    numbers_ = [path for path in places(document) if path and type(_at(document, path)) in (int, float)]
    if numbers_:
        path = chance.choice(numbers_)
        within = _at(document, path[:-1])
        within[path[-1]] = chance.choice((-within[path[-1]], within[path[-1]] + 1, within[path[-1]] * 10**9, 0.5))


def member_removed(document: Any, chance: Chance) -> None:
    within, key = _any(document, chance)
    if key is not None:
        del within[key]


def member_renamed(document: Any, chance: Chance) -> None:
    within, key = _any(document, chance)
    if isinstance(within, dict) and key is not None:
        within[chance.choice((key.upper(), key + "x", "", key[:-1], "__proto__"))] = within.pop(key)


def member_added(document: Any, chance: Chance) -> None:
    within, _ = _any(document, chance)
    if isinstance(within, dict):
        within[chance.choice(TEXTS[:-2])] = _value(chance)
    else:
        within.append(_value(chance))


def member_of_another(document: Any, chance: Chance) -> None:
    within, key = _any(document, chance)
    other, name = _any(document, chance)
    if key is not None and name is not None:
        within[key] = json.loads(json.dumps(other[name]))


def items_many(document: Any, chance: Chance) -> None:
    lists = [path for path in places(document) if isinstance(_at(document, path), list)]
    if lists:
        found = _at(document, chance.choice(lists))
        most = MOST_TEXT // max(len(json.dumps(found)), 1)
        times = min(chance.choice((2, 100, 1000 // max(len(found), 1) + 1)), most)
        found[:] = json.loads(json.dumps((found or [0]) * times))  # copies, which are changed each by itself


def nested_deeply(document: Any, chance: Chance) -> None:
    within, key = _any(document, chance)
    made: Any = 1
    for _ in range(chance.choice((10, 200))):
        made = [made] if chance.random() < 0.5 else {"a": made}
    within[key] = made


JSON: tuple[Callable[[Any, Chance], None], ...] = (
    *(value_replaced, value_wrapped, value_scaled, member_removed, member_renamed, member_added, member_of_another),
    *(items_many, nested_deeply),
)


def name_twice(text: str, chance: Chance) -> str:
    """A member of an object again, with another value."""
    at = text.find('":', chance.randrange(len(text)))
    start = text.rfind('"', 0, at)
    return text if at < 0 or start < 0 else f'{text[:start]}{text[start:at]}":0,{text[start:]}'


def raw_value(text: str, chance: Chance) -> str:
    """What is no JSON where a value belongs."""
    at = text.find(":", chance.randrange(len(text)))
    return text if at < 0 else f"{text[: at + 1]}{chance.choice(_RAW)}{text[at + 2 :]}"


def trailing(text: str, chance: Chance) -> str:
    return text + chance.choice((" ", "\n", "{}", "\0", ",", "]"))


def leading(text: str, chance: Chance) -> str:
    return chance.choice(("\ufeff", " ", "\n", "//\n", ")]}'")) + text


OF_TEXT: tuple[Callable[[str, Chance], str], ...] = (name_twice, raw_value, trailing, leading)


def mutated_json(seed: Any, chance: Chance) -> bytes:
    """A document with one to four things changed, or its text."""
    document = marshal.loads(marshal.dumps(seed))  # a copy, in a third of the time of others
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        if isinstance(document, dict | list):
            chance.choice(JSON)(document, chance)
    text = json.dumps(document)[:MOST_DOCUMENT]
    if text and chance.random() < 0.15:
        text = chance.choice(OF_TEXT)(text, chance)
    data = text.encode("utf-8", "surrogatepass")
    return mutated_bytes(data, chance) if chance.random() < 0.1 else data


# --- templates ---

_PIECES = (
    *("{{ messages }}", "{{ messages[0] }}", "{{ messages[99].content }}", "{{ x.__class__ }}", "{{ 'a' * 9 }}", "{{"),
    *("{% for m in messages %}", "{% endfor %}", "{% if x %}", "{% endif %}", "{% set x = 1 %}", "{% macro f() %}"),
    *("{% endmacro %}", "{{ f() }}", "{{ messages | tojson }}", "{{ messages | length }}", "{{ 1 / 0 }}", "{#", "#}"),
    *("{{ raise_exception('x') }}", "{{ strftime_now('%Y') }}", "{% generation %}", "{% break %}"),
    *("{{ messages | map(attribute='content') | list }}", "{{ ''.join(['a']) }}", "{{ range(9) | sum }}", "%}", "}}"),
    *("{% include 'x' %}", "{% import 'os' as o %}", "{{ cycler.__init__ }}", "{{ namespace(a=1).a }}"),
)


def mutated_template(seed: str, chance: Chance) -> bytes:
    """Pieces put together, removed and repeated."""
    text = seed
    for _ in range(chance.choice((1, 2, 4))):
        at = chance.randrange(len(text) + 1)
        kind = chance.randrange(3)
        if kind == 0:
            text = text[:at] + chance.choice(_PIECES) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + chance.randrange(1, 12) :]
        else:
            text = text[:at] + text[max(at - 20, 0) : at] * 2 + text[at:]
    return text.encode("utf-8", "surrogatepass")


MUTATIONS: dict[str, object] = {
    **{f"gguf {each.__name__}": each for each in GGUF},
    **{f"bytes {each.__name__}": each for each in OF_BYTES},
    **{f"json {each.__name__}": each for each in JSON},
    **{f"text {each.__name__}": each for each in OF_TEXT},
    "template pieces": mutated_template,
}
