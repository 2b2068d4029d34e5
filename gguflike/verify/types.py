"""Whether the keys that llama.cpp reads of any model are of the types that it reads: it refuses a file with others.

What is read here is what a value means, whatever type a number has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gguflike.container import ValueType
from gguflike.container.values import INTEGERS

if TYPE_CHECKING:
    from gguflike.container import GGUFFile

_SIZES = "context_length|embedding_length|block_count|vocab_size|feed_forward_length|expert_(used_|group_)?count"
_HEADS = (
    r"attention\.(head_count(_kv)?|key_length|value_length)|rope\.(dimension_count|scaling\.original_context_length)"
)
_NUMBERS = r"attention\.layer_norm_rms_epsilon|rope\.(freq_base|scale_linear|scaling\.(factor|attn_factor))"
_IDS = r"(bos|eos|eot|eom|unknown|seperator|padding|mask|fim_\w+)_token_id|token_type_count"
_ADDS = "add_(bos|eos|sep)_token|add_space_prefix|remove_extra_whitespaces"
#: Keys, "*" for the architecture, and their type.
_READ: tuple[tuple[str, ValueType], ...] = (
    (rf"general\.file_type|\*\.({_SIZES}|{_HEADS}|nextn_predict_layers|pooling_type)", ValueType.UINT32),
    (rf"tokenizer\.ggml\.({_IDS})", ValueType.UINT32),
    (r"split\.count", ValueType.UINT16),
    (rf"\*\.({_NUMBERS})", ValueType.FLOAT32),
    (rf"\*\.(attention\.causal|rope\.scaling\.finetuned)|tokenizer\.ggml\.({_ADDS})", ValueType.BOOL),
    (r"general\.name|\*\.rope\.scaling\.type|tokenizer\.ggml\.(model|pre)", ValueType.STRING),
)
_TABLE = tuple((re.compile(pattern), kind) for pattern, kind in _READ)
#: What may be an array of a value for each layer, and of which numbers.
_LAYERED = re.compile(r"\*\.(feed_forward_length|attention\.head_count(_kv)?)")
_LISTED = (ValueType.UINT32, ValueType.INT32)
REQUIRED = "context_length"  # by llama.cpp, of all architectures, and not here


def refused(file: GGUFFile) -> Iterator[tuple[str, str]]:
    """Keys of a model for which llama.cpp refuses the file, and why."""
    metadata, own = file.metadata, f"{file.architecture}."
    if own + REQUIRED not in metadata and f"{own}embedding_length" in metadata:  # else it is no whole model
        yield own + REQUIRED, "is missing, and llama.cpp refuses a model without it"
    for key in metadata:
        name = f"*.{key.removeprefix(own)}" if key.startswith(own) else key
        wanted = next((kind for pattern, kind in _TABLE if pattern.fullmatch(name)), None)
        found = metadata.type_of(key)
        if wanted is None or found is wanted:
            continue
        if found is ValueType.ARRAY and _LAYERED.fullmatch(name):
            yield from ((key, why) for why in _odd_list(file, key))
        elif name != "*.block_count" or found in INTEGERS:  # which M-010 says
            yield key, f"is of type {found.name}: llama.cpp reads {wanted.name}, and refuses the file"


def _odd_list(file: GGUFFile, key: str) -> Iterator[str]:
    """What is wrong with an array of values for each layer."""
    item, count = file.metadata.item_type_of(key), file.metadata.count_of(key)
    layers = file.metadata.get(f"{file.architecture}.block_count")
    if item not in _LISTED:
        yield f"has values of {item.name if item else '?'}: llama.cpp reads UINT32 or INT32, and refuses the file"
    elif isinstance(layers, int) and count != layers:
        yield f"has {count} values for {layers} layers, for which llama.cpp refuses the file"
