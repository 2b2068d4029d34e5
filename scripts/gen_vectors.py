#!/usr/bin/env python3
"""Make spec/vectors/good: blocks that ggml itself encoded and the values that ggml itself decoded.

    python scripts/gen_vectors.py            make them anew (needs libgguf and, for three types, llama-cpp-python)
    python scripts/gen_vectors.py --check    compare the files with the manifest (needs nothing)

The package under test takes no part: bytes come from libgguf, which is ggml's reference code as a Python wheel, and
for the types it lacks (Q8_1, Q8_K, Q2_0) from the ggml library inside llama-cpp-python.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent.parent / "spec" / "vectors" / "good"
ROWS, COLUMNS = 3, 512

# name: (ggml's id, weights per block, bytes per block). Written out here, not taken from the table under test.
LIBGGUF = {
    "f16": (1, 1, 2),
    "q4_0": (2, 32, 18),
    "q4_1": (3, 32, 20),
    "q5_0": (6, 32, 22),
    "q5_1": (7, 32, 24),
    "q8_0": (8, 32, 34),
    "q2_k": (10, 256, 84),
    "q3_k": (11, 256, 110),
    "q4_k": (12, 256, 144),
    "q5_k": (13, 256, 176),
    "q6_k": (14, 256, 210),
    "iq2_xxs": (16, 256, 66),
    "iq2_xs": (17, 256, 74),
    "iq3_xxs": (18, 256, 98),
    "iq1_s": (19, 256, 50),
    "iq4_nl": (20, 32, 18),
    "iq3_s": (21, 256, 110),
    "iq2_s": (22, 256, 82),
    "iq4_xs": (23, 256, 136),
    "iq1_m": (29, 256, 56),
    "bf16": (30, 1, 2),
    "tq1_0": (34, 256, 54),
    "tq2_0": (35, 256, 66),
    "mxfp4": (39, 32, 17),
    "nvfp4": (40, 64, 36),
    "q1_0": (41, 128, 18),
}
# name: (weights per block, bytes per block, ggml's encoder, ggml's decoder or None)
GGML = {
    "q8_1": (32, 36, "quantize_row_q8_1_ref", None),
    "q8_k": (256, 292, "quantize_row_q8_K_ref", "dequantize_row_q8_K"),
    "q2_0": (64, 18, "quantize_row_q2_0_ref", "dequantize_row_q2_0"),
}


def make_input() -> np.ndarray:
    """Gaussian; tiny values behind a zero block; a constant run and outliers of 1000 times the rest."""
    x = np.random.default_rng(20260101).standard_normal((ROWS, COLUMNS))
    x[1] *= 3e-5
    x[1, :256] = 0
    x[2, 17::97] *= 1000
    x[2, 256:320] = 0.75
    return x.astype(np.float32)


def from_libgguf(x: np.ndarray, kind: int, block: int, size: int) -> tuple[bytes, bytes]:
    import libgguf

    blocks = np.asarray(libgguf.quantize_rows(x, kind)).tobytes()
    assert len(blocks) == x.size // block * size
    if block == 1:  # libgguf stores these and decodes only blocks
        wide = np.frombuffer(blocks, "<u2")
        if kind == LIBGGUF["f16"][0]:
            return blocks, wide.view(np.float16).astype(np.float32).tobytes()
        return blocks, (wide.astype(np.uint32) << 16).astype("<u4").tobytes()
    return blocks, libgguf.dequantize_rows_raw(kind, blocks, *x.shape)


def ggml_library() -> ctypes.CDLL:
    import llama_cpp

    return ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))


def from_ggml(
    library: ctypes.CDLL, x: np.ndarray, block: int, size: int, encoder: str, decoder: str | None
) -> tuple[bytes, bytes]:
    count = ctypes.c_int64(x.size)
    blocks = np.zeros((x.size // block, size), np.uint8)
    getattr(library, encoder)(x.ctypes.data_as(ctypes.c_void_p), blocks.ctypes.data_as(ctypes.c_void_p), count)
    if decoder is None:  # ggml never decodes Q8_1: float16 d, float16 s, 32 int8 codes; values are d * q
        d = blocks[:, :2].copy().view("<f2").astype(np.float32)
        return blocks.tobytes(), (d * blocks[:, 4:].view(np.int8).astype(np.float32)).tobytes()
    values = np.zeros(x.size, np.float32)
    getattr(library, decoder)(blocks.ctypes.data_as(ctypes.c_void_p), values.ctypes.data_as(ctypes.c_void_p), count)
    return blocks.tobytes(), values.tobytes()


def generate() -> dict[str, Any]:
    x = make_input()
    library = ggml_library()
    library.ggml_version.restype = library.ggml_commit.restype = ctypes.c_char_p
    commit = f"{library.ggml_version().decode()} ({library.ggml_commit().decode()})"
    ggml = f"ggml {commit}, llama-cpp-python {version('llama-cpp-python')}"
    files: dict[str, str] = {}
    makers: dict[str, str] = {}

    def put(name: str, content: bytes) -> None:
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files[name] = hashlib.sha256(content).hexdigest()

    put("input.f32", x.tobytes())
    for name, (kind, block, size) in LIBGGUF.items():
        blocks, values = from_libgguf(x, kind, block, size)
        put(f"{name}/blocks.bin", blocks)
        put(f"{name}/decoded.f32", values)
        makers[name] = f"libgguf {version('libgguf')}: quantize_rows, dequantize_rows_raw"
    for name, (block, size, encoder, decoder) in GGML.items():
        blocks, values = from_ggml(library, x, block, size, encoder, decoder)
        put(f"{name}/blocks.bin", blocks)
        put(f"{name}/decoded.f32", values)
        makers[name] = f"{ggml}: {encoder}, {decoder or 'no decoder exists; d * q in float32'}"
    return {
        "command": "python scripts/gen_vectors.py",
        "input": "float32; types that require importance weights got the sum of squares of each column",
        "shape": [ROWS, COLUMNS],
        "made_by": makers,
        "sha256": files,
    }


def check() -> list[str]:
    """What differs from the manifest."""
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    expected = manifest["sha256"]
    found = {
        path.relative_to(FOLDER).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FOLDER.rglob("*")
        if path.suffix in (".bin", ".f32")
    }
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the files with the manifest")
    if parser.parse_args().check:
        wrong = check()
        print("\n".join(f"{name}: missing, unknown or changed" for name in wrong) or "vectors match their manifest")
        return bool(wrong)
    manifest = generate()
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{len(manifest['sha256'])} files in {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
