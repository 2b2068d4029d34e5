"""What the first screen says, what is looked for by name, and figures of tensors against numpy and the gguf package."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import gguflike
from gguflike.blocks import FORMATS
from gguflike.cli import looked_for, main
from gguflike.cli.facts import screen
from gguflike.cli.screen import width
from gguflike.container import Typed, ValueType, reader
from gguflike.container.scales import of_blocks
from gguflike.inspect.statistics import _ends, decoded, statistics
from gguflike.inspect.summary import document, summary
from gguflike.locate import open_header
from gguflike.quality import FIGURES
from gguflike.tensor import QuantizedTensor
from tests import hub_server, tiny_gguf
from tests.hub_server import Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server.in_use(monkeypatch, tmp_path) as running:
        yield running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_gguf.write(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def facts(path: Path) -> dict[str, Any]:
    with gguflike.open(path) as file:
        return summary(file)


def changed(path: Path, target: Path, **values: Any) -> Path:
    """The same model with other metadata; "__" stands for a dot."""
    with gguflike.open(path) as file:
        metadata = file.metadata.typed_dict() | {key.replace("__", "."): value for key, value in values.items()}
        gguflike.write(target, metadata, list(file.tensors.values()))
    return target


def test_the_first_screen_says_what_a_model_is(model: Path, tmp_path: Path) -> None:
    found = facts(model)
    small = tiny_gguf.SMALL
    sizes = (found["layers"], found["width"], found["heads"], found["kv_heads"], found["head_dim"], found["context"])
    assert sizes == (small["n_layer"], small["n_embd"], small["n_head"], small["n_head_kv"], 32, small["n_ctx"])
    assert (found["runs"], found["why"], found["digests"], found["kind"]) == (True, None, "none", "model")
    assert [each["context"] for each in found["memory"]] == [32, 64, 128]
    assert [each["bytes"] for each in found["memory"]] == sorted(each["bytes"] for each in found["memory"])
    template = "{% if tools %}{{ tools }}{% endif %}{{ m['content']['type'] == 'image' }}<think></think>"
    with_template = changed(model, tmp_path / "t.gguf", tokenizer__chat_template=template)
    (row,) = facts(with_template)["templates"]
    assert row == {"name": "default", "tools": True, "thinking": True, "vision": True}
    assert facts(with_template)["digests"] == "complete"


def test_the_first_screen_fits_a_terminal(model: Path, tmp_path: Path) -> None:
    wide = changed(model, tmp_path / "w.gguf", general__name="name " * 200, general__organization="o" * 200)
    with gguflike.open(wide) as file:
        shown = screen(document(file), "w.gguf").splitlines()
    assert max(map(len, shown)) <= 80
    assert len(shown) <= 24


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"general__architecture": "lama"}, "model architecture; expected one of"),
        ({"general__type": "adapter"}, "the file is no model"),
        ({"llama__block_count": 3}, "missing"),
        ({"llama__attention__scale": 0.5}, "the file asks for what this version does not compute"),
        ({"tokenizer__ggml__model": "unheard"}, "unheard"),
    ],
)
def test_why_a_model_does_not_run_is_what_loading_says(
    model: Path, tmp_path: Path, values: dict[str, Any], why: str
) -> None:
    path = changed(model, tmp_path / "odd.gguf", **values)
    found = facts(path)
    assert not found["runs"]
    assert why in found["why"]
    with pytest.raises(gguflike.GGUFLikeError) as caught:
        gguflike.load(path)
    assert found["why"] in str(caught.value)


def test_a_machine_without_the_memory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gguflike.inspect.summary.machine_bytes", lambda: 1000)
    found = facts(model)
    assert not found["runs"]
    assert "this machine has 1,000" in found["why"]


def test_the_first_screen_compiles_nothing(model: Path) -> None:
    code = (
        "import sys; from gguflike.cli import main; main(['inspect', sys.argv[1]])\n"
        "heavy = {'numba', 'llvmlite', 'huggingface_hub', 'jinja2', 'tokenizers', 'tqdm', 'asyncio'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS"])
def test_figures_are_those_of_numpy(name: str, tmp_path: Path) -> None:
    fmt = FORMATS[name]
    values = np.random.default_rng(1).standard_normal((40, 512)).astype(np.float32)
    tensor = gguflike.quantize(values, name, name="x")
    gguflike.write(tmp_path / "x.gguf", {}, [tensor])
    theirs = gguf.quants.dequantize(tensor.rows, gguf.GGMLQuantizationType(fmt.id)).astype(np.float64)
    with gguflike.open(tmp_path / "x.gguf") as file:
        found = statistics(file, "x")
        assert looked_for.tensors(file, "x", 3, False)["x"]["values"] == pytest.approx(theirs.reshape(-1)[:3].tolist())
    assert (found.weights, found.bad) == (theirs.size, 0)
    assert (found.minimum, found.maximum) == (theirs.min(), theirs.max())
    assert found.mean == pytest.approx(theirs.mean(), abs=1e-9)
    assert found.deviation == pytest.approx(theirs.std(), rel=1e-6)
    assert sum(found.histogram) == theirs.size
    assert (found.scales is None) == (not fmt.is_quantized)


@pytest.mark.parametrize("name", [name for name, fmt in FORMATS.items() if _ends(fmt) is not None])
def test_codes_at_the_ends_of_their_range(name: str, tmp_path: Path) -> None:
    """Random codes are there as often as there are two of so many; the type's own extremes decode to its extremes."""
    fmt, rng = FORMATS[name], np.random.default_rng(2)
    blocks = np.frombuffer(rng.integers(0, 256, 400 * fmt.block_bytes, dtype=np.uint8).tobytes(), fmt.dtype).copy()
    for field in fmt.fields:
        if np.dtype(field.dtype).kind == "f":
            blocks[field.name] = 1
    gguflike.write(tmp_path / "x.gguf", {}, [QuantizedTensor("x", fmt, (400, fmt.block_size), blocks.view(np.uint8))])
    with gguflike.open(tmp_path / "x.gguf") as file:
        found = statistics(file, "x")
    by_block = decoded(blocks, fmt).reshape(400, -1)
    levels = min(len(set(row.round(3).tolist())) for row in by_block)
    assert found.saturated is not None
    assert 0.5 * 2 / 256 < found.saturated < 0.3
    assert levels > 4


