"""The byte builder and the catalogue of hostile files of scripts/gen_bad_vectors.py, and a good file made with it."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType

from gguflike.container.findings import Finding
from gguflike.verify import Report

ROOT = Path(__file__).parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_bad_vectors", ROOT / "scripts" / "gen_bad_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    builder = sys.modules["gguf_bytes"]  # of which that takes what it needs, and tests take all
    vars(module).update({name: value for name, value in vars(builder).items() if not name.startswith("_")})
    return module


bad = load()


def damage(report: Report) -> list[Finding]:
    """What verify found wrong or odd, but that weights are not plausible or that no model runs: the files of these
    tests hold bytes drawn at random."""
    of_models = ("M-020", "M-021", "M-022", "M-032")
    return [finding for finding in report.findings if finding.rule not in of_models]


def small_file(order: str = "<") -> bytes:
    """One of everything: each kind of value, a quantized tensor, a padded one, a scalar."""
    kvs = [
        bad.kv("general.architecture", bad.STRING, bad.string("llama", order=order), order),
        bad.u32("general.alignment", 32, order),
        bad.kv("flag", bad.BOOL, b"\1", order),
        bad.kv("wide", bad.F64, struct.pack(order + "d", 0.1), order),
        bad.kv("ints", bad.ARRAY, struct.pack(order + "IQ3i", bad.I32, 3, 1, -2, 3), order),
        bad.kv(
            "tokens",
            bad.ARRAY,
            struct.pack(order + "IQ", bad.STRING, 12) + b"".join(bad.string(f"t{i}", order=order) for i in range(12)),
            order,
        ),
    ]
    tensors = [
        bad.tensor("blk.0.q", [32, 2], bad.TYPE_Q8_0, 0, order=order),
        bad.tensor("blk.0.n", [3], bad.TYPE_F32, 96, order=order),
        bad.tensor("s", [], bad.TYPE_F16, 128, order=order),
    ]
    return bad.build(kvs, tensors, bytes(range(1, 161)), order=order)
