#!/usr/bin/env python3
"""Write spec/vectors/bad: one tiny file per way to break a rule of spec/container.md, and the table of them.

usage: gen_bad_vectors.py [--check]       --check writes nothing and fails when a committed file differs

The files are put together byte by byte, without the package's writer, so that they are an independent statement of
the format. The table's errors come from the package's reader and verifier.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # where this is imported, too

from bad_models import key_of, model, model_cases, tensor_cases  # noqa: E402
from gguf_bytes import (  # noqa: E402
    ARRAY,
    BOOL,
    F32,
    F64,
    I32,
    STRING,
    TOP,
    TYPE_F32,
    TYPE_Q2_0,
    TYPE_Q8_0,
    U8,
    U16,
    U32,
    U64,
    array_of,
    build,
    floats,
    kv,
    string,
    strings,
    tensor,
    text,
    u32,
)

FOLDER = HERE.parent / "spec" / "vectors" / "bad"

ONE = tensor("x", [8], TYPE_F32, 0)  # 32 bytes of data: no padding needed
TWO = [ONE, tensor("y", [8], TYPE_F32, 32)]


def with_digests(data: bytes, *, spoil: str | None = None) -> bytes:
    """A file with one tensor of 8 floats and digests, computed here by the letter of spec/metadata.md."""
    sha = hashlib.sha256(floats(8)).hexdigest()
    own = "0" * 64

    def whole(header_digest: str) -> bytes:
        records = [
            array_of("gguflike.digest.tensors", STRING, 1, string("x" * 64 if spoil == "digest" else sha)),
            text("gguflike.digest.header", header_digest),
            u32("general.file_type", 1 if spoil == "header" and header_digest != own else 0),
        ]
        return build(records, [ONE], b"\0")[:-1]

    header = whole(own)
    return whole(hashlib.sha256(header).hexdigest()) + data


@dataclass(frozen=True)
class Case:
    """One file: the rule it breaks, its bytes, whether it still opens (then ``verify`` reports it).

    ``fault`` is the key or the tensor that a model is refused for when it is loaded; then it opens as well.
    """

    rule: str
    data: bytes
    opens: bool = False
    others: dict[str, bytes] = field(default_factory=dict)  # further shards, by file name
    fault: str = ""


def _cases() -> dict[str, Case]:
    arch = text("general.architecture", "llama")
    split = [kv("split.no", U16, b"\0\0"), kv("split.count", U16, b"\2\0"), kv("split.tensors.count", I32, b"\2\0\0\0")]
    second = [kv("split.no", U16, b"\0\0"), kv("split.count", U16, b"\2\0")]
    return {
        "empty": Case("C-001", b""),
        "magic": Case("C-001", build(magic=b"FUGG")),
        "html": Case("C-001", b"<!DOCTYPE html><html><body>Sign in</body></html>"),
        "zip": Case("C-001", b"PK\x03\x04" + bytes(60)),
        "safetensors": Case("C-001", struct.pack("<Q", 16) + b'{"x":{}}        '),
        "zeros": Case("C-001", bytes(64)),
        "version_0": Case("C-002", build(version=0)),
        "version_1": Case("C-002", build(version=1)),
        "version_future": Case("C-002", build(version=4)),
        "version_swapped": Case("C-003", b"GGUF" + struct.pack(">I", 3) + struct.pack("<QQ", 1, 1) + arch + ONE),
        "tensor_count": Case("C-003", build(n_tensors=TOP)),
        "metadata_count": Case("C-004", build(n_kv=TOP)),
        "four_bytes": Case("C-005", b"GGUF"),
        "cut_in_counts": Case("C-005", build()[:20]),
        "cut_in_value": Case("C-005", build([u32("a", 1), kv("b", U64, b"\0\0")])),
        "cut_in_tensor": Case("C-005", build([u32("a", 1)], [ONE[:-4]])),
        "key_length": Case("C-007", build([string("a", TOP) + struct.pack("<I", U32) + bytes(4)])),
        "value_length": Case("C-007", build([kv("a", STRING, string("text", 2**63))])),
        "name_length": Case("C-007", build((), [string("x", 2**64 - 8) + bytes(24)])),
        "item_length": Case("C-007", build([array_of("a", STRING, 2, string("b") + string("c", TOP - 7))])),
        "key_empty": Case("C-008", build([kv("", U32, bytes(4))])),
        "key_not_utf8": Case("C-009", build([kv(b"a\xff", U32, bytes(4))])),
        "key_nul": Case("C-009", build([kv(b"a\0b", U32, bytes(4))])),
        "key_twice": Case("C-010", build([u32("a", 1), u32("a", 2)])),
        "value_type": Case("C-011", build([kv("a", 13, bytes(8))])),
        "item_type": Case("C-011", build([array_of("a", 13, 1, bytes(8))])),
        "nested_array": Case("C-012", build([array_of("a", ARRAY, 1, struct.pack("<IQ", U8, 1) + b"\0")])),
        "array_wraps": Case("C-013", build([array_of("a", U64, 2**61 + 1, bytes(8))])),
        "string_array_count": Case("C-013", build([array_of("a", STRING, 2**60, string("b"))])),
        "bool_2": Case("C-014", build([kv("a", BOOL, b"\2"), arch])),
        "bool_array_2": Case("C-014", build([array_of("a", BOOL, 3, b"\0\1\2")])),
        "alignment_0": Case("C-015", build([u32("general.alignment", 0)], [ONE], floats(8))),
        "alignment_13": Case("C-015", build([u32("general.alignment", 13)], [ONE], floats(8), alignment=13)),
        "alignment_huge": Case("C-015", build([u32("general.alignment", 2**31)], [ONE], floats(8))),
        "alignment_int32": Case("C-015", build([kv("general.alignment", I32, b"\x20\0\0\0")], [ONE], floats(8))),
        "architecture_type": Case("C-016", build([u32("general.architecture", 7)])),
        "architecture_not_utf8": Case("C-016", build([text("general.architecture", b"\xff")])),
        "name_64_bytes": Case("C-017", build((), [tensor("x" * 64, [8], TYPE_F32, 0)], floats(8)), opens=True),
        "name_128_bytes": Case("C-017", build((), [tensor("x" * 128, [8], TYPE_F32, 0)], floats(8))),
        "name_empty": Case("C-017", build((), [tensor("", [8], TYPE_F32, 0)], floats(8))),
        "name_not_utf8": Case("C-018", build((), [tensor(b"\xc3(", [8], TYPE_F32, 0)], floats(8))),
        "name_nul": Case("C-018", build((), [tensor(b"x\0", [8], TYPE_F32, 0)], floats(8))),
        "name_twice": Case("C-019", build((), [ONE, tensor("x", [8], TYPE_F32, 32)], floats(16))),
        "five_dims": Case("C-020", build((), [tensor("x", [1] * 5, TYPE_F32, 0)], floats(8))),
        "dims_count": Case("C-020", build((), [tensor("x", [8], TYPE_F32, 0, n_dims=2**32 - 1)], floats(8))),
        "dim_minus_1": Case("C-021", build((), [tensor("x", [TOP], TYPE_F32, 0)], floats(8))),
        "dims_wrap": Case("C-021", build((), [tensor("x", [2**32, 2**32, 1], TYPE_F32, 0)], floats(8))),
        "dims_wrap_with_zero": Case("C-021", build((), [tensor("x", [0, 2**40, 2**40], TYPE_F32, 0)], floats(8))),
        "bytes_wrap": Case("C-021", build((), [tensor("x", [2**61], TYPE_F32, 0)], floats(8))),
        "type_unknown": Case("C-022", build((), [tensor("x", [8], 1000, 0)], floats(8))),
        "type_removed": Case("C-022", build((), [tensor("x", [32], 4, 0)], floats(8))),
        "type_bitnet": Case("C-022", build((), [tensor("x", [128], 36, 0)], floats(16))),
        "type_ik": Case("C-022", build((), [tensor("x", [256], 144, 0)], floats(64))),
        "ragged_row": Case("C-023", build((), [tensor("x", [33, 2], TYPE_Q8_0, 0)], bytes(96))),
        "offset_unaligned": Case("C-024", build((), [tensor("x", [8], TYPE_F32, 4)], floats(16))),
        "offset_minus_1": Case("C-024", build((), [tensor("x", [8], TYPE_F32, TOP)], floats(8))),
        "offset_wraps": Case("C-025", build((), [tensor("x", [8], TYPE_F32, 2**64 - 32)], floats(8))),
        "offset_behind_end": Case("C-025", build((), [tensor("x", [8], TYPE_F32, 64)], floats(8))),
        "data_cut": Case("C-025", build((), TWO, floats(16)[:-1])),
        "data_missing": Case("C-025", build((), [ONE])),
        "size_huge": Case("C-025", build((), [tensor("x", [2**40], TYPE_F32, 0)], floats(8))),
        "overlap": Case(
            "C-026", build((), [tensor("x", [16], TYPE_F32, 0), tensor("y", [8], TYPE_F32, 32)], floats(16))
        ),
        "same_place": Case("C-026", build((), [ONE, tensor("y", [8], TYPE_F32, 0)], floats(8))),
        "fork_q2_0": Case(
            "C-026", build((), [tensor("x", [128, 16], TYPE_Q2_0, 0), tensor("y", [8], TYPE_F32, 544)], bytes(576))
        ),
        "shard_name": Case("C-027", build(split, [ONE], floats(8))),
        "shard_count_type": Case("C-027", build([kv("split.count", F32, struct.pack("<f", 2))])),
        "missing-00001-of-00002": Case("C-027", build(split, [ONE], floats(8))),
        "doubled-00001-of-00002": Case(
            "C-027",
            build(split, [ONE], floats(8)),
            others={"doubled-00002-of-00002": build([kv("split.no", U16, b"\1\0"), second[1]], [ONE], floats(8))},
        ),
        "swapped-00001-of-00002": Case(
            "C-027", build(split, [ONE], floats(8)), others={"swapped-00002-of-00002": build(second)}
        ),
        "hole": Case("C-101", build((), [ONE, tensor("y", [8], TYPE_F32, 64)], floats(24)), opens=True),
        "padding": Case("C-102", build((), [tensor("x", [7], TYPE_F32, 0)], floats(8)), opens=True),
        "trailing_bytes": Case("C-103", build((), [ONE], floats(8) + b"more"), opens=True),
        "string_not_utf8": Case("C-104", build([text("general.name", b"caf\xe9")]), opens=True),
        "token_not_utf8": Case(
            "C-104", build([array_of("tokenizer.ggml.tokens", STRING, 2, string("a") + string(b"\xc3"))]), opens=True
        ),
        "padding_missing": Case("C-105", build((), [tensor("x", [7], TYPE_F32, 0)], floats(7)), opens=True),
        "disorder": Case(
            "C-106", build((), [tensor("x", [8], TYPE_F32, 32), tensor("y", [8], TYPE_F32, 0)], floats(16)), opens=True
        ),
        "big_endian": Case(
            "C-108",
            build((), [tensor("x", [8], TYPE_F32, 0, order=">")], struct.pack(">8f", *range(8)), order=">"),
            opens=True,
        ),
        "scale_nan": Case("C-107", build((), [tensor("x", [32], TYPE_Q8_0, 0)], b"\0\x7e" + bytes(62)), opens=True),
        "weight_infinite": Case("C-107", build((), [ONE], struct.pack("<8f", *range(7), float("inf"))), opens=True),
        "digest_malformed": Case("M-001", with_digests(floats(8), spoil="digest"), opens=True),
        "digest_half": Case("M-001", build([text("gguflike.digest.header", "0" * 64)]), opens=True),
        "header_changed": Case("M-003", with_digests(floats(8), spoil="header"), opens=True),
        "tensor_changed": Case("M-004", with_digests(floats(7) + floats(1)), opens=True),
        "layer_missing": Case(
            "M-010", build([arch, u32("llama.block_count", 2)], [tensor("blk.0.x", [8], 0, 0)], floats(8)), opens=True
        ),
        "scores_short": Case(
            "M-011",
            build(
                [
                    array_of("tokenizer.ggml.tokens", STRING, 2, string("a") * 2),
                    array_of("tokenizer.ggml.scores", F32, 1, bytes(4)),
                ]
            ),
            opens=True,
        ),
    }


def _more() -> dict[str, Case]:
    """Further ways to break the same rules: other numbers that wrap, other places, other types."""
    one, kinds = floats(8), {"text": text("split.count", "2"), "bool": kv("split.count", BOOL, b"\1")}
    tokens = strings("tokenizer.ggml.tokens", ["a", "b"])
    digest = "0" * 64
    half = 2**63 - 64
    return {
        "pickle": Case("C-001", b"\x80\x04\x95" + bytes(61)),
        "magic_swapped": Case("C-001", b"FUGG" + struct.pack(">I", 3) + bytes(16)),
        "version_minus_1": Case("C-002", build(version=2**32 - 1)),
        "tensor_count_wraps": Case("C-003", build(n_tensors=2**61)),
        "tensor_count_one_more": Case("C-017", build((), [ONE], n_tensors=2)[:-3] + bytes(28)),
        "metadata_count_wraps": Case("C-004", build(n_kv=2**60 + 1)),
        "metadata_count_one_more": Case("C-008", build([u32("a", 1)], n_kv=2) + bytes(13)),
        "cut_in_key": Case("C-007", build([u32("k" * 40, 1)])[:56]),
        "cut_in_array": Case("C-005", build([kv("a", ARRAY, struct.pack("<IQ", U8, 1)[:8])])),
        "cut_in_item": Case("C-007", build([array_of("a", STRING, 2, string("b") + string("cd"))])[:-1]),
        "cut_in_dims": Case("C-005", build([u32("a", 1)], [tensor("x", [8, 8, 8, 8], TYPE_F32, 0)[:-20]])),
        "key_one_longer": Case("C-007", build([string("a", 14) + struct.pack("<I", U32) + bytes(4)])),
        "value_minus_1": Case("C-007", build([kv("general.name", STRING, string("x", TOP))])),
        "key_65536_bytes": Case("C-008", build([u32("k" * 65536, 1)])),
        "key_surrogate": Case("C-009", build([u32(b"a\xed\xa0\x80", 1)])),
        "value_type_minus_1": Case("C-011", build([kv("a", 2**32 - 1, bytes(8))])),
        "array_of_arrays_deep": Case("C-012", build([array_of("a", ARRAY, 1, struct.pack("<IQ", ARRAY, 1) * 500)])),
        "array_minus_1": Case("C-013", build([array_of("a", U8, TOP, bytes(8))])),
        "array_32_bits": Case("C-013", build([array_of("a", F64, 2**32 - 1, bytes(8))])),
        "bool_255": Case("C-014", build([kv("a", BOOL, b"\xff")])),
        "alignment_3_bytes": Case("C-015", build([u32("general.alignment", 3)])),
        "alignment_u64": Case("C-015", build([kv("general.alignment", U64, struct.pack("<Q", 32))])),
        "alignment_text": Case("C-015", build([text("general.alignment", "32")])),
        "alignment_array": Case("C-015", build([array_of("general.alignment", U32, 1, struct.pack("<I", 32))])),
        "architecture_array": Case("C-016", build([strings("general.architecture", ["llama"])])),
        "dims_count_minus_1_with_dims": Case("C-020", build((), [tensor("x", [1] * 4, 0, 0, n_dims=2**31)], one)),
        "dims_wrap_to_8": Case("C-021", build((), [tensor("x", [2**61 + 1, 8], TYPE_F32, 0)], one)),
        "dims_wrap_four": Case("C-021", build((), [tensor("x", [2**16] * 4, TYPE_F32, 0)], one)),
        "blocks_wrap": Case("C-021", build((), [tensor("x", [32, 2**58 + 1], TYPE_Q8_0, 0)], one)),
        "type_minus_1": Case("C-022", build((), [tensor("x", [8], 2**32 - 1, 0)], one)),
        "type_removed_arm": Case("C-022", build((), [tensor("x", [32], 31, 0)], bytes(32))),
        "scalar_of_blocks": Case("C-023", build((), [tensor("x", [], TYPE_Q8_0, 0)], bytes(64))),
        "offset_odd": Case("C-024", build((), [tensor("x", [8], TYPE_F32, 31)], bytes(96))),
        "sum_wraps": Case(
            "C-025", build((), [tensor("x", [half // 4], TYPE_F32, 0), tensor("y", [half // 4], TYPE_F32, half)], one)
        ),
        "data_one_byte_short": Case("C-025", build((), [tensor("x", [9], TYPE_F32, 0)], floats(9)[:-1])),
        "inside_another": Case(
            "C-026", build((), [tensor("x", [32], TYPE_F32, 0), tensor("y", [8], TYPE_F32, 64)], floats(32))
        ),
        "overlap_in_disorder": Case(
            "C-026", build((), [tensor("y", [8], TYPE_F32, 32), tensor("x", [16], TYPE_F32, 0)], floats(16))
        ),
        **{f"shard_count_{name}": Case("C-027", build([record])) for name, record in kinds.items()},
        "shard_count_minus_2": Case("C-027", build([kv("split.count", I32, struct.pack("<i", -2))])),
        "shard_count_huge": Case("C-027", build([kv("split.count", U64, struct.pack("<Q", 2**63))])),
        "number_text-00001-of-00002": Case(
            "C-027", build([text("split.no", "0"), kv("split.count", U16, b"\2\0")], [ONE], one)
        ),
        "total_minus_1-00001-of-00001": Case(
            "C-105", build([kv("split.count", U16, b"\1\0")], [tensor("x", [7], 0, 0)], floats(7)), opens=True
        ),
        "two_holes": Case(
            "C-101", build((), [tensor("x", [8], 0, 64), tensor("y", [8], 0, 160)], floats(48)), opens=True
        ),
        "digests_number": Case(
            "M-001", build([u32("gguflike.digest.tensors", 1), text("gguflike.digest.header", digest)]), True
        ),
        "digests_too_many": Case(
            "M-001", build([strings("gguflike.digest.tensors", [digest]), text("gguflike.digest.header", digest)]), True
        ),
        "digest_upper_case": Case(
            "M-001", build([strings("gguflike.digest.tensors", []), text("gguflike.digest.header", "A" * 64)]), True
        ),
        "layers_text": Case(
            "M-010",
            build([text("general.architecture", "x"), text("x.block_count", "1")], [tensor("blk.0.x", [8], 0, 0)], one),
            True,
        ),
        "layer_too_high": Case(
            "M-010",
            build(
                [text("general.architecture", "x"), u32("x.block_count", 1)],
                [tensor("blk.0.x", [8], 0, 0), tensor("blk.7.x", [8], 0, 32)],
                floats(16),
            ),
            True,
        ),
        "types_many": Case("M-011", build([tokens, array_of("tokenizer.ggml.token_type", I32, 3, bytes(12))]), True),
        "id_outside": Case("M-011", build([tokens, u32("tokenizer.ggml.eos_token_id", 2)]), True),
        "id_minus_2": Case("M-011", build([tokens, kv("tokenizer.ggml.eos_token_id", I32, b"\xfe\xff\xff\xff")]), True),
        "rows_few": Case("M-011", build([tokens], [tensor("token_embd.weight", [8, 1], 0, 0)], one), True),
    }


def _models() -> dict[str, Case]:
    """Files that are no model, whatever their container is worth."""
    of_keys = {
        name: Case("M-032", model({key_of(record): record}), True, fault=key)
        for name, (key, record) in model_cases().items()
    }
    return of_keys | {name: Case("M-032", data, True, fault=tensor) for name, (tensor, data) in tensor_cases().items()}


CASES = _cases() | _more() | _models()


def files() -> dict[str, bytes]:
    """All files by name."""
    out = {}
    for name, case in CASES.items():
        out[f"{name}.gguf"] = case.data
        out |= {f"{other}.gguf": data for other, data in case.others.items()}
    return out


def outcome(path: Path, fault: str) -> str:
    """What the package says about a file: the error of opening or loading it, or what ``verify`` reports."""
    import gguflike
    from gguflike import container
    from gguflike.errors import GGUFLikeError
    from gguflike.verify import verify

    try:
        with container.open(path):
            pass
        if fault:
            gguflike.load(path, threads=1)
    except GGUFLikeError as error:
        return str(error)
    return "; ".join(str(finding) for finding in verify(path).findings)


def table(folder: Path) -> str:
    lines = [
        "# Files that break a rule",
        "",
        "Made by `scripts/gen_bad_vectors.py`, byte by byte. Rules are those of [container.md](../../container.md) and",
        "[metadata.md](../../metadata.md). A reader refuses the files marked *refused*; the others open, and",
        "`gguflike verify` reports them. Those marked *no model* open, too, and are refused when they are to run.",
        "",
        "| file | rule | opening | error |",
        "|---|---|---|---|",
    ]
    for name, case in CASES.items():
        said = outcome(folder / f"{name}.gguf", case.fault).replace(f"{folder}/", "")
        said = said.replace("|", "\\|").replace("\n", " ")
        how = "no model" if case.fault else "opens" if case.opens else "refused"
        lines.append(f"| {name}.gguf | {case.rule} | {how} | {said} |")
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    for name, data in files().items():
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text(table(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare with what is committed")
    if not parser.parse_args().check:
        FOLDER.mkdir(parents=True, exist_ok=True)
        write(FOLDER)
        return 0
    with tempfile.TemporaryDirectory() as fresh:
        write(Path(fresh))
        made = {path.name: path.read_bytes() for path in Path(fresh).iterdir()}
    kept = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    wrong = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    for name in wrong:
        print(f"{FOLDER / name} is not what {Path(__file__).name} makes", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
