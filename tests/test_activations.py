"""Activations rounded by ranges that are known before: the op, models that run so, and how ranges come into files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike import reference
from gguflike.activations import PREFIX, Fixed, fixed
from gguflike.cli import main
from gguflike.container import Typed, ValueType
from gguflike.container.restate import restate
from gguflike.errors import ArgumentError, GGUFError, UnsupportedError
from gguflike.kernels.engine import native
from gguflike.kernels.engine.args import float_bits
from gguflike.kernels.engine.memory import op_state
from gguflike.kernels.matmul.records import activation_arrays
from gguflike.kernels.vector.args import FIXED_ROWS, QUANTIZE_ROWS
from gguflike.progress import unit
from gguflike.reference.rounded import RoundedInputs
from gguflike.runner.network import FIXED
from gguflike.runner.schedule import step_of
from tests import by_hand, test_parts, tiny
from tests.by_hand import IDS
from tests.measures import relative_error
from tests.test_refine import EXPERTS

RNG = np.random.default_rng(0)
GRAPHS = {**test_parts.GRAPHS, "llama": by_hand.graph(), "experts": EXPERTS}
TEXT = " ".join(RNG.choice(["ab", "cd", "the", "of", "x"], 300))


def rounded(x: np.ndarray, clip: float, massive: float) -> dict[str, np.ndarray]:
    """What the op makes of activations."""
    arrays = activation_arrays(*x.shape)
    places = {name: values.ctypes.data for name, values in arrays.items()}
    numbers = {"step": float_bits(step_of(clip)), "massive": float_bits(massive)}
    words = FIXED_ROWS.pack(x=x.ctypes.data, columns=x.shape[1], **places, **numbers)
    native.call("vector.fixed:rows")(np.array(words, np.int64).ctypes.data, op_state().ctypes.data, 0, len(x))
    return arrays


def dynamic(x: np.ndarray) -> dict[str, np.ndarray]:
    arrays = activation_arrays(*x.shape)
    places = {name: values.ctypes.data for name, values in arrays.items()}
    words = QUANTIZE_ROWS.pack(x=x.ctypes.data, columns=x.shape[1], **places)
    native.call("vector.quantize:rows")(np.array(words, np.int64).ctypes.data, op_state().ctypes.data, 0, len(x))
    return arrays


def test_codes_are_multiples_of_the_step_and_saturate() -> None:
    x = RNG.standard_normal((5, 96)).astype(np.float32)
    x[1, 7], x[2, 90] = 40, -90
    got, step = rounded(x, 2.0, 100.0), step_of(2.0)
    assert abs(step * 127 / 2 - 1) < 2**-11
    assert np.array_equal(got["codes"], np.clip(np.rint(x / np.float32(step)), -127, 127))
    assert (got["scales"] == np.float32(step)).all()
    assert np.array_equal(got["sums"], got["codes"].reshape(5, 6, 16).sum(axis=2))


@pytest.mark.parametrize("value", [101.0, -1e30, np.inf, np.nan])
def test_massive_tokens_are_rounded_by_what_they_hold(value: float) -> None:
    x = RNG.standard_normal((3, 64)).astype(np.float32)
    x[1, 33] = value
    got, alone = rounded(x, 2.0, 100.0), dynamic(x)
    for name, values in got.items():
        same = [np.array_equal(a, b, equal_nan=True) for a, b in zip(values, alone[name], strict=True)]
        assert same == [False, True, False], name


def static_by_hand(ranges: dict[str, Fixed]) -> Any:
    """What runs with ``ranges`` rounds its inputs to, by numpy."""

    def apply(name: str, x: np.ndarray) -> np.ndarray:
        of = ranges.get(name)
        blocks = x.reshape(len(x), -1, 32)
        largest = np.abs(blocks).max(axis=2, keepdims=True)
        result = (np.rint(blocks * 127 / largest) * largest / 127).reshape(x.shape)
        if of is not None:
            step = step_of(of.clip)
            usual = np.abs(x).max(axis=1) <= of.massive
            result[usual] = np.clip(np.rint(x / step), -127, 127)[usual] * step
        return np.asarray(result)

    return apply


@pytest.mark.parametrize("name", ["llama", "gelu, not gated", "fused gelu", "vectors for each layer", "experts"])
def test_a_model_rounds_by_its_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What the reference gives with inputs rounded so; the same bits alone, with others, and in pieces."""
    made = GRAPHS[name]
    weights = by_hand.write(tmp_path / "m.gguf", made, "Q8_0")
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    inputs: dict[str, np.ndarray] = {}

    def watch(name: str, x: np.ndarray) -> np.ndarray:
        inputs[name] = x
        return x

    reference.logits(made, RoundedInputs(exact, watch), IDS)
    with by_hand.load(tmp_path / "m.gguf", made, monkeypatch, cache_type="f32") as model:
        plain = model.logits(IDS)
        ranges = {}
        for each, x in inputs.items():
            if each in model.weights._matrices:
                typical = float(np.median(np.abs(x).max(axis=1)))
                all_massive = each.endswith("ffn_down.weight")  # so that what it reads is rounded by what it holds
                ranges[each] = Fixed(0.3 * typical, 1e-3 * typical if all_massive else 1e9)
        model.fix(ranges)
        got = model.logits(IDS)
        assert np.array_equal(by_hand.token_by_token(model, IDS), got)
        assert np.array_equal(by_hand.in_pieces(model, IDS, (3, 1, 6)), got)
        model.fix({})
        assert np.array_equal(model.logits(IDS), plain)
    if name != "experts":  # whose stacks the reference does not round
        want = reference.logits(made, RoundedInputs(exact, static_by_hand(ranges)), IDS)
        assert relative_error(got, want) < 0.2 * relative_error(plain, want)
    assert relative_error(got, plain) > 0.05


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A file with ranges, and what was found."""
    folder = tmp_path_factory.mktemp("ranges")
    source, text = tiny.checkpoint(folder / "hf"), folder / "text.txt"
    text.write_text(TEXT)
    gguflike.convert(source, folder / "m.gguf", "Q8_0")
    said: list[str] = []
    found = gguflike.calibrate_activations(
        folder / "m.gguf", calibration=[text], context=32, progress=lambda *told: said.append(told[2])
    )
    assert {unit(what) for what in said if not what.startswith("load")} <= {"", "kernels"}  # no numbers of bytes
    assert any("with static blk.0.attn_q.weight" in what for what in said)
    return folder / "m.gguf", found


def test_ranges_are_kept_in_the_file(calibrated: tuple[Path, Any]) -> None:
    path, found = calibrated
    with gguflike.open(path) as file:
        said = {key.removeprefix(PREFIX): file.metadata[key] for key in file.metadata if key.startswith(PREFIX)}
        static, hybrid = (fixed(file.metadata, mode, str(path)) for mode in FIXED)
    assert list(said["texts"]) == ["text.txt"]
    assert (said["observer"], said["tokens"]) == ("least-error", found.tokens)
    assert set(hybrid) <= set(static)
    assert (len(static), len(hybrid)) == (found.matrices, found.hybrid)
    assert "output.weight" in static
    assert static["blk.0.attn_q.weight"] == static["blk.0.attn_k.weight"] != static["blk.0.ffn_down.weight"]
    assert found.hybrid_kl <= 1.05 * found.dynamic_kl
    assert gguflike.verify(path).ok


def test_a_file_runs_by_its_ranges(calibrated: tuple[Path, Any]) -> None:
    path, found = calibrated
    ids = [1, 4, 9, 3, 7]
    logits = {}
    for mode in ("dynamic", "adaptive", "hybrid", "static"):
        with gguflike.load(path, activations=mode) as model:
            logits[mode] = model.logits(ids)
    assert not np.array_equal(logits["static"], logits["dynamic"])
    assert np.array_equal(logits["hybrid"], logits["dynamic"]) == (found.hybrid == 0)
    assert relative_error(logits["static"], logits["adaptive"]) < 0.1
    kinds = {"text": TEXT}
    quality = gguflike.evaluate(path, kinds, reference=path, context=16, activations="static").of("text")
    assert quality.kl is not None
    assert 0 < quality.kl.value < 0.1


def computes(*_: Any) -> None:
    raise AssertionError


def test_the_command_and_what_it_refuses(
    calibrated: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = tmp_path / "m.gguf", tmp_path / "text.txt"
    path.write_bytes(calibrated[0].read_bytes())
    text.write_text(TEXT)
    command = ["calibrate", str(path), "--activations", "min-max", "--calibration", str(text), "--context", "32"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matrices"] == calibrated[1].matrices
    with gguflike.open(path) as file:
        assert file.metadata[f"{PREFIX}observer"] == "min-max"
    assert main([*command, "-o", "x.gguf"]) == 2
    assert "-o has no part in that" in capsys.readouterr().err
    gguflike.quantize_file(path, tmp_path / "other.gguf", "Q4_0", allow_requantize=True)
    with pytest.raises(UnsupportedError, match=r"calibrate .* --activations"):
        gguflike.load(tmp_path / "other.gguf", activations="static")
    gguflike.quantize_file(path, tmp_path / "floats.gguf", "F32", allow_requantize=True)
    with pytest.raises(ArgumentError, match="no matrix of the file"):
        gguflike.calibrate_activations(tmp_path / "floats.gguf", calibration=[text], context=32, progress=computes)
    with pytest.raises(ArgumentError, match="expected a GGUF file on disk"):
        gguflike.calibrate_activations(tmp_path, calibration=[text])


@pytest.mark.parametrize("wrong", ["name", "clip", "length"])
def test_ranges_that_make_no_sense_are_refused(calibrated: tuple[Path, Any], tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(calibrated[0].read_bytes())
    names = ["blk.0.attn_q.weight" if wrong != "name" else "blk.9.attn_q.weight"]
    clip = [np.nan if wrong == "clip" else 1.0] * (1 + (wrong == "length"))
    said = {
        "matrices": Typed(names, ValueType.ARRAY, ValueType.STRING),
        "clip": Typed(clip, ValueType.ARRAY, ValueType.FLOAT32),
        "massive": Typed([1.0], ValueType.ARRAY, ValueType.FLOAT32),
        "hybrid": Typed([True], ValueType.ARRAY, ValueType.BOOL),
    }
    restate(path, PREFIX, {PREFIX + name: value for name, value in said.items()})
    with pytest.raises(GGUFError, match="of no matrix" if wrong == "name" else "make no sense"):
        gguflike.load(path, activations="hybrid")
