"""gguflike.runner.bench: the document, not the speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguflike.errors import UnsupportedError
from gguflike.runner.bench import bench
from gguflike.runner.model import Model
from tests import tiny_gguf


def test_bench_reports_speed_beside_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gguflike.runner.bench.READ_BYTES", 1 << 20)
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0")
    result = bench(tmp_path / "m.gguf", threads=2, prompt_tokens=20, new_tokens=5, repeat=1)
    assert (result["threads"], result["prompt_tokens"], result["new_tokens"]) == (2, 20, 5)
    for key in ("load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "machine_gb_per_s", "machine_tera_ops_per_s"):
        assert result[key] > 0, key
    # 8.5 bits a weight; rows come in groups of 32: 300 rows of the head take the room of 320.
    per_layer = 64 * (128 + 64 + 64) + 128 * 64 + 3 * 96 * 64
    assert result["weight_bytes"] == (2 * per_layer + 320 * 64) * 34 // 32
    assert result["decode_gb_per_s"] == pytest.approx(result["decode_tokens_per_s"] * result["weight_bytes"] / 1e9)
    operations = 2 * 2 * per_layer
    assert result["prefill_tera_ops_per_s"] == pytest.approx(result["prefill_tokens_per_s"] * operations / 1e12)


def test_bench_longer_than_the_context(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0", n_ctx=64)
    with pytest.raises(UnsupportedError, match="longer than the context"):
        bench(tmp_path / "m.gguf", threads=1, prompt_tokens=65, new_tokens=5)


def test_what_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of its length at once, then one token after the other, each behind the last."""
    monkeypatch.setattr("gguflike.runner.bench.READ_BYTES", 1 << 20)
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0")
    passes: list[tuple[int, int]] = []
    real = Model.extend

    def extend(self: Model, ids: list[int], position: int, *more: bool) -> object:
        passes.append((len(ids), position))
        return real(self, ids, position, *more)

    monkeypatch.setattr(Model, "extend", extend)
    bench(tmp_path / "m.gguf", threads=1, prompt_tokens=20, new_tokens=5, repeat=1)
    decoding = [(1, position) for position in range(6)]
    assert passes == 2 * [(20, 0)] + 2 * decoding or passes == 2 * decoding + 2 * [(20, 0)]
