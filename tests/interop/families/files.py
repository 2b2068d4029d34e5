"""Two GGUF files of one checkpoint, ours and llama.cpp's converter's, compared as the gguf package reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tests.interop.families.row import Row
from tests.tiny import gguf_fields, gguf_tensors

SCORES = "tokenizer.ggml.scores"
Kind = Literal["only ours", "missing", "missing none", "rounding", "other"]


class Difference(NamedTuple):
    """A key or tensor that only one file has, or that is another in it ("missing none": theirs says "none";
    "rounding": in the last places only)."""

    name: str
    kind: Kind
    said: str


class Deliberate(NamedTuple):
    """A difference that we want: patterns of architectures and of keys or tensors, what kind it is, and why."""

    architecture: str
    name: str
    kind: Kind
    reason: str


#: Differences that we want, with the reasons that spec/families.md gives.
DELIBERATE = (
    Deliberate("llama4", r"llama4\.attention\.sliding_window", "only ours", "llama.cpp knows stretches of 8192 only"),
    Deliberate("ernie4_5-moe", r"blk\.\d+\.exp_probs_b\.bias", "other", "a vector, as in other architectures"),
    Deliberate(".*", r".*\.nextn_predict_layers", "missing", "0, which a missing key means"),
    Deliberate(".*", r"tokenizer\.ggml\.add_(bos|eos)_token", "only ours", "written always, so that no reader guesses"),
    Deliberate(".*", r"tokenizer\.ggml\.add_space_prefix", "only ours", "written always, so that no reader guesses"),
    Deliberate(
        ".*",
        r"tokenizer\.ggml\.scores",
        "other",
        "tokenizer.json has merges in place of scores; what scores say is their order, which is the same",
    ),
    Deliberate(
        ".*",
        r".*\.rope\.scaling\.yarn_beta_(fast|slow)",
        "only ours",
        "where config.json leaves them out, transformers' default is written",
    ),
    Deliberate(
        ".*",
        r"general\.file_type|.*\.(vocab_size|rope\.(dimension_count|freq_base)|attention\.(head_count_kv|(key|value)_length))",
        "only ours",
        "written always; their readers derive it from other keys and tensors",
    ),
    Deliberate(".*", r".*\.rope\.scaling\.type", "missing none", "no scaling is what a file without the key has"),
    Deliberate(
        "hunyuan-.*",
        r".*\.rope\.scaling\.(factor|original_context_length)",
        "missing",
        "the base carries the scaling, these say that there is none",
    ),
    Deliberate(
        "phi3|phimoe", r".*\.rope\.scaling\.type", "only ours", "longrope is written, as for all other architectures"
    ),
    Deliberate(
        "phimoe",
        r".*\.rope\.scaling\.attn_factor",
        "other",
        "what config.json says (short_mscale, long_mscale), which its converter does not read",
    ),
    Deliberate(
        "phi3|phimoe",
        r"tokenizer\.ggml\.token_type",
        "other",
        "its converter for these calls every special token a control token, <unk>, too",
    ),
    Deliberate(
        "minicpm3",
        r".*\.rope\.scaling\.(attn_factor|original_context_length|type)",
        "only ours",
        "longrope is written, as for all other architectures",
    ),
    Deliberate("modern-bert", r".*\.layer_norm_rms_epsilon", "missing", "its norms are of another kind"),
    Deliberate("modern-bert", r".*\.sliding_window_pattern", "only ours", "written, though it is llama.cpp's default"),
    Deliberate("mimo2", r".*\.sliding_window_pattern", "other", "an array of booleans, as for all other architectures"),
    Deliberate("hy_v3|mimo2", r".*\.leading_dense_block_count", "only ours", "written, as for all other architectures"),
    Deliberate(".*", r"blk\.\d+\.ssm_a", "rounding", "numpy and torch round an exponential differently"),
)


def differences(row: Row, ours: Path, theirs: Path) -> tuple[list[str], set[Deliberate]]:
    """What differs between two files, and which deliberate differences they show."""
    undesired, deliberate = [], set()
    for found in (*_tensors(ours, theirs), *_keys(row.architecture, ours, theirs)):
        rule = _rule(row.architecture, found)
        if rule is None:
            undesired.append(f"{found.name}: {found.said}")
        else:
            deliberate.add(rule)
    return undesired, deliberate


def _rule(architecture: str, found: Difference) -> Deliberate | None:
    for rule in DELIBERATE:
        if (
            rule.kind == found.kind
            and re.fullmatch(rule.architecture, architecture)
            and re.fullmatch(rule.name, found.name)
        ):
            return rule
    return None


def _tensors(ours: Path, theirs: Path) -> Iterator[Difference]:
    """Names, shapes, types and values; values exactly."""
    a, b = gguf_tensors(ours), gguf_tensors(theirs)
    for name in sorted(a.keys() | b.keys()):
        if name not in a:
            yield Difference(name, "missing", "missing")
        elif name not in b:
            yield Difference(name, "only ours", "not there")
        elif list(a[name].shape) != list(b[name].shape):
            yield Difference(name, "other", f"shape {list(a[name].shape)} is {list(b[name].shape)} there")
        elif a[name].tensor_type != b[name].tensor_type:
            yield Difference(name, "other", f"{a[name].tensor_type.name} is {b[name].tensor_type.name} there")
        elif not np.array_equal(a[name].data, b[name].data):
            first, second = (np.asarray(x[name].data, np.float64) for x in (a, b))
            gap = np.abs(first - second)
            kind: Kind = "rounding" if (gap <= 2.0**-22 * np.abs(second)).all() else "other"
            yield Difference(name, kind, f"values differ by up to {gap.max():.1e}")


def _keys(architecture: str, ours: Path, theirs: Path) -> Iterator[Difference]:
    """Every key of the architecture and of the tokenizer, general.architecture and general.file_type."""
    a, b = (_relevant(architecture, gguf_fields(path)) for path in (ours, theirs))
    for name in sorted(a.keys() | b.keys()):
        if name not in a:
            kind: Kind = "missing none" if b[name][1] == "none" else "missing"
            yield Difference(name, kind, f"missing, {_short(b[name])} there")
        elif name not in b:
            yield Difference(name, "only ours", f"{_short(a[name])}, not there")
        elif name == SCORES and not _same_order(a, b):
            yield Difference(name + ", their order", "other", "is another")
        elif a[name] != b[name]:
            yield Difference(name, "other", f"{_short(a[name])} is {_short(b[name])} there")


def _same_order(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether scores rank the tokens that merges make alike: those of more than one character, of type normal."""
    tokens, types = a["tokenizer.ggml.tokens"][1], a["tokenizer.ggml.token_type"][1]
    merged = [i for i, token in enumerate(tokens) if len(token) > 1 and types[i] == 1]
    first, second = (sorted(merged, key=lambda i, x=x: (-x[SCORES][1][i], i)) for x in (a, b))
    return first == second


def _relevant(architecture: str, fields: dict[str, Any]) -> dict[str, Any]:
    start = (f"{architecture}.", "tokenizer.", "general.architecture", "general.file_type")
    return {key: value for key, value in fields.items() if key.startswith(start)}


def _short(field: tuple[str, Any]) -> str:
    kind, value = field
    text = repr(value)
    return f"{text if len(text) < 60 else text[:57] + '...'} ({kind})"
