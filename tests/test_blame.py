"""`gguflike eval --blame`: what each tensor costs, by files that are written with that tensor in floats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gguflike
from gguflike.cli import main
from gguflike.container.overlay import Overlay
from gguflike.errors import ArgumentError, UnsupportedError
from gguflike.evaluate import blame as blaming
from gguflike.evaluate.blame import blame
from tests import tiny_gguf

TEXT = {"letters": "".join(np.random.default_rng(7).choice(list("abcdefghij klmno\n"), 200))}
CONTEXT = 32


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of floats, and its feed-forward matrices in 4 bits."""
    folder = tmp_path_factory.mktemp("blame")
    floats, model = folder / "float.gguf", folder / "model.gguf"
    tiny_gguf.write(floats, "F32", n_layer=1)
    gguflike.quantize_file(floats, model, "F32", tensor_types=["ffn=Q4_0", "attn_v=Q4_0"])
    return floats, model


def test_costs_are_those_of_files_with_the_tensor_in_floats(two: tuple[Path, Path], tmp_path: Path) -> None:
    floats, model = two
    got = blame(model, TEXT, reference=floats, context=CONTEXT)
    whole = gguflike.evaluate(model, TEXT, reference=floats, context=CONTEXT).of("letters").kl
    assert got.kl == whole
    assert whole is not None
    names = ["ffn_gate", "ffn_up", "ffn_down", "attn_v"]
    assert sorted(cost.tensor for cost in got.costs) == sorted(f"blk.0.{name}.weight" for name in names)
    for cost in got.costs:
        name = cost.tensor.split(".")[2]
        kept = [f"{each}=Q4_0" for each in names if each != name]
        gguflike.quantize_file(floats, tmp_path / f"{name}.gguf", "F32", tensor_types=kept)
        swapped = gguflike.evaluate(tmp_path / f"{name}.gguf", TEXT, reference=floats, context=CONTEXT)
        left = swapped.of("letters").kl
        assert left is not None
        assert cost.saved is not None
        assert cost.saved.value == pytest.approx(whole.value - left.value, rel=1e-9)
        assert cost.share == pytest.approx(cost.saved.value / whole.value)
        with gguflike.open(floats) as a, gguflike.open(model) as b:
            w, q = (each.tensors[cost.tensor].dequantize() for each in (a, b))
        assert cost.error == pytest.approx(np.linalg.norm(w - q) / np.linalg.norm(w), rel=1e-5)
        assert (cost.type, cost.nbytes) == ("Q4_0", w.size // 32 * 18)
    values = [cost.saved.value for cost in got.costs if cost.saved]
    assert values == sorted(values, reverse=True)
    assert max(values) > 0


def test_the_number_of_passes_is_bounded(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst by their error are measured, one pass of each, and all are named; the order does not depend on how
    many are in memory at once."""
    floats, model = two
    seen: list[tuple[int, int, str]] = []
    got = blame(model, TEXT, reference=floats, most=2, context=CONTEXT, progress=lambda *call: seen.append(call))
    measured = [cost for cost in got.costs if cost.saved is not None]
    assert got.costs[:2] == tuple(measured)
    assert min(cost.error for cost in measured) >= max(cost.error for cost in got.costs[2:])
    evaluated = [call for call in seen if call[2].startswith("evaluating")]
    assert evaluated[-1][0] == evaluated[-1][1]
    monkeypatch.setattr(blaming, "AT_ONCE", 1)
    assert blame(model, TEXT, reference=floats, most=2, context=CONTEXT) == got


def test_what_cannot_be_blamed(two: tuple[Path, Path]) -> None:
    floats, model = two
    with pytest.raises(UnsupportedError, match="no quantized tensor that the reference has in another form"):
        blame(floats, TEXT, reference=floats, context=CONTEXT)
    with pytest.raises(UnsupportedError, match=r"4 quantized tensors, all as in .*model\.gguf"):
        blame(model, TEXT, reference=model, context=CONTEXT)
    with pytest.raises(ArgumentError, match="most: out of range"):
        blame(model, TEXT, reference=floats, most=0, context=CONTEXT)


def test_an_overlay_is_the_file_but_for_some_tensors(two: tuple[Path, Path]) -> None:
    floats, model = two
    name = "blk.0.ffn_up.weight"
    with gguflike.open(floats) as a, gguflike.open(model) as b:
        mixed = Overlay(b, a, {name}, {"output_norm.weight"})
        assert list(mixed.infos) == [each for each in b.infos if each != "output_norm.weight"]
        assert "output_norm.weight" not in mixed.tensors
        assert mixed.infos[name].format.name == "F32"
        assert mixed.tensors[name].data.tobytes() == a.tensors[name].data.tobytes()
        assert mixed.infos["blk.0.ffn_down.weight"].format.name == "Q4_0"
        mixed.close()
        assert b.tensors[name].nbytes


def test_the_command(two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    floats, model = two
    (tmp_path / "a.txt").write_text(TEXT["letters"])
    command = ["eval", str(model), "--text", str(tmp_path / "a.txt"), "--context", "32", "--blame"]
    assert main(command) == 2
    assert "--blame needs a --reference" in capsys.readouterr().err
    assert main([*command, "2", "--reference", str(floats)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("%" in line for line in lines) == 2
    assert sum("Q4_0" in line for line in lines) == 4
    assert main([*command, "--reference", str(floats), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["tensors"]) == 4
    assert document["tensors"][0]["saved"]["value"] > 0
