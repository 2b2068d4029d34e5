"""What verify finds odd where no digest says what should be there, and that it finds nothing in what is as usual."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguflike
from gguflike.blocks import FORMATS
from gguflike.chat.template import MOST_TRIED
from gguflike.cli import main
from gguflike.container import TensorInfo, TensorSpec, Typed, ValueType, Writer, plan
from gguflike.container import plausible as module
from gguflike.container.findings import Finding
from gguflike.container.plausible import LINE, PAGE, Plausible
from gguflike.container.scales import of_blocks
from gguflike.tensor import QuantizedTensor
from gguflike.verify import Report, meaning, verify
from tests import tiny_gguf

QUANTIZED = [name for name, fmt in FORMATS.items() if of_blocks(np.zeros(1, fmt.dtype), fmt) is not None]
ENCODED = [name for name in QUANTIZED if name not in ("Q8_1", "Q8_K")]  # which are types of activations


def written(path: Path, tensor: QuantizedTensor, **metadata: Any) -> Path:
    """A file without digests."""
    spec = TensorSpec(tensor.name, tensor.shape, tensor.format)
    with Writer(path, plan(metadata, [spec], digests=False)) as out:
        out.write(tensor.name, tensor.data)
    return path


def normal(name: str, rows: int = 64, columns: int = 1024, tensor: str = "x") -> QuantizedTensor:
    values = np.random.default_rng(3).standard_normal((rows, columns)).astype(np.float32)
    return gguflike.quantize(values, name, name=tensor)


def rules(report: Report) -> list[tuple[str, str]]:
    return [(finding.severity, finding.rule) for finding in report.findings]


@pytest.mark.parametrize("name", [*ENCODED, "F32", "F16", "BF16"])
def test_usual_weights_are_not_odd(name: str, tmp_path: Path) -> None:
    report = verify(written(tmp_path / "x.gguf", normal(name)))
    assert rules(report) == []


@pytest.mark.parametrize("name", ["F32", "BF16", "Q8_0", "Q4_K", "IQ3_S"])
@pytest.mark.parametrize("place", [0, 5000, -PAGE])
def test_a_hole_of_a_page(name: str, place: int, tmp_path: Path) -> None:
    tensor = normal(name, columns=1280)
    data = tensor.data.copy()
    start = place % len(data) + (777 if place > 0 else 0)
    data[start : start + PAGE] = 0
    path = written(tmp_path / "x.gguf", QuantizedTensor("x", tensor.format, tensor.shape, data))
    with gguflike.open(path) as file:
        begins = file.infos["x"].offset
    (finding,) = verify(path).findings
    assert (finding.severity, finding.rule, finding.tensor) == ("warning", "M-021", "x")
    assert finding.offset is not None
    assert 0 <= begins + start - finding.offset < 16  # zeros may stand before
    assert int(finding.message.split()[0].replace(",", "")) >= PAGE


def test_rows_of_zeros_are_a_note(tmp_path: Path) -> None:
    tensor = normal("F32")
    data = tensor.data.copy()
    data[-8 * 4096 :] = 0
    report = verify(written(tmp_path / "x.gguf", QuantizedTensor("x", tensor.format, tensor.shape, data)))
    assert rules(report) == [("note", "M-021")]
    assert "whole rows" in report.findings[0].message


def test_a_tensor_of_zeros(tmp_path: Path) -> None:
    for name, shape, expected in (
        ("x", (8, 64), [("warning", "M-020")]),
        ("blk.0.attn_norm.weight", (64,), [("warning", "M-020")]),
        ("blk.0.attn_q.bias", (64,), []),
    ):
        data = np.zeros(int(np.prod(shape)) * 4, np.uint8)
        report = verify(written(tmp_path / "x.gguf", QuantizedTensor(name, FORMATS["F32"], shape, data)))
        assert rules(report) == expected, name


@pytest.mark.parametrize("name", ENCODED)
def test_a_scale_far_beyond_its_neighbours(name: str, tmp_path: Path) -> None:
    tensor = normal(name)
    fmt = tensor.format
    blocks = tensor.data.copy().view(fmt.dtype)
    scale = next(field for field in fmt.fields if field.role == "scale" or field.encoding != "native")
    index = len(blocks) // 2
    if scale.encoding == "nibbles":
        words = blocks[scale.name].view("<u2").reshape(len(blocks), -1)
        words[index] = (words[index] & 0x0FFF) | np.array([0, 0, 0, 7], np.uint16) << 12
    elif np.dtype(scale.dtype).kind == "f":
        blocks[scale.name][index] = np.abs(blocks[scale.name][index]) * 4096
    elif scale.encoding == "e8m0":
        blocks[scale.name][index] += 12
    else:  # UE4M3 reaches only so far
        blocks[scale.name] = 8
        blocks[scale.name].reshape(len(blocks), -1)[index, 0] = 0x7E
    report = verify(written(tmp_path / "x.gguf", QuantizedTensor("x", fmt, tensor.shape, blocks.view(np.uint8))))
    assert rules(report) == [("warning", "M-022")]
    assert f"scale of block {index} is" in report.findings[0].message


@pytest.mark.parametrize("name", ["F32", "BF16"])
def test_a_weight_far_beyond_its_neighbours(name: str, tmp_path: Path) -> None:
    tensor = normal(name)
    data = tensor.data.copy()
    size = FORMATS[name].block_bytes
    data[size * 5000 + size - 1] = 0x7E  # the sign and most of the exponent
    report = verify(written(tmp_path / "x.gguf", QuantizedTensor("x", tensor.format, tensor.shape, data)))
    assert rules(report) == [("warning", "M-022")]
    vector = np.array([1, 2, 1e20, 3], np.float32).view(np.uint8)
    for kind, expected in (("output_norm.weight", [("warning", "M-022")]), ("rope_freqs.weight", [])):
        path = written(tmp_path / "x.gguf", QuantizedTensor(kind, FORMATS["F32"], (4,), vector))
        assert rules(verify(path)) == expected


def naive(data: bytes) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(rb"\0{%d,}" % module.PAGE, data)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 700), st.integers(1, 500)), min_size=1, max_size=8),
    st.lists(st.integers(0, 4000), max_size=5),
)
def test_stretches_of_zeros_however_they_are_cut(lengths: list[tuple[int, int]], cuts: list[int]) -> None:
    """Against a regular expression on the whole."""
    data = b"".join(b"\1" * filled + bytes(zeros) for filled, zeros in lengths)
    info = TensorInfo("x", (len(data),), FORMATS["I8"], 0, len(data))
    before = module.PAGE
    module.PAGE = 3 * LINE
    try:
        seen = Plausible(info, "")
        places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        for start, stop in pairwise(places):
            piece = np.frombuffer(data[start:stop], np.uint8)
            seen.add(piece, piece.view(np.int8))
        found: list[Finding] = list(seen.findings())
        expected = naive(data)
        assert len(found) == (1 if expected else 0)
        if found:
            assert found[0].offset == expected[0][0]
            assert found[0].message.startswith(f"{sum(stop - start for start, stop in expected):,} bytes of zeros")
    finally:
        module.PAGE = before


# What a file says


def model(path: Path, **values: Any) -> Path:
    """A tiny Llama with other metadata; "__" stands for a dot, None for no such key."""
    tiny_gguf.write(path.with_suffix(".tmp"))
    with gguflike.open(path.with_suffix(".tmp")) as file:
        metadata = file.metadata.typed_dict() | {key.replace("__", "."): value for key, value in values.items()}
        kept = {key: value for key, value in metadata.items() if value is not None}
        gguflike.write(path, kept, list(file.tensors.values()))
    path.with_suffix(".tmp").unlink()
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"llama__rope__scaling__finetuned": True}, []),
        ({"llama__attention__scale": 0.25}, [("warning", "M-030", "llama.attention.scale")]),
        ({"llama__no_such_setting": 1}, [("warning", "M-030", "llama.no_such_setting")]),
        ({"qwen2__block_count": 2}, [("note", "M-030", "qwen2.block_count")]),
        ({"general__architecture": "unheard-of"}, []),
        ({"llama__feed_forward_length": 7}, [("warning", "M-032", None)]),
        ({"tokenizer__chat_template": "{{ messages }}"}, []),
        ({"tokenizer__chat_template": "{% if %}"}, [("warning", "M-014", "tokenizer.chat_template")]),
        ({"tokenizer__chat_template": "{{ raise_exception('tools only') }}"}, []),
        ({"tokenizer__chat_template": "{{ ''.__class__ }}"}, [("warning", "M-014", "tokenizer.chat_template")]),
        ({"tokenizer__chat_template": "{{ 'A' * 10**11 }}"}, [("warning", "M-014", "tokenizer.chat_template")]),
        ({"tokenizer__chat_template": "<|im_start|>"}, [("warning", "M-015", "tokenizer.chat_template")]),
        ({"tokenizer__ggml__bos_token_id": 10**6}, [("warning", "M-011", "tokenizer.ggml.bos_token_id")]),
        ({"llama__context_length": None}, [("warning", "M-031", "llama.context_length")]),
        (
            {"llama__context_length": Typed(64, ValueType.UINT64), "general__name": 5},
            [("warning", "M-031", "llama.context_length"), ("warning", "M-031", "general.name")],
        ),
        ({"llama__block_count": Typed(2.0, ValueType.FLOAT32)}, [("warning", "M-010", "llama.block_count")]),
        ({"llama__rope__freq_base": Typed(1e4, ValueType.FLOAT64)}, [("warning", "M-031", "llama.rope.freq_base")]),
        ({"llama__attention__causal": 1}, [("warning", "M-031", "llama.attention.causal")]),
        (
            {"llama__attention__head_count": Typed([4], ValueType.ARRAY, ValueType.UINT32)},
            [("warning", "M-031", "llama.attention.head_count")],
        ),
    ],
)
def test_what_a_model_says(values: dict[str, Any], expected: list[tuple[str, str, str | None]], tmp_path: Path) -> None:
    report = verify(model(tmp_path / "m.gguf", **values))
    assert [(each.severity, each.rule, each.field) for each in report.findings] == expected
    assert report.ok


def test_many_templates_are_not_all_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(meaning, "_tried", tried.append)
    more = {f"tokenizer__chat_template__{number}": "{% while %}" for number in range(40)}
    report = verify(model(tmp_path / "m.gguf", **more))
    assert len(tried) == MOST_TRIED
    assert [each.rule for each in report.findings] == ["M-014"]
    assert "40 chat templates" in report.findings[0].message


def byte_level(**more: Any) -> dict[str, Any]:
    tokens = ["a", "b", "ab", "<|im_end|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.token_type": Typed([1, 1, 1, 3], ValueType.ARRAY, ValueType.INT32),
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (byte_level(), []),
        (byte_level(pre=None), [("warning", "M-013")]),
        (byte_level(merges=None), [("warning", "M-012")]),
        (byte_level(merges=["a b", "b a"]), [("note", "M-012")]),
        (byte_level(token_type=Typed([1, 1, 1, 9], ValueType.ARRAY, ValueType.INT32)), [("warning", "M-012")]),
        (byte_level(tokens=["a", "b", "ab", "a"]), [("warning", "M-012")]),
        (byte_level(model="unheard-of"), [("note", "M-012")]),
        (
            byte_level() | {"tokenizer.chat_template": "<|im_start|>{{ x }}<|im_end|>"},
            [("note", "M-015")],
        ),
    ],
)
def test_what_a_tokenizer_says(metadata: dict[str, Any], expected: list[tuple[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    gguflike.write(path, {key: value for key, value in metadata.items() if value is not None}, [])
    assert rules(verify(path)) == expected


def test_strict_counts_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = model(tmp_path / "m.gguf", llama__no_such_setting=1)
    noted = model(tmp_path / "n.gguf", qwen2__block_count=2)
    assert main(["verify", str(odd)]) == 0
    assert main(["verify", str(odd), "--strict"]) == 1
    assert main(["verify", str(noted), "--strict"]) == 0
    capsys.readouterr()
    assert main(["verify", str(odd), "--strict", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["counts"]) == (False, {"error": 0, "warning": 1, "note": 0})
    assert document["findings"][0]["rule"] == "M-030"
