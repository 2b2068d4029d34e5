"""What verify finds, what it says it could not check, and that its memory does not grow with the file."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gguflike import container
from gguflike.blocks import FORMATS
from gguflike.container.finite import first_not_finite, float_fields
from gguflike.errors import DigestError, GGUFError
from gguflike.families import demands, registry
from gguflike.tensor import QuantizedTensor, quantize
from gguflike.verify.verification import CHUNK, verify
from tests import tiny_gguf
from tests.bad_vectors import bad


def ones(fmt: str, blocks: int, name: str = "x") -> QuantizedTensor:
    """A tensor of which each byte is 1."""
    row = FORMATS[fmt]
    return QuantizedTensor(name, row, (1, blocks * row.block_size), np.ones(blocks * row.block_bytes, np.uint8))


def test_a_file_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    container.write(path, {"general.architecture": "llama"}, [ones("Q4_K", 3)])
    report = verify(path)
    assert report.ok
    assert report.digests
    assert report.findings == ()
    assert (report.tensors, report.data_bytes) == (1, 3 * 144)
    assert "SHA-256" in report.scope
    report.check()


def test_without_digests_it_says_what_it_cannot_see(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(bad.build((), [bad.ONE], bad.floats(8)))
    report = verify(path)
    assert report.ok
    assert not report.digests
    assert "cannot be seen" in report.scope


def test_what_a_bad_header_hides_was_not_checked(tmp_path: Path) -> None:
    (tmp_path / "file.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 16)
    report = verify(tmp_path / "file.gguf")
    assert not report.ok
    assert report.scope == "checked nothing behind the header, which cannot be used"


def test_all_that_is_placed_wrongly_is_named(tmp_path: Path) -> None:
    """Which opening the file stops at the first of; of many the first twenty, and how many more there are."""
    path = tmp_path / "file.gguf"
    offsets = {"unaligned": 1, "outside": 1 << 40, "good": 64, "overlaps": 64, "far": 1 << 50}
    tensors = [bad.tensor(name, [8], bad.TYPE_F32, offset) for name, offset in offsets.items()]
    path.write_bytes(bad.build((), tensors, bytes(128)))
    report = verify(path)
    assert not report.opened
    assert [(each.rule, each.tensor) for each in report.findings] == [
        ("C-024", "unaligned"),
        ("C-025", "outside"),
        ("C-025", "far"),
        ("C-026", "overlaps"),
    ]
    with pytest.raises(GGUFError) as caught:
        container.open(path)
    assert str(caught.value) == str(report.findings[0])
    path.write_bytes(bad.build((), [bad.tensor(f"t{n}", [8], bad.TYPE_F32, 1 << 40) for n in range(50)], bytes(32)))
    *named, more = verify(path).findings
    assert [(each.rule, each.tensor) for each in named[:20]] == [("C-025", f"t{n}") for n in range(20)]
    assert (len(named), more.rule, more.message) == (20, "C-025", "data lies outside the file: so of 30 more tensors")


def test_changed_data_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    container.write(path, {}, [ones("Q8_0", 2, "a"), ones("Q8_0", 2, "b")])
    with container.open(path) as file:
        place = file.infos["b"].offset + 40
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    report = verify(path)
    assert [(finding.severity, finding.rule, finding.tensor) for finding in report.findings] == [
        ("error", "M-004", "b")
    ]
    assert str(report.findings[0]).startswith(f"{path}, byte {place - 40}, tensor 'b': data changed")
    with pytest.raises(DigestError) as caught:
        report.check()
    assert caught.value.tensor == "b"


def test_a_changed_header_is_told_from_changed_data(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    container.write(path, {"general.name": "right"}, [ones("Q8_0", 2)])
    path.write_bytes(path.read_bytes().replace(b"right", b"wrong"))
    report = verify(path)
    assert [(finding.rule, finding.tensor, finding.field) for finding in report.findings] == [("M-003", None, "header")]


def test_digests_that_were_copied_from_another_file(tmp_path: Path) -> None:
    """As llama-quantize does, which copies all metadata."""
    names = ("a", "b", "c", "d")
    container.write(tmp_path / "x.gguf", {}, [ones("Q8_0", 2, name) for name in names])
    with container.open(tmp_path / "x.gguf") as file:
        metadata = file.metadata.typed_dict()
    specs = [container.TensorSpec(name, (1, 32), FORMATS["F32"]) for name in names]
    digests = {key: value for key, value in metadata.items() if key.startswith("gguflike.digest.")}
    renamed = {key.replace("digest", "dijest"): value for key, value in digests.items()}
    with container.Writer(tmp_path / "y.gguf", container.plan(renamed, specs, digests=False)) as out:
        for number, spec in enumerate(specs):
            out.write(spec.name, np.full(128, number + 1, np.uint8))
    copied = (tmp_path / "y.gguf").read_bytes().replace(b"dijest", b"digest")
    (tmp_path / "y.gguf").write_bytes(copied)
    report = verify(tmp_path / "y.gguf")
    assert [(finding.severity, finding.rule) for finding in report.findings] == [("warning", "M-005")]
    assert not report.digests
    assert "cannot be seen" in report.scope
    with container.open(tmp_path / "x.gguf") as file:  # one tensor and the header: that is damage
        places = [file.infos["b"].offset, file.metadata.entry("gguflike.digest.header").start - 60]
    data = bytearray((tmp_path / "x.gguf").read_bytes())
    for place in places:
        data[place] ^= 1
    (tmp_path / "x.gguf").write_bytes(data)
    assert not verify(tmp_path / "x.gguf").ok


def test_oddities_are_errors_in_our_own_files_only(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    container.write(path, {}, [ones("Q8_0", 1)])
    path.write_bytes(path.read_bytes() + b"more")
    assert [(f.severity, f.rule) for f in verify(path).findings] == [("error", "C-103")]
    path.write_bytes(bad.build((), [bad.ONE], bad.floats(8)) + b"more")
    report = verify(path)
    assert [(f.severity, f.rule) for f in report.findings] == [("warning", "C-103")]
    assert report.ok


def test_all_findings_are_reported_errors_first(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    tensors = [bad.tensor("x", [7], bad.TYPE_F32, 0), bad.tensor("y", [8], bad.TYPE_F32, 64)]
    nan = struct.pack("<f", float("nan"))
    data = bad.floats(7) + b"pad!" + bytes(32) + bad.floats(7) + nan + b"end"
    path.write_bytes(bad.build([bad.text("general.name", b"\xff")], tensors, data))
    assert [(f.severity, f.rule) for f in verify(path).findings] == [
        ("error", "C-107"),
        ("warning", "C-104"),
        ("warning", "C-101"),
        ("warning", "C-103"),
        ("warning", "C-102"),
    ]


def test_a_bad_file_is_reported_not_raised(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(b"GGUF")
    report = verify(path)
    assert (report.ok, report.findings[0].rule, report.findings[0].offset) == (False, "C-005", 4)
    with pytest.raises(GGUFError):
        report.check()
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "nothing")


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    container.write(path, {}, [ones("Q8_0", 3, "a"), ones("F32", 5, "b")])
    calls: list[tuple[int, int, str]] = []
    verify(path, lambda done, total, what: calls.append((done, total, what)))
    assert calls == [(0, 122, "a"), (102, 122, "b"), (122, 122, "")]


# a bad value for each way to store a float: (field, bytes of one element)
BAD_FLOATS = {
    "native": {2: b"\x00\x7c", 4: b"\x00\x00\xc0\x7f", 8: b"\x00\x00\x00\x00\x00\x00\xf0\xff"},
    "bf16": {2: b"\x80\x7f"},
    "e8m0": {1: b"\xff"},
    "ue4m3": {1: b"\x7f"},
    "nibbles": {1: None},
}


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if float_fields(fmt)])
def test_each_float_field_must_be_finite(name: str) -> None:
    fmt = FORMATS[name]
    for field in float_fields(fmt):
        blocks = np.zeros(5, fmt.dtype)
        assert first_not_finite(blocks.view(np.uint8), fmt) is None
        if field.encoding == "nibbles":  # 0x7c00, infinity, spread over the upper nibbles of four words
            blocks[field.name].view("<u2")[3] = np.array([0x0FFF, 0x0FFF, 0xCFFF, 0x7FFF], "<u2")
        else:
            item = BAD_FLOATS[field.encoding][np.dtype(field.dtype).itemsize]
            blocks[field.name].reshape(5, -1)[3, -1] = np.frombuffer(item, field.dtype)[0]
        assert first_not_finite(blocks.view(np.uint8), fmt) == (3, field.name)
        swapped = blocks.astype(fmt.dtype.newbyteorder(">"))
        if field.encoding != "nibbles":
            assert first_not_finite(swapped.view(np.uint8), fmt, ">") == (3, field.name)


def test_the_largest_finite_scales_pass() -> None:
    for name, item in {"Q8_0": b"\xff\x7b", "F32": b"\xff\xff\x7f\x7f", "BF16": b"\x7f\x7f", "MXFP4": b"\xfe"}.items():
        blocks = np.zeros(2, FORMATS[name].dtype)
        field = FORMATS[name].fields[0]
        blocks[field.name][1] = np.frombuffer(item, field.dtype)[0]
        assert first_not_finite(blocks.view(np.uint8), FORMATS[name]) is None


def test_every_format_with_a_scale_is_checked() -> None:
    integers = {name for name, fmt in FORMATS.items() if not float_fields(fmt)}
    assert integers == {"I8", "I16", "I32", "I64"}


def test_a_bad_scale_deep_in_a_tensor_is_placed(tmp_path: Path) -> None:
    fmt = FORMATS["Q6_K"]
    count = 3 * (CHUNK // fmt.block_bytes)
    blocks = np.ones(count * fmt.block_bytes, np.uint8).view(fmt.dtype)
    blocks["d"][count - 7] = np.inf
    path = tmp_path / "file.gguf"
    container.write(path, {}, [QuantizedTensor("x", fmt, (count, 256), blocks.view(np.uint8))])
    (finding,) = verify(path).findings
    with container.open(path) as file:
        assert finding.offset == file.infos["x"].offset + (count - 7) * fmt.block_bytes
    assert f"block {count - 7} " in finding.message


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    container.write(path, {}, [ones("F32", 8 * CHUNK, "x")])  # 32 MiB
    tracemalloc.start()
    assert verify(path).ok
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * CHUNK


def vocabulary(*more: bytes, scores: int = 2, rows: int = 2) -> bytes:
    tokens = bad.array_of("tokenizer.ggml.tokens", bad.STRING, 2, bad.string("a") + bad.string("b"))
    numbers = bad.array_of("tokenizer.ggml.scores", bad.F32, scores, bytes(4 * scores))
    embedding = bad.tensor("token_embd.weight", [8, rows], bad.TYPE_F32, 0)
    layer = bad.tensor("blk.0.w", [8], bad.TYPE_F32, 32 * rows)
    return bad.build(
        [bad.text("general.architecture", "llama"), tokens, numbers, *more],
        [embedding, layer],
        bad.floats(8 * rows + 8),
    )


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (vocabulary(), None),
        (vocabulary(bad.u32("llama.block_count", 1)), None),
        (vocabulary(bad.u32("tokenizer.ggml.bos_token_id", 1)), None),
        (vocabulary(bad.u32("tokenizer.ggml.bos_token_id", 2**32 - 1)), None),
        (vocabulary(bad.u32("llama.block_count", 2)), "llama.block_count"),
        (vocabulary(bad.u32("llama.block_count", 0)), "llama.block_count"),
        (vocabulary(bad.text("llama.block_count", "1")), "llama.block_count"),
        (vocabulary(bad.u32("tokenizer.ggml.bos_token_id", 2)), "tokenizer.ggml.bos_token_id"),
        (vocabulary(scores=1), "tokenizer.ggml.scores"),
        (vocabulary(rows=1), "tokenizer.ggml.tokens"),
        (vocabulary(rows=3), None),  # padded for the sake of speed
    ],
)
def test_metadata_that_does_not_fit_the_tensors(tmp_path: Path, data: bytes, field: str | None) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(data)
    report = verify(path)
    assert report.ok
    found = [finding.field for finding in report.findings if finding.rule in ("M-010", "M-011")]
    assert found == ([] if field is None else [field])


@pytest.mark.parametrize("digests", [True, False])
def test_padding_behind_the_header_must_be_zero(tmp_path: Path, digests: bool) -> None:
    path = tmp_path / "file.gguf"
    tensor = ones("F32", 8, "x")
    planned = container.plan({"a": "text"}, [container.TensorSpec("x", tensor.shape, tensor.format)], digests=digests)
    with container.Writer(path, planned) as writer:
        writer.write("x", tensor.data)
    with container.open(path) as file:
        first, behind = file.header_bytes, file.data_offset
    assert behind > first
    data = bytearray(path.read_bytes())
    data[behind - 1] = 7
    path.write_bytes(data)
    (found,) = (finding for finding in verify(path).findings if finding.rule == "C-102")
    assert (found.offset, found.message) == (behind - 1, "padding behind the header is not zero")


def test_what_was_expected_and_found_is_in_the_message(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(bad.build(version=7))
    (finding,) = verify(path).findings
    said = "GGUF version is not supported; expected 2 or 3, in either byte order; got 7"
    assert said in str(finding)
    assert (finding.message, finding.got) == ("GGUF version is not supported", "7")


@pytest.mark.parametrize("shape", [(4, 256), (1024,)])
@pytest.mark.parametrize("name", ["F32", "BF16"])
def test_weights_near_the_largest_float_are_compared_without_a_warning(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    """A warning of numpy's would be an error here."""
    values = np.full(shape, 3e38, np.float32)
    values.reshape(-1)[::2] = 1e30
    path = tmp_path / "file.gguf"
    container.write(path, {}, [quantize(values, name, name="x")])
    assert {finding.rule for finding in verify(path).findings} <= {"M-022"}


