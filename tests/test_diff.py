"""Two files compared tensor by tensor; the distances against plain numpy."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

import gguflike
from gguflike import container
from gguflike.blocks import FORMATS
from gguflike.cli import main
from gguflike.container import GGUFFile, Typed, ValueType
from gguflike.diff import CHUNK, compare, diff
from gguflike.tensor import QuantizedTensor
from tests import tiny

RNG = np.random.default_rng(3)


def stored(name: str, array: np.ndarray, fmt: str) -> QuantizedTensor:
    """Encoded by the gguf package, so that nothing of ours is on both sides."""
    kind = gguf.GGMLQuantizationType[fmt]
    data = gguf.quants.quantize(array, kind).reshape(-1).view(np.uint8)
    return QuantizedTensor(name, FORMATS[fmt], array.shape, data)


def test_distance_is_that_of_the_decoded_weights() -> None:
    x = RNG.standard_normal((37, 64)).astype(np.float32)
    a, b = stored("x", x, "F32"), stored("x", x, "Q8_0")
    decoded = gguf.quants.dequantize(b.data.reshape(37, -1), gguf.GGMLQuantizationType.Q8_0)
    apart = x.astype(np.float64) - decoded
    result = compare(a, b)
    assert result.formats == ("F32", "Q8_0")
    assert result.rmse == pytest.approx(math.sqrt((apart**2).mean()), rel=1e-9)
    assert result.relative == pytest.approx(math.sqrt((apart**2).sum() / (x.astype(np.float64) ** 2).sum()), rel=1e-9)
    assert result.largest == pytest.approx(np.abs(apart).max(), rel=1e-9)
    assert not result.identical


def test_pieces_make_the_whole() -> None:
    rows = 2 * CHUNK // 1024 + 5
    x = np.zeros((rows, 1024), np.float32)
    y = x.copy()
    y[-1, -1] = 3
    y[0, 0] = 4
    result = compare(stored("x", x, "F32"), stored("x", y, "F32"))
    assert result.rmse == pytest.approx(5 / math.sqrt(x.size))
    assert result.largest == 4
    assert math.isnan(result.relative)  # nothing to divide by


def test_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.standard_normal((2 * CHUNK // 1024 + 5, 1024)).astype(np.float32)
    y = x.copy()
    y[-1, -1] += 1
    for name, array in (("a", x), ("b", y)):
        container.write(tmp_path / name, {"general.architecture": "llama"}, [stored("x", array, "F32")])
    real, asked = GGUFFile.read, []

    def read(file: GGUFFile, name: str, start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return real(file, name, start, stop)

    monkeypatch.setattr(GGUFFile, "read", read)
    (found,) = diff(tmp_path / "a", tmp_path / "b").tensors
    assert found == compare(stored("x", x, "F32"), stored("x", y, "F32"))
    assert found.kind == "changed"
    assert max(asked) == 4 * CHUNK
    assert diff(tmp_path / "a", tmp_path / "a").identical


def test_identical_bytes_are_not_decoded() -> None:
    fmt = FORMATS["Q8_0"]
    nan = QuantizedTensor("x", fmt, (1, 32), np.full(34, 0xFF, np.uint8))
    result = compare(nan, nan)
    assert (result.identical, result.rmse) == (True, 0.0)


def test_other_shape_has_no_distance() -> None:
    x = np.ones((2, 32), np.float32)
    result = compare(stored("x", x, "F32"), stored("x", x.reshape(1, 64), "F32"))
    assert result.shapes == ((2, 32), (1, 64))
    assert math.isnan(result.rmse)


def test_files(tmp_path: Path) -> None:
    x, y = RNG.standard_normal((2, 4, 32)).astype(np.float32)
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    container.write(
        first,
        {"k": 1, "gone": "x", "list": ["a"]},
        [stored("x", x, "F32"), stored("y", y, "F32"), stored("z", x, "F16")],
    )
    container.write(
        second,
        {"k": -1, "list": ["a"], "new": True},
        [stored("x", x, "F32"), stored("y", y, "Q4_0"), stored("w", x, "F16")],
    )
    result = diff(first, second)
    assert [(t.name, t.identical) for t in result.tensors] == [("x", True), ("y", False)]
    assert (result.only_first, result.only_second) == (("z",), ("w",))
    assert (result.metadata_only_first, result.metadata_only_second) == (("gone",), ("new",))
    assert set(result.metadata_changed) == {"k", "gguflike.digest.tensors", "gguflike.digest.header"}
    assert not result.identical
    calls: list[tuple[int, int, str]] = []
    assert diff(first, first, progress=lambda *call: calls.append(call)).identical
    assert calls[0] == (0, 512 + 512 + 256, "x")
    assert calls[-1] == (1280, 1280, "")


def test_figures_of_two_vectors() -> None:
    a, b = np.array([[3.0, 4.0]], np.float32), np.array([[4.0, 3.0]], np.float32)
    result = compare(stored("x", a, "F32"), stored("x", b, "F16"))
    assert result.cosine == pytest.approx(24 / 25)
    assert result.relative == pytest.approx(math.sqrt(2) / 5)
    assert result.bits == (32.0, 16.0)
    assert result.nbytes == (8, 4)
    assert result.kind == "retyped"
    assert compare(stored("x", a, "F32"), stored("x", a, "F32")).kind == "same"
    assert compare(stored("x", a, "F32"), stored("x", -a, "F32")).cosine == -1
    assert compare(stored("x", a, "F32"), stored("x", b, "F32")).kind == "changed"


def test_what_is_not_finite_has_no_distance() -> None:
    a = np.ones((2, 32), np.float32)
    b = a.copy()
    b[1, 3] = np.nan
    for x, y in ((a, b), (b, a)):
        result = compare(stored("x", x, "F32"), stored("x", y, "F32"))
        assert not result.identical
        assert all(map(math.isnan, (result.rmse, result.relative, result.largest, result.cosine)))


def test_the_worst_come_first(tmp_path: Path) -> None:
    x = RNG.standard_normal((4, 32)).astype(np.float32)
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    container.write(first, {}, [stored(name, x, "F32") for name in "abcd"])
    container.write(
        second,
        {},
        [stored("a", x, "Q8_0"), stored("b", x, "Q4_0"), stored("c", x, "F32"), stored("d", x.reshape(2, 64), "F32")],
    )
    assert [tensor.name for tensor in diff(first, second).worst] == ["d", "b", "a"]


def test_values_that_changed_are_told(tmp_path: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    x = stored("x", np.ones((1, 32), np.float32), "F32")
    container.write(first, {"n": 1, "list": ["a", "b", "c"], "short": [1], "gone": True}, [x])
    container.write(second, {"n": 1.5, "list": ["a", "x", "y"], "short": [1, 2], "new": "s"}, [x])
    found = {each.key: each for each in diff(first, second).metadata if not each.key.startswith("gguflike")}
    assert list(found) == ["n", "list", "short", "gone", "new"]
    assert (found["n"].old, found["n"].new) == (Typed(1, ValueType.UINT32), Typed(1.5, ValueType.FLOAT32))
    assert (found["list"].differs, found["list"].first) == (2, 1)
    assert (found["short"].differs, found["short"].first) == (0, -1)
    assert (found["gone"].new, found["new"].old) == (None, None)


def test_a_long_text_costs_its_length_and_not_that_of_each_beside_it(tmp_path: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    x = stored("x", np.ones((1, 32), np.float32), "F32")
    for path, long in ((first, "x" * 1_000_000), (second, "y" * 1_000_000)):
        container.write(path, {"tokens": [*map(str, range(500)), long], "text": long, "nan": [1.0, math.nan]}, [x])
    for other, differing in ((first, []), (second, ["tokens", "text"])):
        tracemalloc.start()
        found = [each for each in diff(first, other).metadata if not each.key.startswith("gguflike")]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [each.key for each in found] == differing  # NaN is NaN, of the same file at least
        assert [each.first for each in found] == [500, -1][: len(found)]
        assert peak < 32 << 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("diff") / "hf")


def test_a_checkpoint_and_the_file_made_of_it(checkpoint: Path, tmp_path: Path) -> None:
    exact, rounded = tmp_path / "exact.gguf", tmp_path / "rounded.gguf"
    gguflike.convert(checkpoint, exact, "F32")
    assert diff(checkpoint, exact).identical
    assert diff(exact, checkpoint).identical
    assert diff(checkpoint, checkpoint).identical
    gguflike.convert(checkpoint, rounded, "Q8_0")
    result, files = diff(checkpoint, rounded), diff(exact, rounded)
    assert [each.name for each in result.tensors] == [each.name for each in files.tensors]
    for mine, other in zip(result.tensors, files.tensors, strict=True):
        assert mine.rmse == pytest.approx(other.rmse, rel=1e-6)
        assert mine.cosine == pytest.approx(other.cosine, rel=1e-9)
        assert mine.formats[1] == other.formats[1]
    assert not result.identical
    assert result.metadata == ()  # of the model they say the same


def test_slabs_of_a_checkpoint_make_the_whole(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguflike.convert(checkpoint, tmp_path / "m.gguf", "Q8_0")
    whole = diff(checkpoint, tmp_path / "m.gguf")
    module = sys.modules["gguflike.convert.folder_tensors"]  # the package has a function for a name on the way
    monkeypatch.setattr(module, "SLAB_BYTES", 1 << 10)
    pieces = diff(checkpoint, tmp_path / "m.gguf")
    for one, other in zip(whole.tensors, pieces.tensors, strict=True):
        assert one.rmse == pytest.approx(other.rmse, rel=1e-9)


def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.gguf"
    gguflike.convert(checkpoint, file, "Q8_0")
    assert main(["diff", str(checkpoint), str(file), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert {each["kind"] for each in document["tensors"]} == {"same", "retyped"}
    gguflike.edit(file, tmp_path / "n.gguf", values={"general.name": "other"})
    assert main(["diff", str(file), str(tmp_path / "n.gguf")]) == 1
    shown = capsys.readouterr().out
    assert "metadata changed: general.name" in shown
    assert "-> 'other' (string)" in shown
    assert main(["diff", str(file), str(file)]) == 0
    assert capsys.readouterr().out == "identical\n"
    assert main(["diff", str(file)]) == 2
    for wrong, status in (("", 1), (str(tmp_path / "nothing"), 1)):
        assert main(["diff", str(file), wrong]) == status
        assert "No such file" in capsys.readouterr().err


def test_no_page_takes_the_place_of_what_is_compared(checkpoint: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "m.gguf", tmp_path / "n.gguf"
    gguflike.convert(checkpoint, one, "Q8_0")
    gguflike.edit(one, other, values={"general.name": "other"})
    assert main(["diff", str(one), str(other), "--html", str(tmp_path / "new" / "page.html")]) == 1
    assert (tmp_path / "new" / "page.html").stat().st_size > 10_000
    before = one.read_bytes(), other.read_bytes(), (checkpoint / "config.json").read_bytes()
    for first, page in ((one, one), (one, other), (checkpoint, checkpoint / "config.json")):
        assert main(["diff", str(first), str(other), "--html", str(page), "--overwrite"]) == 1
    assert before == (one.read_bytes(), other.read_bytes(), (checkpoint / "config.json").read_bytes())