def test_bad_values_are_counted(tmp_path: Path) -> None:
    values = np.array([[np.nan, np.inf, 0, 1]], np.float32)
    tensor = QuantizedTensor("x", FORMATS["F32"], (1, 4), values.view(np.uint8).reshape(-1))
    gguflike.write(tmp_path / "x.gguf", {}, [tensor])
    with gguflike.open(tmp_path / "x.gguf") as file:
        found = statistics(file, "x")
    assert (found.bad, found.zeros, found.minimum, found.maximum) == (2, 1, 0.0, 1.0)
    assert main(["inspect", str(tmp_path / "x.gguf"), "--tensor", "x", "--stats", "--values", "--json"]) == 0


def test_scales_of_every_type() -> None:
    """A block's values are proportional to its scales."""
    for fmt in FORMATS.values():
        blocks = np.full(fmt.block_bytes, 0x11, np.uint8).view(fmt.dtype)
        found = of_blocks(blocks, fmt)
        assert (found is None) == (not fmt.is_quantized), fmt.name
        assert found is None or (np.isfinite(found).all() and found.shape[0] == 1), fmt.name
    assert of_blocks(np.full(17, 127, np.uint8).view(FORMATS["MXFP4"].dtype), FORMATS["MXFP4"]) == [[1.0]]