@pytest.mark.parametrize(
    ("architecture", "sizes", "refused"),
    [
        ("llama", {"n_rot": 4}, "rope.dimension_count"),
        ("llama", {}, None),
        ("qwen2", {"n_rot": 4, "head_dim": 16}, "rope.dimension_count"),
        ("qwen2", {"head_dim": 16}, None),
        ("qwen2", {}, "attention.key_length"),  # 4 heads of 32 in a model of 64
    ],
)
def test_what_llama_cpp_demands_of_heads(
    tmp_path: Path, architecture: str, sizes: dict[str, int], refused: str | None
) -> None:
    path = tmp_path / "file.gguf"
    tiny_gguf.write(path, architecture=architecture, bias=architecture == "qwen2", **sizes)
    found = [(each.severity, each.rule, each.field, each.offset is not None) for each in verify(path).findings]
    said = ("warning", "M-031", f"{architecture}.{refused}", True)
    assert found == ([said] if refused else [])


def test_demands_are_of_architectures_that_are_known() -> None:
    tables = (*demands.READ.values(), *demands.UNREAD.values(), *demands.NEEDED.values())
    assert set(registry.ARCHITECTURES) >= frozenset().union(
        demands.WHOLE, demands.SQUARE, demands.BLENDED, demands.IDLE, *tables
    )
