"""Held-out figures in a file's own header: written with it or afterwards, shown by inspect and on the Hub's page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import model_card, quality
from gguflike.cli import main
from gguflike.container import Typed, ValueType
from gguflike.convert.carded import in_floats
from gguflike.convert.from_checkpoint import plan_conversion
from gguflike.errors import ArgumentError, DigestError, UnsupportedError
from gguflike.evaluate import evaluation
from gguflike.evaluate.models import float_file
from gguflike.upload import _entries
from tests import tiny

rng = np.random.default_rng(3)
TEXT = {name: " ".join(rng.choice(["ab", "cd", "the", "of", "x"], 200)) for name in ("a", "b")}
CONTEXT = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("card") / "hf")


@pytest.fixture(scope="module")
def carded(folder: Path) -> Path:
    path = folder.parent / "carded.gguf"
    gguflike.convert(folder, path, "Q8_0", card=gguflike.Card(TEXT, context=CONTEXT))
    return path


def said(path: Path) -> dict[str, Any]:
    with gguflike.open(path) as file:
        found = {key.removeprefix(quality.PREFIX): file.metadata[key] for key in file.metadata if "quality" in key}
        return {key: value if isinstance(value, str | int) else list(value) for key, value in found.items()}


def test_a_file_says_what_eval_finds(folder: Path, carded: Path) -> None:
    got = said(carded)
    found = gguflike.evaluate(carded, TEXT, reference=folder, context=CONTEXT)
    assert list(got["texts"]) == ["a", "b"]
    assert got["reference"] == "hf"
    assert (got["context"], got["scored"]) == (CONTEXT, "half")
    for index, name in enumerate(TEXT):
        kind = found.of(name)
        assert got["tokens"][index] == kind.tokens
        assert kind.kl is not None
        assert got["kl"][index] == float(f"{kind.kl.value:.4g}") > 0
        assert got["kl_error"][index] == float(f"{kind.kl.error:.4g}")
        assert got["perplexity"][index] == float(f"{kind.perplexity.value:.4g}")
    assert gguflike.verify(carded).ok


def test_the_same_conversion_gives_the_same_bytes(folder: Path, carded: Path, tmp_path: Path) -> None:
    gguflike.convert(folder, tmp_path / "again.gguf", "Q8_0", card=gguflike.Card(TEXT, context=CONTEXT), threads=1)
    assert (tmp_path / "again.gguf").read_bytes() == carded.read_bytes()


def test_figures_change_nothing_else(folder: Path, carded: Path, tmp_path: Path) -> None:
    gguflike.convert(folder, tmp_path / "plain.gguf", "Q8_0")
    difference = gguflike.diff(tmp_path / "plain.gguf", carded)
    assert all("quality" in key for key in difference.metadata_only_second)
    assert difference.metadata_only_first == ()
    assert all(tensor.identical for tensor in difference.tensors)


def test_what_cannot_be_measured_is_said_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="'x' is too short for a chunk"):
        gguflike.convert(folder, tmp_path / "x.gguf", "Q8_0", card=gguflike.Card({"x": "a"}, context=CONTEXT))
    card = gguflike.Card(TEXT, context=CONTEXT)
    with pytest.raises(UnsupportedError, match=r"several files.*eval --card"):
        gguflike.convert(folder, tmp_path / "x.gguf", "Q8_0", card=card, split_max_tensors=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["t.txt", "t.jsonl"])
def test_text_that_is_calibrated_on_is_not_held_out(folder: Path, tmp_path: Path, name: str) -> None:
    text = tmp_path / name
    text.write_text(TEXT["a"] if name == "t.txt" else json.dumps({"text": TEXT["a"]}))
    asked: dict[str, Any] = {"effort": 1, "calibration": [text], "dry_run": True}
    card = gguflike.Card([text], context=CONTEXT)
    for settings in (asked, {**asked, "effort": 0, "fold": "awq"}):
        with pytest.raises(ArgumentError, match=r"text: calibrated on, too: .*got t; measure on text that is held out"):
            gguflike.convert(folder, None, "Q8_0", card=card, **settings)
    gguflike.convert(folder, None, "Q8_0", card=gguflike.Card({"b": TEXT["b"]}, context=CONTEXT), **asked)
    gguflike.convert(folder, None, "Q8_0", card=card, dry_run=True)


def test_a_run_that_is_cut_off_while_measuring_goes_on_there(
    folder: Path, carded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "m.gguf"
    target.parent.mkdir()
    card = gguflike.Card(TEXT, context=CONTEXT)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.streaming, "stream", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match="tensors are kept"):
            gguflike.convert(folder, target, "Q8_0", card=card)
    assert not target.exists()
    plan = gguflike.convert(folder, target, "Q8_0", card=card)
    count = len(plan.tensors)
    assert f"goes on where it was cut off: {count} of {count} tensors are written already" in plan.notices
    assert target.read_bytes() == carded.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["m.gguf"]


def test_a_plan_in_floats_is_the_checkpoint_itself(folder: Path, tmp_path: Path) -> None:
    from gguflike.convert.execute import execute

    plan = in_floats(plan_conversion(folder, tmp_path / "q.gguf", "Q4_0"), tmp_path / "f.gguf")
    execute(plan)
    with float_file(folder) as path, gguflike.open(path) as want, gguflike.open(tmp_path / "f.gguf") as got:
        for name in want.tensors:
            assert np.array_equal(want.tensors[name].dequantize(), got.tensors[name].dequantize()), name


def test_encoding_anew_forgets_the_figures_and_copying_keeps_them(carded: Path, tmp_path: Path) -> None:
    gguflike.quantize_file(carded, tmp_path / "q.gguf", "Q4_0")
    assert said(tmp_path / "q.gguf") == {}
    gguflike.quantize_file(carded, tmp_path / "c.gguf", "COPY")
    assert said(tmp_path / "c.gguf") == said(carded)


# Afterwards


def test_figures_are_written_into_a_file_that_is_there(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = tmp_path / "m.gguf", tmp_path / "a.txt"
    gguflike.convert(folder, path, "Q8_0")
    text.write_text(TEXT["a"])
    before = {tensor.name: tensor.data.tobytes() for tensor in gguflike.open(path).tensors.values()}
    command = ["eval", str(path), "--reference", str(folder), "--text", str(text), "--context", "16", "--card"]
    for _ in range(2):  # the second time in place of the first
        assert main(command) == 0
    after = {tensor.name: tensor.data.tobytes() for tensor in gguflike.open(path).tensors.values()}
    assert after == before
    assert list(said(path)["texts"]) == ["a"]
    assert said(path)["reference"] == "hf"
    assert gguflike.verify(path).ok
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".txt"] == ["m.gguf"]
    capsys.readouterr()
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "KL divergence from hf in floats" in shown
    assert "KL divergence" in shown
    assert main(["inspect", str(path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["quality"]
    assert row["text"] == "a"
    assert row["kl"] == said(path)["kl"][0]


def test_a_damaged_file_is_not_written_anew(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    gguflike.convert(folder, path, "Q8_0")
    found = gguflike.evaluate(path, {"a": TEXT["a"]}, reference=path, context=CONTEXT)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    from gguflike.evaluate import card

    with pytest.raises(DigestError, match="SHA-256"):
        card.write(path, found, {"a": TEXT["a"]})
    assert path.read_bytes() == bytes(data)


def test_of_a_split_model_the_first_file_says_it(folder: Path, tmp_path: Path) -> None:
    gguflike.convert(folder, tmp_path / "m.gguf", "Q8_0", split_max_tensors=5)
    first, *others = sorted(tmp_path.iterdir())
    kept = [path.read_bytes() for path in others]
    found = gguflike.evaluate(first, {"a": TEXT["a"]}, reference=folder, context=CONTEXT)
    from gguflike.evaluate import card

    card.write(others[0], found, {"a": TEXT["a"]})
    assert [path.read_bytes() for path in others] == kept
    assert list(said(first)["texts"]) == ["a"]
    assert gguflike.verify(first).ok


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--card"], "--card needs a GGUF file on disk, a --reference and a --text"),
        (["--card", "--reference", "x"], "--card needs"),
    ],
)
def test_eval_card_needs_both(carded: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(carded), *words]) == 2
    assert message in capsys.readouterr().err


def test_convert_has_the_flags(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT["a"])
    words = ["convert", str(folder), "-o", str(tmp_path / "m.gguf"), "-t", "Q8_0", "--text", str(tmp_path / "a.txt")]
    assert main(words) == 2
    assert "--text is for --card" in capsys.readouterr().err
    for flag, value in (("--context", "16"), ("--tokens", "64"), ("--score", "all")):
        assert main([*words[:-2], flag, value]) == 2
        assert f"{flag} is for --card" in capsys.readouterr().err
    assert main([*words, "--card", "--context", "16", "--score", "all"]) == 0
    assert "measured on held-out text" in capsys.readouterr().out
    assert said(tmp_path / "m.gguf")["scored"] == "all"


# Words


def test_figures_take_as_many_bytes_blank_as_filled() -> None:
    from gguflike import container

    protocol = quality.Protocol("x", 512, "half", {"a": "0" * 64, "b": "1" * 64})
    full = quality.values(protocol, [10, 2**40], [dict.fromkeys(quality.FIGURES, 1.23456)] * 2)
    assert len(container.plan(quality.blank(protocol), []).header) == len(container.plan(full, []).header)
    assert list(full["gguflike.quality.kl"].value) == [1.235, 1.235]


@pytest.mark.parametrize(("value", "want"), [(0.0123456, 0.01235), (123456.0, 123500.0), (0.0, 0.0)])
def test_numbers_have_four_digits(value: float, want: float) -> None:
    assert quality.rounded(value) == want
    assert math.isnan(quality.rounded(None))


@pytest.mark.parametrize(
    "change",
    [
        {"kl": Typed([1.0], ValueType.ARRAY, ValueType.FLOAT64)},
        {"tokens": Typed(3, ValueType.UINT32)},
        {"texts": Typed("ab", ValueType.STRING)},
    ],
)
def test_figures_that_do_not_fit_each_other_are_none(change: dict[str, Typed], tmp_path: Path) -> None:
    protocol = quality.Protocol("x", 512, "half", {"a": "0" * 64, "b": "1" * 64, "c": "2" * 64})
    metadata = {**quality.blank(protocol), **{quality.PREFIX + key: value for key, value in change.items()}}
    gguflike.write(tmp_path / "m.gguf", metadata, [])
    with gguflike.open(tmp_path / "m.gguf") as file:
        assert quality.rows(file.metadata) == []
        assert gguflike.describe(file)["quality"] == []


def test_the_page_on_the_hub_has_the_figures(carded: Path, folder: Path, tmp_path: Path) -> None:
    page = model_card.page("org/name", _entries([str(carded)], None))
    assert "## Quality" in page
    assert f"| `carded.gguf` | `a` | {said(carded)['tokens'][0]} |" in page
    gguflike.convert(folder, tmp_path / "plain.gguf", "Q8_0")
    assert "## Quality" not in model_card.page("org/name", _entries([str(tmp_path / "plain.gguf")], None))