def test_tokens_by_an_expression(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["<s>", "ab", "b", "é\x1b", "a" * 40]
    path = tmp_path / "v.gguf"
    types = Typed([3, 1, 1, 4, 1], ValueType.ARRAY, ValueType.INT32)
    gguflike.write(path, {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": types}, [])
    assert main(["inspect", str(path), "--tokens", "^[<é]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"0": {"text": "<s>", "type": "control"}, "3": {"text": "é\x1b", "type": "user_defined"}}
    assert main(["inspect", str(path), "--tokens", "^[<é]"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    for wrong in ("(", "(" * 5000, "a{99999999999999999999}"):
        assert main(["inspect", str(path), "--tokens", wrong]) == 2
        assert "no regular expression" in capsys.readouterr().err
    assert main(["inspect", str(path), "--tokens", "nothing"]) == 0


def test_names_and_values_without_end_are_cut(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long, name = "x" * 1_000_000, "k" * 60_000
    tokens = ["a", long]
    path = changed(model, tmp_path / "long.gguf", general__description=long, **{name: 1}, x__tokens=tokens)
    gguflike.write(vocabulary := tmp_path / "v.gguf", {"tokenizer.ggml.tokens": tokens}, [])
    for command in (["inspect", path, "--metadata", "--tensors"], ["diff", model, path], ["inspect", vocabulary]):
        assert main([str(each) for each in command]) in (0, 1)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) < 250
        assert len(lines) < 120
    assert main(["inspect", str(vocabulary), "--tokens", "x"]) == 0
    assert len(capsys.readouterr().out) < 400
    assert main(["inspect", str(path), "--key", "general.description"]) == 0
    assert capsys.readouterr().out == long + "\n"
    if sys.platform != "win32":
        from tests.terminals import Terminal

        with Terminal("inspect", path, "--key", "general.description") as terminal:
            assert terminal.ends() == 0
            assert 20_000 < len(terminal.text) < 20_200
            assert "… 1,000,000 characters" in terminal.text


@pytest.mark.parametrize(
    ("types", "scores", "expected"),
    [
        ([1.0, float("nan")], [float("nan"), float("-inf")], [(1.0, "NaN"), ("NaN", "-Infinity")]),
        (["a", "b"], ["x\x1b", "y"], [("a", "x\x1b"), ("b", "y")]),
        (np.array([1, 99], np.int32), np.array([True, False]), [("normal", True), ("99", False)]),
    ],
)
def test_types_and_scores_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], types: Any, scores: Any, expected: list[tuple[Any, Any]]
) -> None:
    path, start = tmp_path / "v.gguf", "tokenizer.ggml."
    metadata = {f"{start}tokens": ["a", "b"], f"{start}token_type": types, f"{start}scores": scores}
    gguflike.write(path, metadata, [])
    assert main(["inspect", str(path), "--tokens", ".", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [(found[index]["type"], found[index]["score"]) for index in ("0", "1")] == expected
    assert main(["inspect", str(path), "--tokens", "."]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_json_steers_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b[31m\x9b2J\u202e\u2028\U000e0041漢字é"
    gguflike.write(tmp_path / "v.gguf", {"general.name": text}, [])
    assert main(["inspect", str(tmp_path / "v.gguf"), "--json"]) == 0
    out = capsys.readouterr().out
    assert all(character.isprintable() for line in out.splitlines() for character in line)
    assert json.loads(out)["metadata"]["general.name"] == text


def test_sizes_that_are_empty_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = Typed([], ValueType.ARRAY, ValueType.UINT32)
    sizes = ("block_count", "embedding_length", "attention.head_count", "expert_used_count")
    metadata = {"general.architecture": "llama", "llama.expert_count": 8, **{f"llama.{key}": none for key in sizes}}
    gguflike.write(tmp_path / "e.gguf", metadata, [])
    found = facts(tmp_path / "e.gguf")
    assert (found["layers"], found["width"], found["heads"], found["experts_used"]) == (None,) * 4
    assert main(["inspect", str(tmp_path / "e.gguf")]) == 0
    assert "layers           8 experts\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "values",
    [
        [1.7e308, -1.7e308, 1.0, 2.0],  # a range and squares that overflow
        [1e308] * 4,  # a sum that does
        [5e-324, -5e-324, 0.0, 0.0],  # fewer numbers in the range than bins
        [1.0, 1.0 + 2**-52, 1.0, 1.0],
        [3e-200, 4e-200, 5e-200, 1e-200],  # squares that vanish
    ],
)
def test_figures_at_the_ends_of_what_numbers_hold(
    tmp_path: Path, values: list[float], capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "f.gguf"
    gguflike.write(path, {}, [QuantizedTensor("x", FORMATS["F64"], (4,), np.array(values).view(np.uint8))])
    with gguflike.open(path) as file:
        found = statistics(file, "x")
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / 4
    assert found.mean == pytest.approx(float(mean), rel=1e-12, abs=5e-324)
    unit = max(map(abs, exact))
    variance = sum(((value - mean) / unit) ** 2 for value in exact) / 4
    deviation = float(variance) ** 0.5 * float(unit)
    assert found.deviation == pytest.approx(deviation, rel=1e-7, abs=1e-7 * float(unit))
    assert sum(found.histogram) == 4
    assert main(["inspect", str(path), "--tensor", "x", "--stats", "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert not recwarn.list


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer of processes")
def test_an_expression_that_takes_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(looked_for, "SECONDS", 0.2)
    gguflike.write(tmp_path / "v.gguf", {"tokenizer.ggml.tokens": ["a" * 60]}, [])
    assert main(["inspect", str(tmp_path / "v.gguf"), "--tokens", "(a|aa)+b"]) == 2
    assert "takes more than 0.2 s" in capsys.readouterr().err


def test_templates_and_markdown(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed(model, tmp_path / "t.gguf", tokenizer__chat_template="{{ x }}", general__name="a|b<c>")
    assert main(["inspect", str(path), "--template"]) == 0
    assert capsys.readouterr().out == "{{ x }}\n"
    assert main(["inspect", str(path), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert r"a\|b&lt;c>" in out
    assert "| token_embd.weight |" in out
    assert main(["inspect", str(model), "--template"]) == 1
    for wrong in (["--key", "a", "--tokens", "b"], ["--stats"], ["--markdown", "--json"]):
        assert main(["inspect", str(path), *wrong]) == 2


def test_nothing_in_a_file_is_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "![x](http://e/x.png) [a](b) `c` *d* _e_ ~~f~~ $g$ &lt; h_i |"
    tensor = gguflike.quantize(np.ones(4, "f4"), "F32", name="![t](u)|")
    gguflike.write(tmp_path / "m.gguf", {"general.name": evil, "k`|": 1, "plain.key_1": 2}, [tensor])
    assert main(["inspect", str(tmp_path / "m.gguf"), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"(?<!\\)\|", line) for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {4, 7}  # of two and of five cells
    left = re.sub(r"\\.", "", "\n".join(lines))
    assert not re.search(r"[\[\]*~$]|_e_|`c`", left)
    assert "| `plain.key_1` | 2 |" in lines
    assert "h_i" in left


def test_the_quality_that_a_file_states_fits_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    numbers = {f"gguflike.quality.{name}": Typed([0.01234], ValueType.ARRAY, ValueType.FLOAT64) for name in FIGURES}
    metadata = {
        "gguflike.quality.reference": "r" * 300,
        "gguflike.quality.texts": Typed(["?!" + "t" * 90], ValueType.ARRAY, ValueType.STRING),
        "gguflike.quality.tokens": Typed([99_999], ValueType.ARRAY, ValueType.UINT64),
        **numbers,
    }
    gguflike.write(tmp_path / "q.gguf", metadata, [])
    data = (tmp_path / "q.gguf").read_bytes()
    (tmp_path / "q.gguf").write_bytes(data.replace(b"?!", b"\xff\xfe"))
    assert main(["inspect", "q.gguf"]) == 0
    out = capsys.readouterr().out
    assert "99,999" in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["inspect", "q.gguf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quality"][0]["text"].startswith("\\xff\\xfet")


def test_wide_characters_take_two_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gguflike.write(tmp_path / "w.gguf", {"general.name": "漢字" * 100}, [])
    assert main(["inspect", "w.gguf"]) == 0
    out = capsys.readouterr().out
    assert "漢字" in out
    assert max(map(width, out.splitlines())) <= 80


def test_folders(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    assert main(["inspect", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["file", "broken.gguf", "tiny.gguf"]
    assert lines[1].endswith("no: it cannot be read")
    assert lines[2].endswith("yes")
    assert main(["export", str(model), str(tmp_path / "hf")]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "hf")]) == 0
    out = capsys.readouterr().out
    assert "LlamaForCausalLM" in out
    assert out.rstrip().endswith("yes")
    assert main(["inspect", str(tmp_path / "hf"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["checkpoint"]
    assert (found["architecture"], found["converts"]) == ("llama", True)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))
    assert main(["inspect", str(tmp_path / "hf"), "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["checkpoint"]["notices"]
    assert said.startswith("taken for LlamaForCausalLM, as architectures says; by its model_type, mistral")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"unheard_of": 3}))
    assert main(["inspect", str(tmp_path / "hf")]) == 0
    assert "converts here    no: " in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["inspect", str(tmp_path / "empty")]) == 1


def test_what_is_elsewhere_is_read_by_ranges_and_counted(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "FIRST_READ", 4096)
    big = gguflike.quantize(np.ones((512, 1024), "f4"), "F32", name="x")
    gguflike.write(tmp_path / "big.gguf", {"general.architecture": "llama"}, [big])
    body = (tmp_path / "big.gguf").read_bytes()
    hub.repo("org/big", {"big.gguf": body})
    hub.files["/big.gguf"] = body
    for name in ("org/big", f"{hub.storage_url}/big.gguf"):
        assert main(["inspect", name]) == 0
        out, err = capsys.readouterr()
        assert "no: llama." in out
        assert err.startswith("read 4.1 kB of 2.1 MB of ")
    with open_header("org/big") as file:
        assert statistics(file, "x").mean == 1.0
        assert len(body) < file.fetched < 3 * len(body)  # twice, for the histogram
