"""gguflike.estimate: what is reckoned from a header is what the runner asks for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguflike
from gguflike.blocks import FORMATS
from gguflike.cli import main
from gguflike.container import TensorInfo
from gguflike.container.reader import HeaderFile
from gguflike.engine.engine import MOST_PARALLEL
from gguflike.errors import ArgumentError, GGUFError
from gguflike.estimate import MOST_USERS, Estimate, estimate, estimates, read_bandwidth
from gguflike.families import registry
from gguflike.frozen import replace
from gguflike.kernels.engine import memory
from gguflike.runner import ability, needs
from tests import tiny_gguf
from tests.interop.families.table import TABLE


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "F16"])
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
def test_it_counts_what_a_model_that_is_loaded_has(tmp_path: Path, kind: str, cache_type: str) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", kind)
    with gguflike.load(tmp_path / "m.gguf", context=128, cache_type=cache_type, threads=2) as model:
        model.logits([1, 2, 3])
        found = estimate(tmp_path / "m.gguf", 128, cache_type=cache_type, threads=2).needs
        weights, buffers = model.weights, model._passes._buffers
        assert found.cache == model.states.nbytes
        assert found.packed == weights.packed_bytes
        assert found.computed == weights.computed_bytes
        assert found.plain == weights.plain_bytes + weights.table_bytes(128)
        assert found.read == weights.matrix_bytes
        team = 2 * memory.SCRATCH_BYTES
        programs = [model._passes._one, model._passes._body, *model._passes._heads]
        assert found.buffers == buffers.written(1, programs) + team + sum(program.nbytes(2) for program in programs)


def test_users_have_caches_of_their_own(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0")
    one, three = (estimate(tmp_path / "m.gguf", 128, users=users, threads=1).needs for users in (1, 3))
    assert three.cache == 3 * one.cache
    assert three.weights == one.weights
    with gguflike.load(tmp_path / "m.gguf", context=128, threads=1) as model:
        together = model.together(3)
        assert sum(slot.states.nbytes for slot in together.slots) == three.cache
        together.close()


def test_a_header_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tiny_gguf.write(path, "Q8_0")
    with gguflike.open(path) as file:
        end = file.header_bytes
    data = path.read_bytes()
    header = HeaderFile("elsewhere", len(data), lambda start, count: data[:end][start : start + count])
    assert estimate(header, 64, threads=1) == estimate(path, 64, threads=1)


def test_no_memory_is_taken_for_a_model_that_no_machine_holds() -> None:
    array = memory.unbacked(1 << 50, np.float32)
    assert array.nbytes == 4 << 50
    assert array.reshape(1 << 10, -1).shape == (1 << 10, 1 << 40)
    assert not array[12345]


def test_sizes_of_weights_serve_for_every_context(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tiny_gguf.write(path)
    with gguflike.open(path) as file:
        model = ability.understand(file)
        weights = needs.sizes(model.graph, file.infos, model.left_out)
        for context in (16, 100, 32):
            assert needs.of_file(file, model, context, weights=weights) == needs.of_file(file, model, context)


def test_a_table_has_the_context_of_the_model(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0", n_ctx=32768)
    rows = estimates(tmp_path / "m.gguf", threads=1)
    assert [row.context for row in rows] == [n for n in (2048, 8192, 32768) for _ in range(3)]
    assert [row.cache_type for row in rows[:3]] == ["f16", "q8_0", "f32"]
    sizes = {(row.context, row.cache_type): row.needs.cache for row in rows}
    assert sizes[8192, "f32"] == 2 * sizes[8192, "f16"] == 8 * sizes[2048, "f16"]
    assert sizes[8192, "q8_0"] * 32 == sizes[8192, "f16"] * 17


def test_bounds_of_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["gguflike.estimate"]  # whose name in the package is that of the function
    monkeypatch.setattr(module, "READ_BYTES", 1 << 16)
    monkeypatch.setattr(module, "READ_SECONDS", 0.01)
    assert read_bandwidth(2) > 0
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0")
    found = estimate(tmp_path / "m.gguf", 128, bandwidth=1e9, threads=1)
    assert found.tokens_per_second == pytest.approx(1e9 / found.needs.read)
    assert found.tokens_per_second_full == pytest.approx(1e9 / (found.needs.read + found.needs.cache))


def test_a_peak_is_where_most_is_there() -> None:
    row = {"plain": 0, "packed": 100, "computed": 0, "buffers": 5, "process": 7, "read": 0, "read_cache": 0}
    early = needs.Needs(**row, cache=10, tokenizer=1, loading=50, making=2)
    assert (early.total, early.peak) == (123, 157)
    late = needs.Needs(**row, cache=100, tokenizer=1, loading=50, making=2)
    assert (late.total, late.peak) == (213, 215)
    assert Estimate(1, "f16", 1, 1, late, memory=215).fits
    assert not Estimate(1, "f16", 1, 1, late, memory=214).fits


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(ArgumentError, match="cache_type"):
        estimate(tmp_path / "m.gguf", 64, cache_type="q4_0")
    with pytest.raises(ArgumentError, match="users"):
        estimate(tmp_path / "m.gguf", 64, users=0)
    with pytest.raises(ArgumentError, match="users: out of range; expected 1 to 256"):
        estimate(tmp_path / "m.gguf", 64, users=257)
    assert MOST_USERS == MOST_PARALLEL
    gguflike.write(tmp_path / "none.gguf", {"general.architecture": "llama"}, {})
    with pytest.raises(GGUFError, match="no weights"):
        estimate(tmp_path / "none.gguf", 64)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "m.gguf")
    tiny_gguf.write(Path(path), "Q8_0", n_ctx=32768)
    assert main(["estimate", path, "-c", "128", "--users", "2", "--threads", "1", "--no-speed", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["estimates"]
    with gguflike.open(path) as file:
        want = estimate(file, 128, users=2, threads=1)
        assert ability.understand(file).longest == 32768
    assert (row["total"], row["cache"], row["users"]) == (want.needs.total, want.needs.cache, 2)
    assert row["tokens_per_second"] is None
    assert main(["estimate", path, "--no-speed"]) == 0
    shown = capsys.readouterr().out
    assert "32768" in shown
    assert "q8_0" in shown
    assert max(map(len, shown.replace(path, "F").splitlines())) <= 80
    assert main(["estimate", path, "-c", "128", "--no-speed"]) == 0
    assert "total" in capsys.readouterr().out


#: Configurations in which layers differ from each other, and whose parts ask for all that parts may ask for.
ROWS = (
    *("LlamaForCausalLM", "Gemma3ForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV2ForCausalLM", "MambaForCausalLM"),
    *("Mamba2ForCausalLM", "GraniteMoeHybridForCausalLM", "Llama4ForCausalLM", "GptOssForCausalLM", "BertModel"),
    *("KimiLinearForCausalLM", "ApertusForCausalLM", "Qwen3NextForCausalLM", "GPT2LMHeadModel"),
)


@pytest.mark.parametrize("name", ROWS)
def test_layers_that_are_alike_count_as_if_each_were_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row: Any = TABLE[name]
    config = {"architectures": [row.registered or row.model_class], **row.config}
    family = registry.for_config(config)
    lists = {key: [0.25, -0.5, 0.0, 1.0] for key in family.small if "xielu" in key}
    graph = family.graph(family.from_config({**config, **lists})[0])
    graph = replace(graph, blocks=graph.blocks * 2)  # at least two of each kind, but for what looks at other layers
    floats, small = FORMATS["F32"], FORMATS["Q8_0"]
    infos = {}
    for name, layer, tensor in graph.tensors():
        if not tensor.used and not (name.endswith("_q.bias") and layer == 1):  # which a file may have all the same
            continue
        whole = tensor.is_matrix and not name.endswith(".bias") and tensor.shape[-1] % 32 == 0
        fmt = small if whole and layer != 0 else floats
        infos[name] = TensorInfo(name, tensor.shape, fmt, 0, fmt.tensor_bytes(tensor.shape))

    def every(users: int) -> list[needs.Needs]:
        weights = needs.sizes(graph, infos, left_out=None)
        return [needs.needs(graph, infos, n, texts=users, threads=2, weights=weights) for n in (64, 700)]

    found = [every(1), every(3)]
    monkeypatch.setattr(needs, "_made", lambda make, *of: {make(*of): 1})
    assert found == [every(1), every(3)]
